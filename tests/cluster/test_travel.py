"""A backbone in plain containers computes what it did, to the last bit."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
import torch

from unidino_fast.cluster.travel import for_travel, plain_module
from unidino_fast.engines.graph import InferenceGraph

if TYPE_CHECKING:
    from unidino_fast.engines.spec import ModelSpec


def test_the_graph_is_the_same(spec: ModelSpec) -> None:
    travelled = pickle.loads(pickle.dumps(for_travel(spec)))
    patches = torch.rand(3, 4, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = InferenceGraph(spec.backbone)(patches)
        found = InferenceGraph(travelled.backbone)(patches)
    assert torch.equal(found, expected)
    assert travelled.backbone.digest == spec.backbone.digest
    assert not travelled.backbone.module.training


def test_nothing_of_timm_is_left(spec: ModelSpec) -> None:
    plain = plain_module(spec.backbone.module)
    modules = {type(module).__module__.partition(".")[0] for module in plain.modules()}
    assert modules == {"torch"}
    before, after = spec.backbone.module.state_dict(), plain.state_dict()
    assert list(before) == list(after)
    assert all(after[name] is not None and torch.equal(before[name], after[name]) for name in after)


def test_weights_are_shared_not_copied(spec: ModelSpec) -> None:
    plain = plain_module(spec.backbone.module)
    pairs = zip(spec.backbone.module.parameters(), plain.parameters(), strict=True)
    assert all(before is after for before, after in pairs)


@pytest.mark.parametrize("layer", [torch.nn.Linear(2, 3), torch.nn.LayerNorm(4)])
def test_layers_of_torch_stay(layer: torch.nn.Module) -> None:
    assert plain_module(layer) is layer
