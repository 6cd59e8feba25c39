"""Looks at planes as soon as they are read, while they are in the caches."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Pixels = NDArray[Any]
    Note = Callable[[Pixels, int, int | None], Any]


class Look:
    """Takes a look at each plane of a field, once its pixels are all there.

    When the last plane of a field is there, the first has left the caches, and a look at it takes
    as long as memory does.

    Args:
        note: says something of a plane (Y, X), given its number in the field and its checksum, if
            that is known. It is asked by the threads that read, of several planes at a time.
        n_parts: in how many parts each plane is read.

    Attributes:
        noted: what `note` said, plane by plane.
    """

    def __init__(self, note: Note, n_parts: Sequence[int]) -> None:
        self._note = note
        self._left = list(n_parts)
        self._lock = threading.Lock()
        self.noted: list[Any] = [None] * len(n_parts)

    def take(self, pixels: Pixels, numbers: Iterable[int], checksum: int | None = None) -> None:
        """Another part of some planes of the pixels (C, Y, X) is there; raises what `note` does.

        Args:
            pixels: of the field.
            numbers: of the planes.
            checksum: XXH3 (64 bits) of the one plane, if that part is all of it, and if known.
        """
        complete = []
        with self._lock:
            for number in numbers:
                self._left[number] -= 1
                if not self._left[number]:
                    complete.append(number)
        for number in complete:
            self.noted[number] = self._note(pixels[number], number, checksum)
