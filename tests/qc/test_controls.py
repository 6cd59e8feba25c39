"""What labels say: separation of controls and agreement of replicates, against plain loops."""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import polars as pl
import pytest
from quality_tables import brighten, change, names, plate

import unidino_fast as uf
from unidino_fast.errors import TableError, UsageError
from unidino_fast.qc import Thresholds, shipped_thresholds, thresholds_of
from unidino_fast.qc.controls import along_axis, controls_of, ssmd, z_prime


def labelled(
    apart: float, *, agree: float = 1.0, seed: int = 0, compounds: int = 20
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Wells and profiles: 16 negative and 8 positive controls, the rest `compounds`."""
    rng = np.random.default_rng(seed)
    wells = plate()
    roles = ["negcon"] * 16 + ["poscon"] * 8 + ["trt"] * 72
    holds = ["DMSO"] * 16 + ["drug"] * 8 + [f"c{at % compounds}" for at in range(72)]
    features = rng.normal(size=(96, 40))
    features[16:24] += apart
    of_compounds = rng.normal(size=(compounds, 40)) * agree
    for at in range(72):
        features[24 + at] += of_compounds[at % compounds]
    profiles = pl.DataFrame(
        {
            "Metadata_Plate": ["p"] * 96,
            "Metadata_Well": names(8, 12),
            "Metadata_Role": roles,
            "Metadata_Compound": holds,
            **{f"DNA_{i:03d}": features[:, i].astype(np.float32) for i in range(40)},
        }
    )
    return wells, profiles


def check_of(
    name: str, wells: pl.DataFrame, profiles: pl.DataFrame, config: Thresholds | None = None
) -> dict[str, object]:
    checks = uf.plate_qc(wells, profiles, config).to_dict()["checks"]
    (found,) = [c for c in checks if c["check"] == name and c["channel"] is None]
    return dict(found)


def test_z_prime_and_ssmd_by_hand() -> None:
    low, high = [1.0, 2.0, 3.0, 2.5], [9.0, 11.0, 10.0]
    wanted = 1 - 3 * (stdev(low) + stdev(high)) / abs(mean(high) - mean(low))
    assert z_prime(np.array(low), np.array(high)) == pytest.approx(wanted)
    wanted = (mean(high) - mean(low)) / (stdev(low) ** 2 + stdev(high) ** 2) ** 0.5
    assert ssmd(np.array(low), np.array(high)) == pytest.approx(wanted)
    assert z_prime(np.array([1.0, 1.0]), np.array([1.0, 1.0])) is None
    assert ssmd(np.array([1.0, 1.0]), np.array([2.0, 2.0])) is None
    assert z_prime(np.array([1.0]), np.array([2.0, 3.0])) is None


def test_places_on_the_axis_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.normal(size=(5, 7)), rng.normal(size=(4, 7)) + 1
    found = along_axis(low, high)
    for at in range(5):
        rest = [list(row) for i, row in enumerate(low) if i != at]
        start = [mean(column) for column in zip(*rest, strict=True)]
        axis = [mean(column) - s for column, s in zip(zip(*high, strict=True), start, strict=True)]
        place = sum((x - s) * a for x, s, a in zip(low[at], start, axis, strict=True))
        assert found[0][at] == pytest.approx(place / sum(a * a for a in axis))
    assert mean(found[1]) > mean(found[0])


def test_controls_that_are_not_apart_are_not_made_so() -> None:
    """In 40 dimensions any two groups can be told apart by an axis that knows them."""
    for seed in range(5):
        together = check_of("controls", *labelled(0.0, seed=seed))
        assert together["found"]
        assert together["details"]["ssmd"] < 1  # type: ignore[index]
    apart = check_of("controls", *labelled(3.0))
    assert not apart["found"]
    assert apart["details"]["z_prime"] > 0.3  # type: ignore[index]
    assert (apart["details"]["n_negative"], apart["details"]["n_positive"]) == (16, 8)  # type: ignore[index]


def test_controls_by_stain() -> None:
    wells, profiles = labelled(3.0)
    wells = brighten(wells, dict.fromkeys(names(8, 12)[16:24], 5.0), ["ER"])
    checks = uf.plate_qc(wells, profiles).checks
    found = {c.channel: c.details["z_prime"] for c in checks if c.check == "controls"}
    light = wells["Metadata_QC_Intensity_ER"] - wells["Metadata_QC_Background_ER"]
    low, high = light.to_list()[:16], light.to_list()[16:24]
    wanted = 1 - 3 * (stdev(low) + stdev(high)) / (mean(high) - mean(low))
    assert found["ER"] == pytest.approx(wanted, rel=1e-4)
    assert found["ER"] > 0.3 > found["DNA"]


def test_controls_by_query_and_flagged_ones_left_out() -> None:
    wells, profiles = labelled(3.0)
    config = thresholds_of(
        {
            "controls": {
                "negative": 'Metadata_Compound == "DMSO"',
                "positive": 'Metadata_Compound in ["drug"]',
            }
        },
        "x",
    )
    plain = profiles.drop("Metadata_Role")
    assert "controls" in uf.plate_qc(wells, plain).not_assessed
    assert check_of("controls", wells, plain, config) == check_of("controls", wells, profiles)
    wells = change(wells, ["A01", "A02"], "Saturated", "DNA", 0.4)
    assert check_of("controls", wells, plain, config)["details"]["n_negative"] == 14  # type: ignore[index]
    wells = change(wells, names(8, 12)[16:22], "Saturated", "DNA", 0.4)
    reason = uf.plate_qc(wells, plain, config).not_assessed["controls"]
    assert reason == "2 positive controls without flags are too few: 3 are needed"


def test_negative_controls_are_found_without_a_column_of_roles() -> None:
    """They are no replicates of each other, whichever column says that they are controls."""
    wells, profiles = labelled(3.0)
    plain = profiles.with_columns(Metadata_Role=pl.lit("trt"))
    config = shipped_thresholds()
    negative, positive = controls_of(plain, config.controls)
    expected = (profiles["Metadata_Role"] == "negcon").to_list()
    assert negative.tolist() == expected
    assert not positive.any()
    # 20 compounds and the positive control, which nothing marks now; DMSO is no set
    assert check_of("replicates", wells, plain)["details"]["n_groups"] == 21  # type: ignore[index]
    coded = plain.drop("Metadata_Compound").with_columns(
        Metadata_Plate_Control=pl.Series([-1 if mark else 0 for mark in expected])
    )
    assert controls_of(coded, config.controls)[0].tolist() == expected


def test_queries_that_do_not_fit() -> None:
    wells, profiles = labelled(1.0)
    for query, error in (("Metadata_Nope == 1", TableError), ("Metadata_Role ==", UsageError)):
        config = thresholds_of({"controls": {"negative": query, "positive": query}}, "x")
        with pytest.raises(error):
            uf.plate_qc(wells, profiles, config)


def test_replicates_against_a_loop() -> None:
    wells, profiles = labelled(1.0)
    found = check_of("replicates", wells, profiles)
    treated = profiles.filter(Metadata_Role="trt")
    rows = [np.array(row) for row in treated.select(uf.feature_columns(treated)).rows()]
    holds = treated["Metadata_Compound"].to_list()
    same: dict[str, list[float]] = {}
    other = []
    for i, one in enumerate(rows):
        for j in range(i):
            correlation = float(np.corrcoef(one, rows[j])[0, 1])
            if holds[i] == holds[j]:
                same.setdefault(holds[i], []).append(correlation)
            else:
                other.append(correlation)
    null = float(np.percentile(other, 75))
    medians = [float(np.median(pairs)) for pairs in same.values()]
    details = found["details"]
    assert details["null_75"] == pytest.approx(null, rel=1e-4)  # type: ignore[index]
    high = float(np.percentile(other, 95))
    assert details["null_95"] == pytest.approx(high, rel=1e-4)  # type: ignore[index]
    share = mean(m > high for m in medians)
    assert details["share_95"] == pytest.approx(share, rel=1e-4)  # type: ignore[index]
    assert details["median_replicate"] == pytest.approx(float(np.median(medians)), rel=1e-4)  # type: ignore[index]
    assert found["value"] == pytest.approx(mean(m > null for m in medians), rel=1e-4)
    assert details["n_groups"] == 20  # type: ignore[index]
    assert not found["found"]


def test_replicates_that_do_not_agree() -> None:
    wells, profiles = labelled(1.0, agree=0.0)
    found = check_of("replicates", wells, profiles)
    assert found["found"]
    report = uf.plate_qc(wells, profiles)
    assert any("replicates by Metadata_Compound hardly agree" in line for line in report.warnings)
    few = uf.plate_qc(*labelled(1.0, compounds=4)).not_assessed["replicates"]
    assert few == "4 sets of replicates by Metadata_Compound are too few: 5 are needed"
