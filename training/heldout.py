"""What fine-tuning has brought: labels of held-out wells told before and after it.

Three answers: a linear probe on the frozen weights that the run began with, a linear probe on the
tuned ones, and the head that was tuned with them. D features, C channels, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.columns import find_column
from unidino_fast.engines import Embedder
from unidino_fast.errors import TrainingError, UnidinoError
from unidino_fast.evaluation.counting import share_interval
from unidino_fast.evaluation.linear_probe import linear_probe
from unidino_fast.names import one_line
from unidino_fast.pipeline import embed_plate
from unidino_fast.plate import open_plate
from unidino_fast.platemap import join_platemap, read_platemap
from unidino_fast.profiles import aggregate, normalize
from unidino_fast.tables import write_table
from unidino_fast.training.wells import is_held_out

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from unidino_fast.backbones import Backbone
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.lora import Lora

FILE = "held-out.csv"
FROZEN, TUNED, HEAD = "frozen, linear probe", "tuned, linear probe", "tuned, its own head"
_LABEL, _PART = "Metadata_fine_tuning_label", "Metadata_fine_tuning_part"
_HELD_OUT, _LEARNT = "held out", "learnt from"
_BOOTSTRAP = 1000


@dataclass(frozen=True)
class HeldOutReport:
    """Accuracies on held-out wells.

    Attributes:
        held_out: what was, in words.
        rows: `how`, `label` (null for all), `accuracy`, `lower`, `upper`, `n`.
        n_train: labelled wells that were learnt from.
        n_unseen: held-out wells whose label no well learnt from has.
    """

    held_out: str
    rows: pl.DataFrame
    n_train: int
    n_unseen: int

    def accuracy(self, how: str) -> float:
        """Of all held-out wells."""
        wanted = (pl.col("how") == how) & pl.col("label").is_null()
        return float(self.rows.filter(wanted)["accuracy"][0])

    def summary(self) -> str:
        """A table for people: a row a label, a column a way of telling it."""
        ways = [FROZEN, TUNED, HEAD]
        own = self.rows.filter(pl.col("how").is_in(ways))
        lines = [["label", "wells", *ways]]
        for label in [None, *own["label"].drop_nulls().unique().sort()]:
            here = own.filter(pl.col("label").eq_missing(pl.lit(label)))
            held = dict(zip(here["how"], here.iter_rows(named=True), strict=True))
            cells = [f"{held[way]['accuracy']:.3f}" for way in ways]
            if label is None:
                cells = [f"{c} ({held[w]['lower']:.3f} to {held[w]['upper']:.3f})"
                         for c, w in zip(cells, ways, strict=True)]  # fmt: skip
            lines.append([label or "all", str(here["n"][0]), *cells])
        widths = [max(len(one_line(line[i])) for line in lines) for i in range(len(lines[0]))]
        table = "\n".join(
            "  ".join(one_line(c).ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        unseen = f"; {self.n_unseen} have a label that no other well has" if self.n_unseen else ""
        return (
            f"held out: {self.held_out}; learnt from {self.n_train} wells; by chance"
            f" {self.accuracy('chance'):.3f}, the most frequent label"
            f" {self.accuracy('majority'):.3f}{unseen}\n{table}"
        )


def held_out_report(
    config: TrainConfig, method: Lora, frozen: Backbone, tuned: Backbone, device: torch.device
) -> HeldOutReport:
    """Embeds all plates with both networks and asks for the held-out wells' labels.

    Profiles are MAD-normalised per plate for the probes; the head takes the wells' mean features as
    they are, and its logits are summed over channels.

    Raises:
        TrainingError: no well is held out, or a plate cannot be embedded.
    """
    try:
        before = _tables(config, frozen, device)
        after = _tables(config, tuned, device)
        probes = {
            name: linear_probe(
                table.profiles, _LABEL, by=_PART, hold_out=[_HELD_OUT], bootstrap=_BOOTSTRAP
            )
            for name, table in ((FROZEN, before), (TUNED, after))
        }
    except UnidinoError as error:
        raise TrainingError(f"held-out wells: {error}") from error
    wells = after.wells.filter(pl.col(_PART) == _HELD_OUT)
    told = np.array(method.labelled.labels)[_logits(wells, method).argmax(1)]
    rows: list[tuple[Any, ...]] = []
    for how, probe in probes.items():
        rows.append((how, None, probe.accuracy, *(probe.interval or (None, None)), probe.n))
        rows += [(how, e.label, e.n_correct / e.n, None, None, e.n) for e in probe.per_class]
    rows += _rows_of(HEAD, told == wells[_LABEL].to_numpy(), wells[_LABEL])
    one = probes[FROZEN]
    rows += [
        ("chance", None, one.chance, None, None, one.n),
        ("majority", None, one.majority, None, None, one.n),
    ]
    schema = {
        "how": pl.String,
        "label": pl.String,
        "accuracy": pl.Float64,
        "lower": pl.Float64,
        "upper": pl.Float64,
        "n": pl.Int64,
    }
    return HeldOutReport(
        held_out=config.lora.described(),
        rows=pl.DataFrame(rows, schema=schema, orient="row"),
        n_train=int((after.profiles[_PART] == _LEARNT).sum()),
        n_unseen=one.n_unseen,
    )


def write_report(report: HeldOutReport, folder: Path) -> Path:
    """Writes the rows beside the weights."""
    path = folder / FILE
    write_table(report.rows, path, {"held_out": report.held_out})
    return path


@dataclass(frozen=True)
class _Tables:
    """Labelled wells of all plates by one network: as they are, and normalised."""

    wells: pl.DataFrame
    profiles: pl.DataFrame


def _tables(config: TrainConfig, backbone: Backbone, device: torch.device) -> _Tables:
    model = Embedder(backbone, "eager", device, "fp32")
    wells: list[pl.DataFrame] = []
    profiles: list[pl.DataFrame] = []
    for source in config.data:
        plate = open_plate(source.path or "")
        fields = embed_plate(plate, model, intensity=source.intensity, channels=source.channels)
        raw = aggregate(fields)
        platemap = read_platemap(source.platemap or "")
        whole = source.name in config.lora.hold_out
        held_out = pl.lit(whole) | is_held_out(config.lora)
        for found, table in ((wells, raw), (profiles, normalize(raw))):
            joined, _ = join_platemap(table, platemap)
            column = find_column(joined, source.label or "")
            found.append(
                joined.with_columns(
                    pl.col(column).cast(pl.String).alias(_LABEL),
                    pl.when(held_out)
                    .then(pl.lit(_HELD_OUT))
                    .otherwise(pl.lit(_LEARNT))
                    .alias(_PART),
                )
                .filter(pl.col(_LABEL).is_not_null())
                .select(
                    _LABEL, _PART, "Metadata_Plate", "Metadata_Well", pl.exclude("^Metadata_.*$")
                )
            )
    for source, table in zip(config.data, wells, strict=True):
        if table.columns != wells[0].columns:
            raise TrainingError(
                f"plates {config.data[0].name} and {source.name} have other channels: name those"
                " in common as the channels of both"
            )
    return _Tables(pl.concat(wells), pl.concat(profiles))


def _logits(wells: pl.DataFrame, method: Lora) -> NDArray[Any]:
    """Logits (N, K) of wells, summed over the channels that the head knows."""
    weight, bias = method.head()
    logits = np.zeros((len(wells), weight.shape[1]))
    for number, channel in enumerate(method.labelled.channels):
        names = [f"{channel}_{index:03d}" for index in range(weight.shape[2])]
        features = wells.select(names).to_numpy().astype(np.float64)
        logits += features @ weight[number].T + bias[number]
    return logits


def _rows_of(how: str, right: NDArray[np.bool_], labels: pl.Series) -> list[tuple[Any, ...]]:
    interval = share_interval(right, None, _BOOTSTRAP, 0) or (None, None)
    rows: list[tuple[Any, ...]] = [(how, None, float(right.mean()), *interval, len(right))]
    for label in labels.unique().sort():
        here = (labels == label).to_numpy()
        rows.append((how, label, float(right[here].mean()), None, None, int(here.sum())))
    return rows
