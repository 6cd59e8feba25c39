"""Fixtures of the tests of reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from unidino_fast.compiled import Compiled
from unidino_fast.reading import placing
from unidino_fast.reading.codecs import blosc_into, zstd_into

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Has compiled code decode from the first chunk on: its chunks at each call, and those taken.

    Threads that read at once are noted in any order.
    """
    found: list[tuple[int, int]] = []

    def noting(make: Callable[[], Any]) -> Compiled[Any]:
        place = make()

        def noted(stored: Any, bounds: Any, *arguments: Any) -> int:
            n_taken: int = place(stored, bounds, *arguments)
            found.append((len(bounds) - 1, n_taken))
            return n_taken

        choice = Compiled(lambda: noted, after=-1, lack="")
        choice.for_more(1)  # other threads would do without until it is made
        return choice

    monkeypatch.setitem(placing._COMPILED, blosc_into, noting(placing._blosc))
    monkeypatch.setitem(placing._COMPILED, zstd_into, noting(placing._zstd))
    return found
