"""The graph with candidate kernels gives the graph's features, and runs the kernels it names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from unidino_fast.backbones import Backbone, open_backbone
from unidino_fast.benchmarks.candidates import OURS, Setting, kernel_builders
from unidino_fast.benchmarks.command import run_bench
from unidino_fast.benchmarks.kernel_graph import (
    CANDIDATES,
    KernelGraph,
    fitting_candidates,
    unfit,
)
from unidino_fast.engines.graph import InferenceGraph
from unidino_fast.errors import UsageError

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def backbone_of(folder: Path, **sizes: int) -> Backbone:
    """A small backbone with norms and biases that are not the ones and zeros of a new one."""
    torch.manual_seed(0)
    usual = {"img_size": 32, "embed_dim": 64, "depth": 3, "num_heads": 2}
    module = timm.create_model(
        "vit_small_patch16_224", in_chans=1, num_classes=0, **(usual | sizes)
    )
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.3 * torch.randn(tensor.shape))
    torch.save(module.state_dict(), folder / "small.pth")
    return open_backbone(folder / "small.pth")


@pytest.mark.parametrize("input_norm", ["identity", "per_tile"])
def test_without_candidates_it_is_the_graph(tiny_weights: Path, input_norm: str) -> None:
    backbone = open_backbone(tiny_weights.parent / "flat.pth", input_norm=input_norm)  # type: ignore[arg-type]
    patches = torch.rand(3, 4, 256, generator=torch.Generator().manual_seed(0))
    before = {name: one.clone() for name, one in backbone.module.state_dict().items()}
    with torch.no_grad():
        expected = InferenceGraph(backbone)(patches)
        same = KernelGraph(backbone, torch.float32, ())(patches)
        narrow = KernelGraph(backbone, torch.bfloat16, ())(patches)
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-5)
    assert narrow.dtype == torch.bfloat16
    assert torch.cosine_similarity(narrow.float(), expected).min() > 0.999
    for name, one in backbone.module.state_dict().items():
        assert torch.equal(one, before[name])  # left as it was, and in its dtype


def test_kernels_in_the_interpreter(tmp_path: Path) -> None:
    """Every set of candidates, alone and compiled; in float16, which the interpreter multiplies."""
    backbone_of(tmp_path)
    code = f"""
import itertools, torch
from collections import Counter
from unidino_fast import kernels
from unidino_fast.backbones import open_backbone
from unidino_fast.benchmarks.kernel_graph import CANDIDATES, KernelGraph
from unidino_fast.engines.graph import InferenceGraph

calls = Counter()
def counted(name, run):
    def call(*arguments, **options):
        calls[name] += 1
        return run(*arguments, **options)
    setattr(kernels, name, call)
for name in CANDIDATES:
    counted(name, getattr(kernels, name))

backbone = open_backbone({str(tmp_path / "small.pth")!r})
patches = torch.rand(3, 4, 256, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    expected = InferenceGraph(backbone)(patches)
    for n in range(4):
        for used in itertools.combinations(CANDIDATES, n):
            calls.clear()
            graph = KernelGraph(backbone, torch.float16, used)
            found = graph(patches)
            low = float(torch.cosine_similarity(found.float(), expected).min())
            assert low > 0.99999, (used, low)
            twice = 2 if "mlp" not in used else 1  # fc1 as well
            each = dict(norm_linear=2 * twice, attention=2, mlp=2)  # two blocks before the last
            assert calls == {{name: each[name] for name in used}}, (used, calls)
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, backend="aot_eager")
    assert torch.equal(compiled(patches), found)
    assert calls["mlp"] == 4
print("all sets")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout == "all sets\n"


def test_what_fits(tmp_path: Path) -> None:
    assert fitting_candidates(open_backbone("random:0")) == CANDIDATES
    odd = backbone_of(tmp_path)
    vit: Any = odd.module
    vit.blocks[0].attn.num_heads = 4
    assert unfit(odd, "attention") == "attention takes 32 or 64 features a head, not 16"
    large = backbone_of(tmp_path, embed_dim=768, num_heads=12, depth=1)
    assert fitting_candidates(large) == ("norm_linear", "attention")
    with pytest.raises(UsageError, match="mlp takes multiples of 64 features up to 384, not 768"):
        KernelGraph(large, torch.bfloat16, ("mlp",))
    with pytest.raises(UsageError, match="candidate 'warp' is unknown: use norm_linear"):
        KernelGraph(odd, torch.bfloat16, ("warp",))


def test_names_say_which(tiny_weights: Path) -> None:
    backbone, cuda = open_backbone(tiny_weights), torch.device("cuda")
    sets = (CANDIDATES, ())
    assert list(kernel_builders(Setting(backbone, cuda, "bf16", 2), sets)) == [
        f"{OURS} graph with norm_linear + attention + mlp",
        f"{OURS} graph with no candidate kernel",
    ]
    assert kernel_builders(Setting(backbone, cuda, "fp32", 2), sets) == {}


@pytest.mark.parametrize(
    ("what", "said"), [("model", "run on CUDA in bf16 and fp16"), ("kernels", "belong to bench")]
)
def test_candidates_where_they_do_not_run(tiny_weights: Path, what: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_bench(what, weights=str(tiny_weights), device="cpu", candidates=True)  # type: ignore[arg-type]
