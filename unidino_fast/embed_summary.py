"""What `unidino-fast embed` says at its end, of what it did: text or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidino_fast.names import QUALITY

if TYPE_CHECKING:
    from unidino_fast.run_summary import RunSummary
    from unidino_fast.shards import Shard


def as_object(
    done: list[RunSummary], failed: dict[str, str], shard: Shard | None
) -> dict[str, Any]:
    """Totals over all plates, and each plate's own summary; of a shard, also which one it is."""
    sums = ("n_wells", "n_resumed", "n_fields", "n_tiles", "n_tiles_dropped")
    totals: dict[str, Any] = {name: sum(getattr(s, name) for s in done) for name in sums}
    stages = sorted({stage for summary in done for stage in summary.seconds})
    seconds = {stage: round(sum(s.seconds.get(stage, 0) for s in done), 3) for stage in stages}
    return {
        **({} if shard is None else {"shard": {"index": shard.index, "count": shard.count}}),
        **totals,
        "n_features": max(summary.n_features for summary in done),
        "seconds": seconds,
        "tiles_per_second": round(
            sum(s.tiles_per_second * s.seconds["total"] for s in done) / seconds["total"], 2
        ),
        "peak_memory_mb": max(summary.peak_memory_mb for summary in done),
        "left_out": {s.plate: s.left_out for s in done if s.left_out},
        "failed": failed,
        "plates": [summary.to_dict() for summary in done],
    }


def as_text(summary: RunSummary, shard: Shard | None) -> str:
    """What was embedded of a plate, how long it took, and where it lies."""
    stages = ", ".join(
        f"{stage} {seconds:.1f}" for stage, seconds in summary.seconds.items() if stage != "total"
    )
    resumed = f" ({summary.n_resumed} done before)" if summary.n_resumed else ""
    dropped = f" ({summary.n_tiles_dropped} empty ones left out)" if summary.n_tiles_dropped else ""
    quality = ", qc.json" if (Path(summary.folder) / QUALITY).exists() else ""
    return (
        f"{summary.plate}: {summary.n_wells} wells{resumed}, {summary.n_fields} fields,"
        f" {summary.n_tiles} tiles{dropped} -> {summary.n_wells} x {summary.n_features} features\n"
        f"{summary.seconds['total']:.1f} s ({stages}), {summary.tiles_per_second:.1f} tiles/s,"
        f" peak memory {summary.peak_memory_mb:.0f} MB\n"
        f"{summary.folder}/: "
        + (
            f"profiles.parquet, wells.parquet, fields.parquet, manifest.json{quality}"
            if shard is None
            else f"shard {shard.index} of {shard.count}; when all are done:"
            f" unidino-fast merge {summary.folder}"
        )
    )
