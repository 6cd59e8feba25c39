"""A backbone on a plate it never saw: `python -m unidino_fast.benchmarks.held_out FOLDER W...`.

FOLDER holds CellProfiler's SBS example: 96 wells of a cytoplasm-to-nucleus translocation assay in
two channels, two dose series (rows A-D and E-H), and a table of doses and controls. The plate is
embedded and MAD-normalised as by `embed`, and asked for the separation of its controls, for its
high doses, and for the order of its doses. 12 intensity statistics a well and a random ViT of the
same size stand beside the weights.

Letters: W wells, D features, R resamples.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from unidino_fast.backbones import Backbone, open_backbone, save_backbone
from unidino_fast.backbones.random_weights import random_vit
from unidino_fast.backbones.vit import infer_shape, vit_heads
from unidino_fast.convert import convert_plate
from unidino_fast.engines import load_backbone
from unidino_fast.errors import PixelError
from unidino_fast.pipeline import embed_plate
from unidino_fast.plate import open_plate
from unidino_fast.profiles import aggregate, normalize
from unidino_fast.reading import FieldReader, FieldRequest
from unidino_fast.results import feature_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from unidino_fast.choices import Intensity
    from unidino_fast.plate_model import Plate

    Array = NDArray[np.float64]
    Indices = NDArray[np.int64]

PATTERN = r"Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif"
LOW, HIGH = (0, 2), (5, 10)
"""Doses, least and greatest, that a neighbour has to tell apart."""
PERCENTILES = (1, 50, 90, 99)
RESAMPLES = 1000
RANDOM = "random ViT, same size"
_FIRST_HALF = "ABCD"


@dataclass(frozen=True)
class Wells:
    """What was done to the wells, (W,) each.

    Attributes:
        row: number of the plate's row.
        dose: 0 to 10.
        control: -1 of a negative, 1 of a positive control, 0 else.
        first: whether the well is of the first dose series.
    """

    row: Indices
    dose: Indices
    control: Indices
    first: NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """What profiles say about the plate.

    Attributes:
        z_first: Z' of the first series' controls on an axis fitted to the second's.
        z_second: the other way round.
        accuracy: share of wells of low and of high dose whose nearest profile among these, in
            another row, is of the same kind.
        dose_error: mean difference of dose to the nearest profile in another row, all wells.
        order_first: Spearman's rho of dose and cosine distance to the mean of the plate's negative
            controls, wells of the first series but these.
        order_second: that of the second.
    """

    z_first: float
    z_second: float
    accuracy: float
    dose_error: float
    order_first: float
    order_second: float


def ask(profiles: Array, wells: Wells, chosen: Indices | None = None) -> Answers:
    """The answers of profiles (W, D); of the wells in `chosen` alone, which may repeat.

    Axes, neighbours and controls' means come from all wells: resampled are those that are asked.
    """
    unit = profiles / np.linalg.norm(profiles, axis=1, keepdims=True)
    picked = np.arange(len(unit)) if chosen is None else chosen
    is_low, is_high = wells.dose <= LOW[1], wells.dose >= HIGH[0]
    kind = wells.dose[_nearest(unit, wells, is_low | is_high)] <= LOW[1]
    right = (kind == is_low)[picked[(is_low | is_high)[picked]]]
    anyone = wells.dose[_nearest(unit, wells, np.ones(len(unit), bool))]
    centre = profiles[wells.control == -1].mean(axis=0)
    distance = 1 - unit @ (centre / np.linalg.norm(centre))
    order_first, order_second = (
        _rank_correlation(wells.dose[some], distance[some])
        for half in (wells.first, ~wells.first)
        for some in (picked[(half & (wells.control != -1))[picked]],)
    )
    z_first, z_second = (
        _separation(profiles, wells, picked, half) for half in (wells.first, ~wells.first)
    )
    return Answers(
        z_first=z_first,
        z_second=z_second,
        accuracy=float(right.mean()),
        dose_error=float(np.abs(anyone - wells.dose)[picked].mean()),
        order_first=order_first,
        order_second=order_second,
    )


def _nearest(unit: Array, wells: Wells, candidates: NDArray[np.bool_]) -> Indices:
    """The most similar of the candidates in another row, for every well."""
    similar = unit @ unit.T
    similar[wells.row[:, None] == wells.row] = -np.inf
    similar[:, ~candidates] = -np.inf
    found: Indices = similar.argmax(axis=1)
    return found


def _rank_correlation(one: Indices, other: Array) -> float:
    """Spearman's rho."""
    both = pl.DataFrame({"one": one, "other": other})
    return float(both.select(pl.corr("one", "other", method="spearman")).item())


def _separation(profiles: Array, wells: Wells, picked: Indices, series: NDArray[np.bool_]) -> float:
    """Z' (Zhang et al. 1999) of a series' controls on the other series' axis between the means."""
    negative, positive = (wells.control == kind for kind in (-1, 1))
    axis = profiles[~series & positive].mean(0) - profiles[~series & negative].mean(0)
    along = (profiles @ axis)[picked]
    low, high = (along[(series & kind)[picked]] for kind in (negative, positive))
    spread = low.std(ddof=1) + high.std(ddof=1)
    return float(1 - 3 * spread / abs(high.mean() - low.mean()))


