"""`OpCase`: one op on one input, and pixels as a microscope gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class OpCase:
    """A job that a kernel, its reference and plain torch all do.

    Attributes:
        op: stem of the kernel's file.
        shape: of the input, in words.
        dtypes: in and out.
        n_bytes: the fewest that must move: each input read once, each output written once.
        kernel: launches the kernel.
        reference: what the kernel must equal.
        expression: what one would write in torch for speed; None where that is the reference.
        tolerance: of the relative error to the reference.
        on_cpu: what the package runs on the CPU; None where that is the reference or nothing.
    """

    op: str
    shape: str
    dtypes: str
    n_bytes: int
    kernel: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    expression: Callable[[], Tensor] | None
    tolerance: float
    on_cpu: Callable[[], Tensor] | None = None


def fluorescence(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.uint16
) -> Tensor:
    """Pixels with a noisy background and a long bright tail.

    Uniform ones would spread a histogram's counts over all values, as no image does.
    """
    generator = torch.Generator(device).manual_seed(0)
    bright = torch.rand(shape, device=device, generator=generator).pow_(8).mul_(20_000)
    bright.add_(torch.randn(shape, device=device, generator=generator).mul_(15)).add_(200)
    top = torch.iinfo(dtype).max
    return bright.mul_(top / 65_535).clamp_(0, top).to(dtype)


def fields(device: torch.device) -> tuple[int, int, int]:
    """Planes of a benchmark: more bytes than any cache on a GPU, few on a CPU."""
    return (96, 1120, 1120) if device.type == "cuda" else (4, 1120, 1120)


def named(planes: Tensor) -> str:
    """The shape of planes in words."""
    return "{} planes of {} x {} px".format(*planes.shape)
