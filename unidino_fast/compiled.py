"""Functions that numba compiles: when it is worth it, and once for a machine."""

from __future__ import annotations

import importlib
import logging
import threading
from contextlib import suppress
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
    the function. Where it cannot be kept, or what was kept is damaged, it is compiled anew.
    """
    from numba import njit
    from numba.core import caching

    cache: Any = caching.FunctionCache

    class Kept(cache):  # type: ignore[misc]
        """As numba's, which gives up what it compiled where the disk is full."""

        def load_overload(self, *arguments: Any) -> Any:
            try:
                return super().load_overload(*arguments)
            except Exception:  # of a file that is cut short or damaged, anything
                with suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, *arguments: Any) -> None:
            with suppress(OSError):
                super().save_overload(*arguments)

    found: Any = njit(nogil=True)(function)
    with suppress(RuntimeError, AttributeError):  # no folder to keep it in; nothing is compiled
        found._cache = Kept(found.py_func)
    compiled: Callable[..., Any] = found
    return compiled


def callback(function: Callable[..., Any], signature: Any) -> Any:
    """Has numba compile a function as C has them; its `address` is all that callers need to know.

    It is kept as `compiled` keeps functions. It is never to raise: nobody would be told.
    """
    from numba import cfunc
    from numba.core import caching

    cache: Any = caching.FunctionCache
    kept = cfunc(signature, cache=True)
    try:
        return kept(function)
    except (OSError, RuntimeError):  # no room, or no folder to keep it in
        return cfunc(signature)(function)
    except Exception:  # of a file that is cut short or damaged, anything
        with suppress(OSError):
            cache(function).flush()
            return kept(function)
        return cfunc(signature)(function)


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
            # all of it first: of two threads that import parts of it, each waits for the other
            importlib.import_module("numba")
            self._made = self._make()
        except Exception as error:  # a compiler's own, of any kind
            _LOG.warning("%s: %s", self._lack, first_line(error))
        except BaseException:  # interrupted: the next one tries again
            self._is_made = False
            raise
        return self._made
