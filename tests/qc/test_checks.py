"""Faults of a whole plate, planted into tables; and sound plates on which nothing is found."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
from quality_tables import CHANNELS, brighten, change, names, plate

import unidino_fast as uf
from unidino_fast.errors import TableError
from unidino_fast.names import parse_well
from unidino_fast.qc import thresholds_of
from unidino_fast.qc.checks import effect
from unidino_fast.qc.robust import mad, median, theil_sen, trend


def found(frame: pl.DataFrame, labels: pl.DataFrame | None = None) -> set[tuple[str, str | None]]:
    """Checks of the plate that found something, and where."""
    return {(c.check, c.where) for c in uf.plate_qc(frame, labels).checks if c.found}


def rim(rows: int, columns: int) -> list[str]:
    return [
        name
        for name, (row, column) in zip(
            names(rows, columns), product(range(rows), range(columns)), strict=True
        )
        if row in (0, rows - 1) or column in (0, columns - 1)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_found_on_a_sound_plate(seed: int) -> None:
    report = uf.plate_qc(plate(seed=seed, spread=0.25))
    assert report.warnings == []
    assert not any(check.found for check in report.checks)


def test_a_bright_or_dark_rim() -> None:
    for factor in (1.3, 0.75):
        frame = brighten(plate(), dict.fromkeys(rim(8, 12), factor))
        assert found(frame) == {("edge", None)}
        one = brighten(plate(), dict.fromkeys(rim(8, 12), factor), ["ER"])
        report = uf.plate_qc(one)
        (edge,) = [check for check in report.checks if check.found]
        assert edge.channel == "ER"
        assert edge.details["change"] == pytest.approx(factor - 1, abs=0.1)
        assert (edge.details["n_rim"], edge.details["n_inside"]) == (36, 60)


def test_inner_wells_of_a_plate_have_no_rim() -> None:
    """The 60 wells inside of a plate of 96: its rim was not used."""
    frame = plate().filter(~pl.col("Metadata_Well").is_in(rim(8, 12)))
    assert not [check for check in uf.plate_qc(frame).checks if check.check == "edge"]


@pytest.mark.parametrize(("factor", "is_so"), [(0.5, True), (0.9, False)])
def test_a_row_or_column_of_its_own(factor: float, is_so: bool) -> None:
    wells = names(8, 12)
    row = [name for name in wells if name[0] == "C"]
    column = [name for name in wells if name[1:] == "05"]
    assert found(brighten(plate(), dict.fromkeys(row, factor))) == (
        {("row", "C")} if is_so else set()
    )
    assert found(brighten(plate(), dict.fromkeys(column, factor))) == (
        {("column", "5")} if is_so else set()
    )


def test_a_dead_row() -> None:
    row = [name for name in names(8, 12) if name[0] == "G"]
    frame = plate()
    for channel in CHANNELS:
        frame = change(frame, row, "EmptyTiles", channel, 1.0)
        frame = change(frame, row, "Signal", channel, 60)
        frame = change(frame, row, "Intensity", channel, 290)
    report = uf.plate_qc(frame)
    assert [name for name, *_ in report.flagged] == row
    assert {(check.check, check.where) for check in report.checks if check.found} == {("row", "G")}
    assert report.warnings == [
        f"qc: 12 wells are empty: {', '.join(row)}",
        "qc: row G: 12 of 12 wells are flagged",
    ]


@pytest.mark.parametrize("axis", ["row", "column"])
def test_light_that_drifts(axis: str) -> None:
    places = {name: parse_well(name) for name in names(8, 12)}
    factors = {}
    for name, well in places.items():
        assert well is not None
        share = well.row / 7 if axis == "row" else (well.column - 1) / 11
        factors[name] = 1 + 0.5 * share
    report = uf.plate_qc(brighten(plate(), factors))
    drift = [check for check in report.checks if check.check == f"{axis}_drift"]
    assert all(check.found for check in drift)
    assert [check.details["change"] for check in drift] == pytest.approx([0.5] * 3, abs=0.15)
    other = "column" if axis == "row" else "row"
    assert not [c for c in report.checks if c.found and c.check == f"{other}_drift"]
    assert all("unless treatments stand in that order" in check.line for check in drift)


def test_a_dose_series_along_the_plate_is_no_drift_where_it_is_known() -> None:
    """Doses by column, as on most dose plates: only unlabelled ones look like a drift."""
    places = {name: parse_well(name) for name in names(8, 12)}
    columns = [well.column for well in places.values() if well is not None]
    factors = {name: 1 + column / 12 for name, column in zip(places, columns, strict=True)}
    frame = brighten(plate(), factors)
    assert ("column_drift", None) in found(frame)
    labelled = frame.with_columns(
        pl.lit("drug").alias("Metadata_Compound"), pl.Series("Metadata_Concentration", columns)
    )
    assert ("column_drift", None) not in found(frame, labelled)
    assert ("column_drift", None) not in found(labelled)  # labels of the wells themselves
    both = labelled.with_columns(pl.Series("Metadata_Concentration", [c % 3 for c in columns]))
    drift = [c for c in uf.plate_qc(frame, both).checks if c.check == "column_drift"]
    assert drift
    assert all("unless" not in check.line for check in drift)


def test_light_from_one_side() -> None:
    frame = plate()
    column = pl.col("Metadata_QC_GradientX_ER")
    report = uf.plate_qc(frame.with_columns(column + 0.4))
    (check,) = [check for check in report.checks if check.found]
    assert (check.check, check.channel, check.where) == ("illumination", "ER", "right")
    assert check.value == pytest.approx(0.4, abs=0.1)
    assert report.warnings == [
        f"qc: fields are brighter at their right side, by {check.value:.0%} of the mean (ER)"
    ]
    assert found(frame.with_columns(column + 0.15)) == set()


def test_a_channel_that_is_saturated_everywhere() -> None:
    wells = names(8, 12)
    frame = change(plate(), wells[:60], "Saturated", "ER", 0.3)
    report = uf.plate_qc(frame)
    assert ("channel", None) in {(c.check, c.where) for c in report.checks if c.found}
    assert "qc: saturated in 62% of the wells (ER)" in report.warnings
    assert report.to_dict()["counts"]["saturated"] == 60


def test_wells_that_hold_the_same_are_compared() -> None:
    """Compounds that dim cells stand inside alone: no rim effect, which a plain comparison sees."""
    frame = plate()
    outer = set(rim(8, 12))
    inside = [name for name in names(8, 12) if name not in outer]
    dim = inside[::2]
    frame = brighten(frame, dict.fromkeys(dim, 0.3))
    holds = ["dim" if name in dim else "DMSO" for name in frame["Metadata_Well"]]
    labels = frame.select("Metadata_Plate", "Metadata_Well").with_columns(
        pl.Series("Metadata_Compound", holds)
    )
    assert found(frame, labels) == set()
    assert ("edge", None) in found(frame)


def test_effect_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    values, holds = rng.normal(size=40), rng.integers(0, 4, 40)
    one = np.arange(40) < 17
    off, errors = effect(values, holds, one, ~one)  # type: ignore[misc]
    pairs = [
        values[i] - values[j] for i in range(17) for j in range(17, 40) if holds[i] == holds[j]
    ]
    assert off == pytest.approx(float(np.median(pairs)))
    within = [
        abs(values[i] - values[j])
        for i in range(40)
        for j in range(i)
        if holds[i] == holds[j] and one[i] == one[j]
    ]
    spread = 1.4826 * float(np.median(within)) / 2**0.5
    assert errors == pytest.approx(abs(off) / (1.0233 * spread * (1 / 17 + 1 / 23) ** 0.5))


def test_errors_are_those_of_chance() -> None:
    """Of an effect that is none, in 400 draws: their spread is 1, as that of standard errors is."""
    rng = np.random.default_rng(1)
    one = np.arange(48) < 24
    drawn = []
    for _ in range(400):
        result = effect(rng.normal(size=48), rng.integers(0, 3, 48), one, ~one)
        assert result is not None
        drawn.append(result[1] ** 2)
    # mean square 1 for known spread; that of an estimated one adds a little
    assert 0.8 < float(np.mean(drawn)) ** 0.5 < 1.3


def test_trends_against_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(2)
    places = rng.integers(1, 13, 60).astype(float)
    values = rng.normal(size=60) + 0.1 * places
    rho = stats.spearmanr(places, values).statistic
    assert trend(places, values) == pytest.approx(rho * 59**0.5)
    assert theil_sen(places, values) == pytest.approx(stats.theilslopes(values, places).slope)
    column = values[:, None]
    assert median(column)[0] == np.median(values)
    assert mad(column)[0] == pytest.approx(stats.median_abs_deviation(values) * 1.4826)


def test_the_document_is_whole_and_plain(tmp_path: Any) -> None:
    import json

    frame = change(plate(), ["B02"], "Focus", "ER", -20)
    document = uf.plate_qc(frame).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) == {
        "format", "plate", "channels", "measures", "n_wells", "n_flagged", "counts", "wells",
        "statistics", "checks", "not_assessed", "warnings", "thresholds",
    }  # fmt: skip
    (well,) = document["wells"]
    assert (well["well"], well["time"], well["flagged"]) == ("B02", None, True)
    (flag,) = well["flags"]
    assert (flag["kind"], flag["channel"], flag["value"]) == ("defocused", "ER", -20)
    assert flag["value"] < flag["limit"] < flag["usual"]
    assert document["not_assessed"]["controls"] == "no profiles were given"


def test_few_wells_are_said_to_be_few() -> None:
    document = uf.plate_qc(plate(2, 3)).to_dict()
    assert document["checks"] == []
    assert document["not_assessed"]["plate"] == (
        "6 wells without flags: too few to compare, 12 are needed"
    )
    less = thresholds_of({"min_wells": 5}, "x")
    assert uf.plate_qc(plate(2, 3), config=less).checks


def test_one_plate_at_a_time() -> None:
    with pytest.raises(TableError, match="holds 2 plates: give one at a time"):
        uf.plate_qc(plate().vstack(plate(name="q")))
    with pytest.raises(TableError, match="wells and profiles hold different wells"):
        uf.plate_qc(plate(), plate(3, 3))
