"""Two worker processes for all tests of a file: starting them takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from unidino_fast.cluster.session import local_session
from unidino_fast.engines.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unidino_fast.cluster.session import Session


@pytest.fixture(scope="session")
def spec(tiny_weights: Path) -> ModelSpec:
    return ModelSpec.load(
        tiny_weights, engine="eager", device="cpu", precision="fp32", tile=None, batch_size=None
    )


@pytest.fixture(scope="module")
def workers(spec: ModelSpec) -> Iterator[Session]:
    with local_session(2, spec) as session:
        yield session
