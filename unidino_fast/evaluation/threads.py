"""Work that is shared among threads, each with a matrix product of its own.

Many products at a time on one core each need not wait for one another, as the threads of one
product do at its end: on a machine that others use too, that waiting costs more than the product.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_limits

from unidino_fast.cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items; a few more than there are cores are held at a time."""
    cores = usable_cores()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * cores:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
