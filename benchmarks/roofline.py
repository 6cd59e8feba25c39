"""What the machine can do at best: a large matrix product and a large copy.

Both are candidates like the others, measured in the same rounds, so that a share of the limit is
not a comparison of two moments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from unidino_fast.benchmarks.measure import Candidate
from unidino_fast.engines.fp8 import scaled_product
from unidino_fast.ops import quantize_rows

if TYPE_CHECKING:
    from unidino_fast.choices import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MATRIX_EDGE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Far more than any cache holds."""


def matrix_product(device: torch.device, precision: Precision) -> Candidate:
    """A product of two square matrices of normal numbers; its work is in operations.

    The precision is what torch calls so: float32 without tensor-core shortcuts unless the program
    allowed them. In fp8 rows and columns have scales, and the result is bf16.
    """
    edge = MATRIX_EDGE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    name, work = f"limit: matrix product of {edge} in {precision}", 2.0 * edge**3
    left, right = (torch.randn(edge, edge, device=device, generator=generator) for _ in range(2))
    if precision == "fp8":
        (x, x_scales), (weight, scales) = quantize_rows(left), quantize_rows(right)
        return Candidate(
            name,
            lambda: scaled_product(x, x_scales[:, None], weight, scales[None], None),
            work,
        )
    left, right = left.to(DTYPES[precision]), right.to(DTYPES[precision])
    out = torch.empty_like(left)
    return Candidate(name, lambda: torch.matmul(left, right, out=out), work)


def matrix_products(device: torch.device, precision: Precision) -> list[Candidate]:
    """Ways to make that product, the fastest of which is the limit.

    On the CPU in float32 that may be numpy's: torch's library is tuned for one maker's processors,
    and networks that other libraries run would exceed a limit set by it.
    """
    own = matrix_product(device, precision)
    if device.type != "cpu" or precision != "fp32":
        return [own]
    edge = MATRIX_EDGE[device.type]
    left, right = np.random.default_rng(0).standard_normal((2, edge, edge), dtype=np.float32)
    out = np.empty_like(left)
    by_numpy = Candidate(f"{own.name} by numpy", lambda: np.matmul(left, right, out=out), own.work)
    return [own, by_numpy]


def copy(device: torch.device) -> Candidate:
    """A copy within the device's memory; its work is in bytes, read and written."""
    n_bytes = COPY_BYTES[device.type]
    source = torch.randint(255, (n_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Candidate(
        f"limit: copy of {n_bytes >> 20} MiB", lambda: target.copy_(source), 2.0 * n_bytes
    )