def resampled(wells: Wells, rng: np.random.Generator) -> Iterator[Indices]:
    """Bootstrap samples (W,) of wells within their series and kind of control."""
    groups = [
        np.flatnonzero((wells.first == first) & (wells.control == control))
        for first in (True, False)
        for control in (-1, 0, 1)
    ]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(group, len(group)) for group in groups])


def read_wells(folder: Path, names: Sequence[str]) -> Wells:
    """What the plate's table says about wells `names` (`A01`)."""
    (table,) = folder.glob("*_Metadata.csv")
    rows = {f"{r['Row']}{int(r['Column']):02d}": r for r in pl.read_csv(table).to_dicts()}
    ordered = [rows[name] for name in names]
    return Wells(
        np.array([ord(name[0]) for name in names]),
        np.array([row["SBS_Doses"] for row in ordered]),
        np.array([row["SBS_Controls"] for row in ordered]),
        np.array([name[0] in _FIRST_HALF for name in names]),
    )


def intensity_statistics(plate: Plate) -> Array:
    """(W, 12): mean, SD and four percentiles of each channel."""
    requests = [
        FieldRequest(field, 0, tuple(range(len(field.channels))), "max") for field in plate.fields
    ]
    rows = []
    for pixels in FieldReader(plate.storage).stream(iter(requests)):
        if isinstance(pixels, PixelError):
            raise pixels
        flat = pixels.reshape(len(pixels), -1).astype(np.float64)
        statistics = [flat.mean(1), flat.std(1), *np.percentile(flat, PERCENTILES, axis=1)]
        rows.append(np.concatenate(statistics))
    return np.array(rows)


def mad_normalized(values: Array) -> Array:
    """(x - median) / (1.4826 MAD) of each column; columns without spread become 0."""
    centred = values - np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(centred), axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def profiles_by(weights: str, plate: Plate, intensity: Intensity) -> Array:
    """(W, D) as `embed` makes them, wells in plate order."""
    model = load_backbone(weights, device="cpu", precision="fp32")
    profiles = normalize(aggregate(embed_plate(plate, model, intensity=intensity)))
    found: Array = profiles.select(feature_columns(profiles)).to_numpy().astype(np.float64)
    return found


@contextmanager
def random_of_the_same_size(backbone: Backbone) -> Iterator[Path]:
    """A file of a backbone of the same architecture with random weights."""
    state = backbone.module.state_dict()
    shape = infer_shape(state, backbone.name, heads=vit_heads(backbone.module))
    random = replace(backbone, module=random_vit(0, shape), input_norm="identity")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "random.safetensors"
        save_backbone(random, path)
        yield path


def compare(
    folder: Path, weights: Sequence[str], intensity: Intensity, say: Callable[[str], None]
) -> pl.DataFrame:
    """A row for each weights and question: value, 95 % interval, and that of the gain.

    The gain is over a random ViT of the size of the first weights, resampled together.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        random_of_the_same_size(open_backbone(weights[0])) as random,
    ):
        path = Path(scratch) / "sbs.zarr"
        convert_plate(folder / "images", path, layout="regex", pattern=PATTERN)
        plate = open_plate(str(path))
        wells = read_wells(folder, [str(well.position) for well in plate.wells])
        profiles = {"12 intensity statistics": mad_normalized(intensity_statistics(plate))}
        for name in weights:
            say(f"embedding with {name}")
            profiles[name] = profiles_by(name, plate, intensity)
        profiles[RANDOM] = profiles_by(str(random), plate, intensity)
    answers = {name: vars(ask(values, wells)) for name, values in profiles.items()}
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in profiles}
    for chosen in resampled(wells, np.random.default_rng(0)):
        for name, values in profiles.items():
            drawn[name].append(vars(ask(values, wells, chosen)))
    rows = []
    for name, answer in answers.items():
        for question, value in answer.items():
            mine = np.array([one[question] for one in drawn[name]])
            base = np.array([one[question] for one in drawn[RANDOM]])
            low, high = np.percentile(mine, (2.5, 97.5))
            gain_low, gain_high = np.percentile(mine - base, (2.5, 97.5))
            rows.append(
                {
                    "profiles": name,
                    "question": question,
                    "value": value,
                    "low": low,
                    "high": high,
                    "gain": value - answers[RANDOM][question],
                    "gain_low": gain_low,
                    "gain_high": gain_high,
                }
            )
    return pl.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it as CSV if asked to."""
    parser = argparse.ArgumentParser(prog="python -m unidino_fast.benchmarks.held_out")
    parser.add_argument("folder", type=Path, help="of the SBS example, with images/ and its table")
    parser.add_argument("weights", nargs="+", help="as for embed")
    parser.add_argument("--intensity", choices=["dtype", "percentile"], default="dtype")
    parser.add_argument("--out", type=Path, help="CSV file of the rows")
    options = parser.parse_args(arguments)
    table = compare(options.folder, options.weights, options.intensity, print)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_hide_dataframe_shape=True):
        print(table)
    if options.out is not None:
        table.write_csv(options.out, float_precision=4)


if __name__ == "__main__":
    main()
