"""Every kernel compiled for four GPU generations, without a GPU: registers and vector widths.

What is compiled are the launchers' own plans for a plane of 1080 x 1080 px and tiles of 224 px.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from unidino_fast.kernels.add_norm import add_norm_kernel, plan_add_norm
from unidino_fast.kernels.intensity_range import (
    count_kernel,
    find_kernel,
    percentile_kernel,
    plan_find,
    plan_percentile,
    plan_pixels,
    refine_kernel,
)
from unidino_fast.kernels.quantize_rows import plan_quantize_rows, quantize_rows_kernel
from unidino_fast.kernels.segment_mean import plan_segment_mean, segment_mean_kernel
from unidino_fast.kernels.tile_normalize import plan_tile_normalize, tile_normalize_kernel
from unidino_fast.kernels.tile_signal import plan_tile_signal, tile_signal_kernel

CAPABILITIES = [80, 90, 100, 120]
EDGE = 1080
TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int16: "i16",
    torch.uint16: "u16",
    torch.uint32: "u32",
    torch.uint8: "u8",
}
ALIGNED = ("tile_stride", "row_stride", "dim", "n_columns")
LOAD_16, STORE_16 = r"ld\.global[.\w]*\.v4\.b32", r"st\.global[.\w]*\.v4\.b32"
LOAD_8 = r"ld\.global[.\w]*\.v2\.b32"
NARROW_LOAD = r"ld\.global[.\w]*?(?<!v4)(?<!v2)\.b(8|16|32) "
NARROW_STORE = r"st\.global[.\w]*?(?<!v4)(?<!v2)\.b(8|16|32) "


def compiled(kernel: Any, constants: dict[str, Any], capability: int, **types: str) -> str:
    """PTX of a kernel; pointers and the integers in `ALIGNED` are divisible by 16."""
    names = kernel.arg_names
    aligned = [name for name, kind in types.items() if kind[0] == "*" or name in ALIGNED]
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items() if name in names},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {name: value for name, value in constants.items() if name not in names}
    target = GPUTarget("cuda", capability, 32)
    ptx: str = triton.compile(source, target=target, options=options).asm["ptx"]
    return ptx


def spilled(ptx: str, capability: int, folder: Any) -> list[int]:
    """Bytes of spill stores and loads that the assembler which Triton ships reports."""
    path = folder / "kernel.ptx"
    path.write_text(ptx)
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    done = subprocess.run(
        [get_ptxas(capability).path, "-v", "--gpu-name", target[1], str(path), "-o", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    assert len(found) == 2
    return [int(value) for value in found]


def compiled_tile_normalize(
    pixel: torch.dtype, value: torch.dtype, patch: int, capability: int, *, width: int
) -> str:
    constants = plan_tile_normalize(
        pixel,
        plane_stride=EDGE * width,
        row_stride=width,
        tile=224,
        stride=224,
        patch=patch,
        clip=True,
    )
    return compiled(
        tile_normalize_kernel,
        constants,
        capability,
        planes_ptr=f"*{TYPES[pixel]}",
        low_ptr="*fp64",
        span_ptr="*fp64",
        out_ptr=f"*{TYPES[value]}",
        **dict.fromkeys(
            ("plane_units", "row_units", "step_units", "tiles_down", "tiles_across"), "i32"
        ),
    )


def test_rows_of_odd_width_are_read_pixel_by_pixel() -> None:
    """The price of a width that 8 does not divide; and that the patterns here can fail."""
    ptx = compiled_tile_normalize(torch.uint16, torch.bfloat16, 16, 90, width=EDGE + 1)
    assert re.search(NARROW_LOAD, ptx)
    assert not re.search(LOAD_16, ptx)


TILES = {"tile": 4, "stride": 4}
ONES = {
    "tile_normalize": (
        tile_normalize_kernel,
        plan_tile_normalize(
            torch.uint32, plane_stride=16, row_stride=4, patch=2, clip=True, **TILES
        ),
        {"planes_ptr": "*u32", "low_ptr": "*fp64", "span_ptr": "*fp64", "out_ptr": "*bf16"},
    ),
    "tile_signal": (
        tile_signal_kernel,
        plan_tile_signal(plane_stride=16, row_stride=4, **TILES),
        {"planes_ptr": "*u16", "counts_ptr": "*i32"},
    ),
    "count": (
        count_kernel,
        plan_pixels(torch.uint16, n_pixels=16),
        {"planes_ptr": "*u16", "counts_ptr": "*i32"},
    ),
    "refine": (
        refine_kernel,
        plan_pixels(torch.uint16, n_pixels=16),
        {"planes_ptr": "*u16", "counts_ptr": "*i32", "found_ptr": "*i32"},
    ),
    "quantize_rows": (
        quantize_rows_kernel,
        plan_quantize_rows(n_columns=1),
        {"x_ptr": "*bf16", "values_ptr": "*fp8e4nv", "scales_ptr": "*fp32"},
    ),
    "segment_mean": (
        segment_mean_kernel,
        plan_segment_mean(n_tiles=1),
        {"features_ptr": "*bf16", "keep_ptr": "*u8", "out_ptr": "*fp32"},
    ),
    "add_norm": (
        add_norm_kernel,
        plan_add_norm(dim=1),
        {
            **dict.fromkeys(("stream_ptr", "branch_ptr", "out_ptr"), "*fp16"),
            **dict.fromkeys(("weight_ptr", "bias_ptr"), "*fp32"),
            "epsilon": "fp32",
        },
    ),
}


@pytest.mark.parametrize("name", ONES)
def test_integers_of_one_compile(name):
    """Triton turns an integer argument of 1 into a constant, which has fewer methods."""
    kernel, constants, pointers = ONES[name]
    ones = {arg: 1 for arg in kernel.arg_names if arg not in constants and arg not in pointers}
    assert ones
    assert compiled(kernel, constants | ones, 90, **pointers)


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
class TestCompiled:
    @pytest.mark.parametrize(
        ("pixel", "value", "patch", "load"),
        [
            (torch.uint16, torch.bfloat16, 16, LOAD_16),
            (torch.uint16, torch.float32, 16, LOAD_16),
            (torch.uint16, torch.float32, 224, LOAD_16),
            (torch.uint8, torch.bfloat16, 16, LOAD_8),  # what fills one 16-byte store
            (torch.uint32, torch.bfloat16, 16, LOAD_16),
            (torch.float32, torch.bfloat16, 16, LOAD_16),
        ],
        ids=["u16-bf16", "u16-fp32", "u16-fp32-image", "u8-bf16", "u32-bf16", "fp32-bf16"],
    )
    def test_tile_normalize(self, pixel, value, patch, load, capability, tmp_path):
        ptx = compiled_tile_normalize(pixel, value, patch, capability, width=EDGE)
        assert spilled(ptx, capability, tmp_path) == [0, 0]
        assert re.search(load, ptx)
        assert re.search(STORE_16, ptx)
        assert not re.search(NARROW_LOAD, ptx)  # low and span are b64
        assert not re.search(NARROW_STORE, ptx)
        # the interpreter cannot show either: it divides as numpy does, and cuts off
        assert "div.rn.f32" in ptx
        assert "div.full.f32" not in ptx
        if value == torch.bfloat16:
            assert "cvt.rn.bf16x2.f32" in ptx

    @pytest.mark.parametrize(
        ("kernel", "pixel"),
        [
            (count_kernel, torch.uint8),
            (count_kernel, torch.uint16),
            (refine_kernel, torch.uint16),
            (refine_kernel, torch.int16),
        ],
        ids=["count-u8", "count-u16", "refine-u16", "refine-i16"],
    )
    def test_counting(self, kernel, pixel, capability, tmp_path):
        pointers = {"counts_ptr": "*i32", "found_ptr": "*i32"}
        ptx = compiled(
            kernel,
            plan_pixels(pixel, n_pixels=EDGE * EDGE),
            capability,
            planes_ptr=f"*{TYPES[pixel]}",
            pixel_units="i32",
            **{name: kind for name, kind in pointers.items() if name in kernel.arg_names},
        )
        assert spilled(ptx, capability, tmp_path) == [0, 0]
        assert re.search(LOAD_16, ptx)
        pixels = ptx if kernel is count_kernel else ptx[re.search(LOAD_16, ptx).start() :]
        assert not re.search(NARROW_LOAD, pixels)  # before them, what was found
        assert re.search(r"(atom|red)[.\w:]*shared", ptx)  # counted near by, not in memory

    @pytest.mark.parametrize("pixel", [torch.uint8, torch.uint16, torch.int16], ids=TYPES.get)
    def test_search(self, pixel, capability, tmp_path):
        pointers = {"counts_ptr": "*i32", "found_ptr": "*i32"}
        ptx = compiled(find_kernel, plan_find(n_ranks=4), capability, ranks_ptr="*i32", **pointers)
        assert spilled(ptx, capability, tmp_path) == [0, 0]
        ptx = compiled(
            percentile_kernel,
            plan_percentile(pixel),
            capability,
            shares_ptr="*fp64",
            out_ptr="*fp64",
            **pointers,
        )
        assert spilled(ptx, capability, tmp_path) == [0, 0]
        # the interpreter cannot show it: a product that is not rounded would be another number
        assert "mul.rn.f64" in ptx
        assert "fma.rn.f64" not in ptx

    @pytest.mark.parametrize(
        ("pixel", "load"), [(torch.uint8, LOAD_8), (torch.uint16, LOAD_16)], ids=["u8", "u16"]
    )
    def test_tile_signal(self, pixel, load, capability, tmp_path):
        ptx = compiled(
            tile_signal_kernel,
            plan_tile_signal(plane_stride=EDGE * EDGE, row_stride=EDGE, tile=224, stride=224),
            capability,
            planes_ptr=f"*{TYPES[pixel]}",
            counts_ptr="*i32",
            **dict.fromkeys(
                ("plane_units", "row_units", "step_units", "tiles_down", "tiles_across"), "i32"
            ),
        )
        assert spilled(ptx, capability, tmp_path) == [0, 0]
        assert re.search(load, ptx)
        assert not re.search(NARROW_LOAD, ptx)

    @pytest.mark.parametrize("value", [torch.float32, torch.bfloat16], ids=TYPES.get)
    def test_segment_mean(self, value, capability, tmp_path):
        ptx = compiled(
            segment_mean_kernel,
            plan_segment_mean(n_tiles=80),
            capability,
            features_ptr=f"*{TYPES[value]}",
            keep_ptr="*u8",
            out_ptr="*fp32",
            **dict.fromkeys(("channel_stride", "tile_stride", "n_tiles", "dim"), "i32"),
        )
        assert spilled(ptx, capability, tmp_path) == [0, 0]

    @pytest.mark.parametrize("dim", [192, 384, 768, 1024, 1536])
    @pytest.mark.parametrize("stream", [torch.float32, torch.float16], ids=TYPES.get)
    def test_add_norm(self, stream, dim, capability, tmp_path):
        ptx = compiled(
            add_norm_kernel,
            plan_add_norm(dim=dim),
            capability,
            stream_ptr=f"*{TYPES[stream]}",
            **dict.fromkeys(("branch_ptr", "out_ptr"), "*bf16"),
            **dict.fromkeys(("weight_ptr", "bias_ptr"), "*fp32"),
            n_rows="i32",
            epsilon="fp32",
        )
        assert spilled(ptx, capability, tmp_path) == [0, 0]
        assert re.search(LOAD_16, ptx)
        assert re.search(STORE_16, ptx)
        assert not re.search(NARROW_LOAD, ptx)
        assert not re.search(NARROW_STORE, ptx)


@pytest.mark.parametrize("columns", [384, 1536])
@pytest.mark.parametrize("value", [torch.float32, torch.bfloat16], ids=TYPES.get)
@pytest.mark.parametrize("capability", [89, 90, 100, 120], ids="sm_{}".format)  # 80 has no e4m3
def test_quantize_rows(capability, value, columns, tmp_path):
    ptx = compiled(
        quantize_rows_kernel,
        plan_quantize_rows(n_columns=columns),
        capability,
        x_ptr=f"*{TYPES[value]}",
        values_ptr="*fp8e4nv",
        scales_ptr="*fp32",
        **dict.fromkeys(("row_stride", "n_rows", "n_columns"), "i32"),
    )
    assert spilled(ptx, capability, tmp_path) == [0, 0]
    assert re.search(LOAD_16, ptx)
    # the interpreter cannot show it; sm_89 gets there by float16
    assert f"cvt.rn.satfinite.e4m3x2.{'f16x2' if capability == 89 else 'f32'}" in ptx
    assert ptx.count("div.rn.f32") > 1
