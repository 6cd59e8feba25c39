"""The self-check: a fast engine must agree with the reference on tiles of the plate at hand.

Two measures. The cosine of embeddings is what precisions are known by, but embeddings of dim tiles
are all alike: an engine that confuses them can have a cosine of .999. So the error is also held
against the spread of the sample, which is what profiles are made of.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from unidino_fast.engines.embedder import Embedder

    Embeddings = NDArray[np.float64]

LIMITS = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999, "fp8": 0.995}
"""Lowest cosine between an embedding and the reference's, by precision."""
_LARGEST_SHARE = 0.05
"""Of the spread, that the errors of fp32 may reach; measured: below .001."""
_WORTH_SAYING = 0.25
"""Share of the spread from which on errors are said of lower precisions, which are what they are.
Measured with bf16: .003 to .007 for the default backbone, .03 to .1 for a random one."""
_NO_SPREAD = 1e-4
"""Of the length: tiles that differ by less are alike, but for what fp32 itself rounds."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a self-check found; goes into the manifest.

    Attributes:
        engine: that was checked, in `precision`, on `n_tiles`.
        lowest_cosine: of the embeddings of a tile; at least `limit`.
        error_share: root of the mean squared error, over that of the tiles' distances to their
            mean: 1 where the engine errs by as much as tiles differ; None where they do not differ.
    """

    engine: str
    precision: str
    n_tiles: int
    lowest_cosine: float
    limit: float
    error_share: float | None

    @property
    def warning(self) -> str | None:
        """What a person should know of an engine that passed."""
        if self.error_share is None or self.error_share < _WORTH_SAYING:
            return None
        return (
            f"engine {self.engine} in {self.precision} errs by {self.error_share:.0%} of what tells"
            f" {self.n_tiles} tiles of this plate apart: use --precision fp32, or look whether"
            " --intensity percentile suits these images better"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def self_check(model: Embedder, patches: Tensor) -> SelfCheck | None:
    """Embeds a sample with the engine and with the reference (eager, fp32) and compares.

    Args:
        model: the embedder to check.
        patches: (N, T, P * P), a sample of the tiles to embed.

    Returns:
        What was found; None where the sample is empty.

    Raises:
        EngineError: an embedding differs by more than the precision excuses, or, in fp32, by more
            than a little of what tells the tiles apart.
    """
    if not len(patches):
        return None
    found, expected = (_embedded(one, patches) for one in (model, model.reference()))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    lowest = float(((found * expected).sum(axis=1) / np.maximum(lengths, 1e-300)).min())
    limit = LIMITS[model.precision]
    share = _error_share(found, expected)
    if not lowest >= limit:
        fault = f"cosine {lowest:.5f} to the reference", f"below {limit}"
    elif model.precision == "fp32" and share is not None and not share <= _LARGEST_SHARE:
        fault = f"an error of {share:.0%} of what tells tiles apart", f"above {_LARGEST_SHARE:.0%}"
    else:
        rounded = None if share is None else round(share, 7)
        return SelfCheck(
            model.engine, model.precision, len(patches), round(lowest, 7), limit, rounded
        )
    raise EngineError(
        f"engine {model.engine} in {model.precision} is wrong here: {fault[0]} on {len(patches)}"
        f" tiles of this plate, {fault[1]}: use --engine eager --precision fp32"
    )


def _error_share(found: Embeddings, expected: Embeddings) -> float | None:
    """Error over spread; see `SelfCheck`."""
    spread = float(np.linalg.norm(expected - expected.mean(axis=0)))
    if spread <= _NO_SPREAD * float(np.linalg.norm(expected)):
        return None
    return float(np.linalg.norm(found - expected)) / spread


def _embedded(model: Embedder, patches: Tensor) -> Embeddings:
    packer = model.packer()
    ticket = packer.add(patches)
    packer.flush()
    embeddings: Embeddings = ticket.features.astype(np.float64)
    return embeddings
