"""What `embed` has left in a folder, read for a report: tables, manifest, quality control.

N wells, F features. Everything here comes from files that others may have written: what is missing
or of another kind becomes a note, and only tables that cannot be read at all are an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import OutputError, TableError
from unidino_fast.names import QUALITY, WellName, one_line, parse_well
from unidino_fast.results import feature_columns
from unidino_fast.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_LARGEST_JSON = 64 * 2**20
_NEEDED = ("Metadata_Plate", "Metadata_Well")


@dataclass(frozen=True)
class PlateResults:
    """One plate's results.

    Attributes:
        folder: where they lie.
        name: of the plate.
        provenance: what decided the numbers, from the manifest; empty where there is none.
        run: what the manifest says of the run; empty where there is none.
        wells: means over tiles (N rows), the features as the network gave them.
        profiles: the same wells, normalised.
        channels: labels in the order of the features.
        quality: `qc.json`; None where quality control did not run.
        notes: what a reader should know about the files, a line each.
    """

    folder: Path
    name: str
    provenance: Mapping[str, Any]
    run: Mapping[str, Any]
    wells: pl.DataFrame
    profiles: pl.DataFrame
    channels: tuple[str, ...]
    quality: Mapping[str, Any] | None
    notes: tuple[str, ...]

    @cached_property
    def features(self) -> list[str]:
        """Names, F."""
        return feature_columns(self.profiles)

    @cached_property
    def raw(self) -> Values:
        """Features before normalisation (N, F), NaN where null."""
        return _matrix(self.wells, self.features)

    @cached_property
    def normalised(self) -> Values:
        """Features after normalisation (N, F), NaN where null."""
        return _matrix(self.profiles, self.features)

    @cached_property
    def filled(self) -> Values:
        """Features after normalisation (N, F) with 0, the plate's median, where null."""
        return np.nan_to_num(self.normalised, nan=0.0)

    @cached_property
    def positions(self) -> list[WellName]:
        """Of each row."""
        return [parse_well(name) or WellName(0, 1) for name in self.names]

    @cached_property
    def names(self) -> list[str]:
        """Well of each row, `A01`."""
        return [str(name) for name in self.profiles["Metadata_Well"]]

    def places(self, channel: str) -> NDArray[np.int64]:
        """Where the features of a channel stand."""
        found = [i for i, name in enumerate(self.features) if name.rpartition("_")[0] == channel]
        return np.array(found, dtype=np.int64)

    def measured(self, measure: str, channel: str) -> pl.Series | None:
        """A measure of quality control, a value a well; None where there is none."""
        name = f"Metadata_QC_{measure}_{channel}"
        if name not in self.profiles.columns or not self.profiles[name].dtype.is_numeric():
            return None
        return self.profiles[name].cast(pl.Float64)


def find_plates(folder: Path) -> list[Path]:
    """Folders of plates: this one, or those in it, by name.

    Raises:
        OutputError: there is none; says what to run.
    """
    if not folder.is_dir():
        raise OutputError(
            f"{folder} is no folder: give the --out of unidino-fast embed, or one plate in it"
        )
    if (folder / "profiles.parquet").is_file():
        return [folder]
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise OutputError(f"{folder} cannot be read ({error.strerror}): check its rights") from None
    found = [path for path in inside if (path / "profiles.parquet").is_file()]
    if found:
        return found
    for path in (folder, *inside):
        if any(path.glob("shards/*.json")):
            raise OutputError(f"{path} holds shards without tables: run unidino-fast merge {path}")
        if any(path.glob("parts/*.parquet")):
            raise OutputError(
                f"{path} holds an unfinished run: run the same unidino-fast embed again"
            )
    raise OutputError(
        f"{folder} holds no results (no profiles.parquet there or one folder down):"
        f" run unidino-fast embed PLATE --out {folder}"
    )


def read_results(folder: Path) -> PlateResults:
    """Reads a plate's folder.

    Raises:
        TableError: a table is missing, cannot be read, or does not fit the other.
    """
    wells, profiles = (_table(folder / name) for name in ("wells.parquet", "profiles.parquet"))
    if wells["Metadata_Well"].to_list() != profiles["Metadata_Well"].to_list():
        raise TableError(
            f"{folder} holds wells.parquet and profiles.parquet of different wells: embed it again"
        )
    features = feature_columns(profiles)
    missing = [name for name in features if name not in wells.columns]
    if not features:
        raise TableError(f"{folder}/profiles.parquet has no feature columns: embed it again")
    if missing:
        raise TableError(
            f"{folder}/wells.parquet lacks feature {one_line(missing[0])} of profiles.parquet:"
            " embed it again"
        )
    manifest, notes = read_json(folder / "manifest.json")
    if manifest is None and not notes:
        notes = ["manifest.json is missing: where these results come from is not known"]
    quality, faults = read_json(folder / QUALITY)
    wells, profiles, about_time = _one_time(wells, profiles)
    document = manifest or {}
    return PlateResults(
        folder=folder,
        name=one_line(str(profiles["Metadata_Plate"][0])),
        provenance=as_object(document.get("provenance")),
        run=as_object(document.get("run")),
        wells=wells,
        profiles=profiles,
        channels=tuple(dict.fromkeys(name.rpartition("_")[0] for name in features)),
        quality=quality,
        notes=(*notes, *faults, *about_time, *_about_nulls(profiles, features)),
    )


def as_object(value: object) -> dict[str, Any]:
    """A value of a JSON document as an object; empty where it is something else."""
    return value if isinstance(value, dict) else {}


def as_lines(value: object) -> list[str]:
    """A value of a JSON document as lines of text; none where it is no list."""
    return [one_line(str(line)) for line in value] if isinstance(value, list) else []


def _table(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise TableError(f"{path} is missing, which unidino-fast embed writes: embed it again")
    frame = read_table(path)
    for name in _NEEDED:
        if name not in frame.columns:
            raise TableError(f"{path} has no column {name}: it is no table of unidino-fast embed")
    if frame.is_empty():
        raise TableError(f"{path} has no rows: embed the plate again")
    return frame


def read_json(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """An object from a file; None where there is no file, with a note where it is unfit."""
    if not path.is_file():
        return None, []
    try:
        if path.stat().st_size > _LARGEST_JSON:
            return None, [f"{path.name} is larger than {_LARGEST_JSON >> 20} MiB: left unread"]
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None, [f"{path.name} cannot be read: what it says is left out"]
    if not isinstance(document, dict):
        return None, [f"{path.name} holds no JSON object: what it says is left out"]
    return document, []


def _one_time(
    wells: pl.DataFrame, profiles: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """The rows of the first time point, where there are several."""
    if "Metadata_Time" not in profiles.columns or profiles["Metadata_Time"].n_unique() < 2:
        return wells, profiles, []
    first, n_times = profiles["Metadata_Time"].min(), profiles["Metadata_Time"].n_unique()
    kept = profiles["Metadata_Time"] == first
    note = f"the plate has {n_times} time points: this report shows the first ({first!r}) alone"
    return wells.filter(kept), profiles.filter(kept), [note]


def _about_nulls(profiles: pl.DataFrame, features: list[str]) -> list[str]:
    null = profiles.select(pl.any_horizontal(pl.col(features).is_null())).to_series()
    if not null.any():
        return []
    return [
        f"{int(null.sum())} of {len(profiles)} wells lack a channel: projections and similarities"
        " take the plate's median for it, distances leave it out"
    ]


def _matrix(frame: pl.DataFrame, features: list[str]) -> Values:
    values: Values = frame.select(features).cast(pl.Float64).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)
