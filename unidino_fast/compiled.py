"""Functions that numba compiles: when it is worth it, and once for a machine."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unidino_fast.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function")

_LOG = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has numba compile a function, which leaves the interpreter to other threads when it runs.

    What was compiled is kept beside the file, or in the user's cache folder (`NUMBA_CACHE_DIR` says
    where), for as long as the file stays as it is: nothing from other files may be a constant in
    the function.
    """
    from numba import njit

    try:
        found: Callable[..., Any] = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder to keep it in
        found = njit(nogil=True)(function)
    return found


class Compiled(Generic[Function]):
    """A compiled function, from when what it is for has been done often; for many threads.

    Args:
        make: imports and tries it, which takes seconds and 150 MB where it is compiled.
        after: how much is done without it, in whatever unit is counted.
        lack: what to say where it cannot be had.
    """

    def __init__(self, make: Callable[[], Function], *, after: int, lack: str) -> None:
        self._make = make
        self._left = after
        self._lack = lack
        self._lock = threading.Lock()
        self._is_made = False
        self._made: Function | None = None

    def for_more(self, amount: int) -> Function | None:
        """The function for an amount of work, which is counted; None: do without."""
        if self._is_made:
            return self._made
        with self._lock:
            self._left -= amount
            if self._left >= 0 or self._is_made:
                return None
            self._is_made = True  # other threads do without, meanwhile
        try:
            self._made = self._make()
        except Exception as error:  # a compiler's own, of any kind
            _LOG.warning("%s: %s", self._lack, first_line(error))
        return self._made
