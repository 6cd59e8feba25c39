"""What a run did, in numbers: what `embed_to_folder` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        plate: plate name.
        folder: where its results lie.
        n_wells: wells in the tables; `n_resumed` of them were finished by a former run.
        n_tiles: tiles embedded, over all channels; `n_tiles_dropped` were empty.
        n_features: features a well.
        left_out: reason for each well that could not be embedded (`on_error="skip"` only).
        seconds: by stage, and `total`. Reading runs ahead: `read` is the time spent waiting for it.
            Wells are written behind: `write` is the time spent waiting for that, and for the
            tables. Of workers, the stages are all of theirs together.
        tiles_per_second: tiles embedded by this run over its total time.
        peak_memory_mb: largest resident memory of this process.
    """

    plate: str
    folder: str
    n_wells: int
    n_resumed: int
    n_fields: int
    n_tiles: int
    n_tiles_dropped: int
    n_features: int
    left_out: dict[str, str]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    tiles_per_second: float
    peak_memory_mb: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
