"""Looks at planes as soon as a step has read them, before others push them out of the caches."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from unidino_fast.reading.watcher import NOTHING, unwatched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from unidino_fast.reading.watcher import Known, Watching

    Pixels = NDArray[Any]
    Note = Callable[[Pixels, Sequence[int], Sequence[Known]], Sequence[Any]]


class Look:
    """Takes a look at the planes of a field, a few at a time, once their pixels are all there.

    When the last plane of a field is there, the first has left the caches, and a look at it takes
    as long as memory does.

    Args:
        note: says something of each of some planes, given the pixels (C, Y, X) of the field, which
            planes they are, and what is known of each by then. It is asked by the threads that
            read, of several fields at a time.
        n_parts: in how many parts each plane is read.
        watching: says what is told of planes while they are decoded.

    Attributes:
        noted: what `note` said, plane by plane.
    """

    def __init__(self, note: Note, n_parts: Sequence[int], watching: Watching = unwatched) -> None:
        self.watching = watching
        self._note = note
        self._left = list(n_parts)
        self._lock = threading.Lock()
        self.noted: list[Any] = [None] * len(n_parts)

    def take(self, pixels: Pixels, numbers: Sequence[int], known: Sequence[Known] = ()) -> None:
        """Another part of some planes of the pixels (C, Y, X) is there; raises what `note` does.

        Args:
            pixels: of the field.
            numbers: of the planes; one that several parts are of stands there for each.
            known: what is known of each plane, if those parts are all of it; or nothing.
        """
        complete = {}
        with self._lock:
            for number, one in zip(numbers, known or [NOTHING] * len(numbers), strict=True):
                self._left[number] -= 1
                if not self._left[number]:
                    complete[number] = one
        if complete:
            said = self._note(pixels, list(complete), list(complete.values()))
            for number, of_plane in zip(complete, said, strict=True):
                self.noted[number] = of_plane
