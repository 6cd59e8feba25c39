"""What compiled code did, as the tests of reading note it."""

from __future__ import annotations


class Steps(list[tuple[int, int]]):
    """Chunks at each call of compiled code, and those that it took.

    Attributes:
        parts: (path, offset, length) of each chunk that it was to read from a file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[str, int, int]] = []
