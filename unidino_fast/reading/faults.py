"""What is said of a chunk that cannot be read."""

from __future__ import annotations

from unidino_fast.errors import PixelError, first_line
from unidino_fast.names import one_line


def chunk_error(key: str, reason: BaseException | str) -> PixelError:
    """The error that names a stored object and why it cannot be read."""
    why = reason if isinstance(reason, str) else first_line(reason)
    return PixelError(
        f"chunk {key} cannot be read ({one_line(why)}): restore it from its source, or leave its"
        " well out with --on-error skip"
    )
