"""Work that is shared among threads, each with matrix products of its own.

Many products at a time on one core each need not wait for one another, as the threads of one
product do at its end: on a machine that others use too, that waiting costs more than the product.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import ThreadpoolController

from unidino_fast.cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

_VALUES_WORTH_THREADS = 4_000_000


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], n_threads: int | None = None
) -> Iterator[Result]:
    """Results in the order of the items, as they are asked for.

    No more than two items a thread are ahead of the result that is taken. When one fails, or nobody
    takes the rest, those that have not begun are dropped. Meanwhile numpy's products take one core
    each; with one thread there is none but the caller's, and products have all cores.

    Args:
        work: spends its time where the interpreter is not locked: in numpy, Polars, trees.
        items: may be endless.
        n_threads: None for one a core that this process may use.
    """
    n_threads = n_threads or usable_cores()
    if n_threads == 1:
        yield from map(work, items)
        return
    with products_on_one_core():
        pool = ThreadPoolExecutor(n_threads)
        try:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def products_on_one_core() -> Iterator[None]:
    """Numpy's products and factorizations take one core.

    Those of small matrices are faster so: an SVD of 96 x 1,920 takes 10 ms on one core, and on two
    up to 150, which they spend on waiting for one another.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


def threads_for(n_values: int) -> int | None:
    """`n_threads` for work on so many numbers: one where threads cost more than they save."""
    return 1 if n_values < _VALUES_WORTH_THREADS else None


@cache
def _blas() -> ThreadpoolController:
    """Looked for once, which takes 5 ms: numpy's is loaded before anybody has work for it."""
    return ThreadpoolController()
