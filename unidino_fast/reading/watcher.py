"""What goes over planes while they are decoded, and what is known of a plane by then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Shape = tuple[int, int]
    Watching = Callable[[Shape, np.dtype[Any]], "Watcher | None"]
    """What watches planes (H, W) of a dtype, in this thread; None for none."""


class Watcher(NamedTuple):
    """Compiled code that goes over the pixels of planes while the caches hold them.

    Behind the last of a plane's blocks the first have left the caches, and to go over them takes
    half as long again.

    Attributes:
        function: address of `void (int64_t *state, uint16_t *plane, int64_t first, int64_t n,
            int64_t *found)`, which is told of each `n` pixels from `first` on as soon as they are
            there, in order. A `first` of 0 begins with another plane. The first of `found` is 0
            or more; where memory gives out, nothing is written there.
        state: its own, of one thread.
        n_found: numbers that `found` takes with the last pixels of a plane.
    """

    function: int
    state: NDArray[np.int64]
    n_found: int

    @property
    def address(self) -> int:
        """Of the state."""
        return self.state.ctypes.data


def unwatched(_: Shape, __: np.dtype[Any]) -> None:
    """Nothing but checksums."""


class Known(NamedTuple):
    """What is known of a plane from when it was decoded block by block to where it belongs.

    Attributes:
        checksum: XXH3 (64 bits) of its pixels; 0: nothing is known.
        found: (F,): what a `Watcher` found; None where nothing is known, or nothing watched.
    """

    checksum: int
    found: NDArray[np.int64] | None


NOTHING = Known(0, None)
"""Of a plane that was put together otherwise."""
