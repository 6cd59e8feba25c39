"""Wells that are flagged, by numbers that are known; and those that are not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from quality_tables import CHANNELS, change, plate

import unidino_fast as uf
from unidino_fast.errors import TableError
from unidino_fast.qc import MEASURES, Thresholds, quality_columns, shipped_thresholds, thresholds_of


def flags(frame: pl.DataFrame, config: Thresholds | None = None) -> dict[str, str]:
    """What is flagged, by well."""
    found = uf.flag_wells(frame, config)
    told = zip(found["Metadata_Well"], found["Metadata_QC_Flags"], strict=True)
    return {well: text for well, text in told if text}


@pytest.mark.parametrize("seed", range(20))
def test_a_sound_plate_has_no_flags(seed: int) -> None:
    assert flags(plate(seed=seed)) == {}
    assert flags(plate(seed=seed, spread=0.4)) == {}


def test_limits_of_the_focus() -> None:
    """The fall must be 4 MADs and 1.5 octaves: of .1 a MAD the octaves decide, of .5 the MADs."""
    for spread, limit in ((0.1, 1.5), (0.5, 2.0)):
        frame = plate(spread=spread, seed=1)
        focus = frame["Metadata_QC_Focus_ER"].to_numpy().astype(float)
        median = np.median(focus)
        mad = 1.4826 * np.median(np.abs(focus - median))
        assert max(4 * mad, 1.5) == pytest.approx(limit, abs=0.5)
        for off, is_so in ((-0.1, True), (0.1, False)):
            value = median - max(4 * mad, 1.5) + off
            changed = change(frame, ["C05"], "Focus", "ER", value)
            assert flags(changed) == ({"C05": "defocused:ER"} if is_so else {})


def test_each_kind() -> None:
    frame = plate()
    assert flags(change(frame, ["B02"], "Saturated", "a_b", 0.011)) == {"B02": "saturated:a_b"}
    assert flags(change(frame, ["B02"], "Saturated", "a_b", 0.009)) == {}
    assert flags(change(frame, ["B02"], "EmptyTiles", "ER", 0.96)) == {"B02": "empty:ER"}
    assert flags(change(frame, ["B02"], "Background", "ER", 290 + 501)) == {"B02": "background:ER"}
    assert flags(change(frame, ["B02"], "Background", "ER", 290 + 400)) == {}
    both = change(change(frame, ["B02"], "Saturated", "DNA", 0.2), ["B02"], "EmptyTiles", "ER", 1.0)
    assert flags(both) == {"B02": "saturated:DNA;empty:ER"}


def swapped(frame: pl.DataFrame, well: str, one: str, other: str) -> pl.DataFrame:
    pairs = [(f"Metadata_QC_{m}_{one}", f"Metadata_QC_{m}_{other}") for m in MEASURES]
    is_so = pl.col("Metadata_Well") == well
    return frame.with_columns(
        [pl.when(is_so).then(pl.col(b)).otherwise(pl.col(a)).alias(a) for a, b in pairs]
        + [pl.when(is_so).then(pl.col(a)).otherwise(pl.col(b)).alias(b) for a, b in pairs]
    )


@pytest.mark.parametrize(("one", "other"), [("DNA", "ER"), ("DNA", "a_b"), ("ER", "a_b")])
def test_swapped_channels(one: str, other: str) -> None:
    """Named as such, and not for the focus that each lacks as the other."""
    found = flags(swapped(plate(), "D07", one, other))
    assert found == {"D07": f"swapped:{one};swapped:{other}"}


def test_channels_that_look_alike_are_not_swapped() -> None:
    frame = plate(channels=("DNA", "DNA"[:3]))
    twin = frame.with_columns(
        frame[column].alias(column.replace("_DNA", "_DNA2"))
        for column in quality_columns(frame).values()
    )
    assert flags(swapped(twin, "D07", "DNA", "DNA2")) == {}


def test_what_most_wells_have_is_no_flag() -> None:
    """Of a well; but saturation is a fault wherever it is."""
    frame = plate()
    wells = frame["Metadata_Well"].to_list()
    assert flags(change(frame, wells[:80], "EmptyTiles", "ER", 1.0)) == {}
    assert len(flags(change(frame, wells[:80], "Saturated", "ER", 0.5))) == 80


def test_few_wells_are_not_compared() -> None:
    frame = change(plate(2, 3), ["A01"], "Focus", "DNA", -30)
    assert flags(frame) == {}
    assert flags(change(frame, ["A01"], "Saturated", "DNA", 0.3)) == {"A01": "saturated:DNA"}


def test_nulls_are_no_fault() -> None:
    frame = plate()
    for measure in MEASURES:
        column = f"Metadata_QC_{measure}_ER"
        frame = frame.with_columns(
            pl.when(pl.col("Metadata_Well") == "A01")
            .then(None)
            .otherwise(pl.col(column))
            .alias(column)
        )
    assert flags(frame) == {}
    column = pl.lit(None, pl.Float32)
    nothing = frame.with_columns(column.alias(c) for c in quality_columns(frame).values())
    assert flags(nothing) == {}


def test_fields_carry_the_flags_of_their_well() -> None:
    """The median over fields decides: of three the two others."""
    fields = pl.concat(
        plate(seed=seed).with_columns(Metadata_Site=pl.lit(str(seed)), Metadata_n_tiles=1)
        for seed in range(3)
    )
    is_one = pl.col("Metadata_Site") == "0"
    column = "Metadata_QC_Focus_DNA"
    one_bad = fields.with_columns(
        pl.when((pl.col("Metadata_Well") == "B03") & is_one).then(-15.0).otherwise(pl.col(column))
        .cast(pl.Float32).alias(column)
    )  # fmt: skip
    assert flags(one_bad) == {}
    two_bad = fields.with_columns(
        pl.when((pl.col("Metadata_Well") == "B03") & ~is_one).then(-15.0).otherwise(pl.col(column))
        .cast(pl.Float32).alias(column)
    )  # fmt: skip
    flagged = uf.flag_wells(two_bad)
    told = flagged.filter(pl.col("Metadata_QC_Flagged"))
    assert told["Metadata_Well"].to_list() == ["B03"] * 3
    assert flagged.drop("Metadata_QC_Flags", "Metadata_QC_Flagged").equals(two_bad)
    wells = uf.aggregate(flagged)
    assert flags(wells) == {"B03": "defocused:DNA"}
    assert uf.flag_wells(wells).equals(wells)
    middle = np.median(
        fields.filter(Metadata_Well="A01")["Metadata_QC_Signal_ER"].to_numpy().astype(np.float32)
    )
    assert wells.filter(Metadata_Well="A01")["Metadata_QC_Signal_ER"].item() == middle


def test_time_points_and_plates_are_compared_apart() -> None:
    """All wells of the second time point are as blurred as one of the first."""
    early = plate().with_columns(Metadata_Time=0)
    late = plate(seed=1).with_columns(Metadata_Time=1)
    late = change(late, late["Metadata_Well"].to_list(), "Focus", "DNA", -12.0)
    both = change(early, ["C01"], "Focus", "DNA", -12.0).vstack(late)
    found = uf.flag_wells(both).filter(pl.col("Metadata_QC_Flagged"))
    assert found.select("Metadata_Well", "Metadata_Time").rows() == [("C01", 0)]
    plates = both.with_columns(Metadata_Plate=pl.col("Metadata_Time").cast(pl.String)).drop(
        "Metadata_Time"
    )
    assert uf.flag_wells(plates).filter(pl.col("Metadata_QC_Flagged")).height == 1


def test_which_kinds_count_is_configured() -> None:
    frame = change(plate(), ["B02"], "Background", "ER", 2000)
    found = uf.flag_wells(frame)
    assert not found["Metadata_QC_Flagged"].any()
    stricter = thresholds_of({"drop": ["background"]}, "x")
    assert uf.flag_wells(frame, stricter)["Metadata_QC_Flagged"].sum() == 1
    assert shipped_thresholds().drop == ["defocused", "saturated", "empty", "swapped"]


def test_columns_are_told_by_measure_and_channel() -> None:
    found = quality_columns(plate().with_columns(Metadata_QC_Passed_it=True, Metadata_QC_x=1))
    assert list(found) == [(measure, channel) for channel in CHANNELS for measure in MEASURES]
    assert found["Focus", "a_b"] == "Metadata_QC_Focus_a_b"


def test_tables_without_quality_are_refused() -> None:
    with pytest.raises(TableError, match=r"no columns Metadata_QC_.*without --no-qc"):
        uf.flag_wells(pl.DataFrame({"Metadata_Plate": ["p"], "Metadata_Well": ["A01"]}))
    with pytest.raises(TableError, match="Metadata_QC_Focus_DNA is missing"):
        uf.flag_wells(plate().drop("Metadata_QC_Focus_DNA"))
    with pytest.raises(TableError, match="Metadata_Well is missing"):
        uf.flag_wells(plate().drop("Metadata_Well"))
    with pytest.raises(TableError, match="Metadata_QC_Focus_DNA is String"):
        uf.flag_wells(plate().with_columns(Metadata_QC_Focus_DNA=pl.lit("sharp")))
