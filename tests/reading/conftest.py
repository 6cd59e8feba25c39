"""Fixtures of the tests of reading."""

from __future__ import annotations

from typing import Any

import pytest
from steps import Steps

from unidino_fast.compiled import Compiled
from unidino_fast.reading import placing


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Has compiled code decode from the first chunk on, and notes what it does.

    Threads that read at once are noted in any order.
    """
    found = Steps()
    compiled = placing._decoders()

    def place(*arguments: Any) -> bool:
        is_taken = compiled.place(*arguments)
        found.append((1, int(is_taken)))
        return is_taken

    def fetch(chunk: Any, paths: Any, parts: Any, *arguments: Any) -> int:
        n_taken = compiled.fetch(chunk, paths, parts, *arguments)
        found.append((len(parts), n_taken))
        for at, offset, length in parts[: n_taken + 1].tolist():
            path = paths[at:].tobytes().split(b"\0")[0].decode()
            found.parts.append((path, offset, length))
        return n_taken

    choice = Compiled(lambda: placing._Decoders(place, fetch), after=-1, lack="")
    choice.for_more(1)  # other threads would do without until it is made
    monkeypatch.setattr(placing, "_COMPILED", choice)
    return found
