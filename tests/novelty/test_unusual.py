"""Clusters among what is unusual, fields and wells, and tables that cannot be judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from novelty_screens import CONTROLS, screen

import unidino_fast as uf
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.protocols import load_recipe
from unidino_fast.evaluation.protocols.prepare import prepare
from unidino_fast.novelty.clusters import cluster
from unidino_fast.tables import read_table

if TYPE_CHECKING:
    from pathlib import Path

F = 40


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    """Mechanisms A and B, ten wells each, ten of an unknown one not far from A, ten of nothing."""
    rng = np.random.default_rng(4)
    a, b, other = np.linalg.qr(rng.standard_normal((F, 3)))[0].T
    new = 0.6 * a + 0.8 * other
    doses = rng.uniform(15, 40, (40, 1))
    shifts = doses * np.repeat([a, b, new, 0 * a], 10, axis=0)
    moa = ["A"] * 10 + ["B"] * 10 + [None] * 10 + ["none"] * 10
    return screen(rng, n_controls=80, shifts=shifts, MoA=moa, Batch=[1, 2] * 20)


def test_a_new_cluster_is_named_with_its_neighbours_and_known_ones_are_not(
    planted: pl.DataFrame,
) -> None:
    found = uf.find_unusual(planted, CONTROLS, label="MoA", treatment="Batch", n_nearest=4)
    assert found.rows["unusual"].to_numpy()[80:110].all()
    assert found.rows["unusual"].to_numpy()[110:].sum() <= 4
    assert not found.rows["unusual"].to_numpy()[:80].any()
    [candidate] = found.candidates.to_dicts()
    assert sorted(candidate["rows"]) == list(range(100, 110))
    assert candidate["label"] is None
    known = found.clusters.filter(explained=True)
    assert sorted(known["label"]) == ["A", "B"]
    assert sorted(map(sorted, known["rows"].to_list())) == [
        list(range(80, 90)),
        list(range(90, 100)),
    ]
    nearest = found.nearest.filter(cluster=candidate["cluster"])
    assert nearest["Metadata_MoA"].to_list()[:2] == ["A", "A"]
    assert set(nearest["Metadata_Batch"][:2]) == {1, 2}
    assert nearest["n_wells"].to_list()[:2] == [5, 5]
    assert nearest["similarity"][0] == pytest.approx(0.6, abs=0.15)  # the cosine as it was planted
    of_a = found.clusters.filter(label="A")["cluster"][0]
    assert "A" not in found.nearest.filter(cluster=of_a)["Metadata_MoA"].to_list()
    again = uf.find_unusual(planted, CONTROLS, label="MoA", treatment="Batch", n_nearest=4)
    assert again.rows.equals(found.rows)
    assert again.to_dict() == found.to_dict()


def test_without_labels_every_cluster_is_a_candidate(planted: pl.DataFrame) -> None:
    found = uf.find_unusual(planted.drop("Metadata_MoA"), CONTROLS)
    assert len(found.candidates) == len(found.clusters) == 3
    assert found.clusters["explained"].null_count() == 3
    assert found.nearest.is_empty()
    half = planted.with_columns(
        pl.when(pl.int_range(pl.len()) % 10 < 5).then("Metadata_MoA").alias("Metadata_MoA")
    )
    of_half = uf.find_unusual(half, CONTROLS, label="MoA").clusters
    assert set(of_half["share"]) == {0.5, 0.0}  # not more than half: not explained
    assert not of_half["explained"].any()
    assert (
        uf.find_unusual(half, CONTROLS, label="MoA", explained=0.49).clusters["explained"].sum()
        == 2
    )


def test_one_phenotype_alone_is_a_cluster_and_scatter_is_none() -> None:
    rng = np.random.default_rng(0)
    alike = 10 * np.eye(1, 20) + rng.standard_normal((15, 20))
    assert (cluster(alike, 4) == 0).sum() >= 12
    assert (cluster(rng.standard_normal((15, 20)), 4) == -1).all()
    assert (cluster(alike[:3], 4) == -1).all()


def test_fields_are_judged_and_their_wells_too(planted: pl.DataFrame) -> None:
    rng = np.random.default_rng(9)
    names = [name for name in planted.columns if name.startswith("DNA")]
    fields = pl.concat([planted] * 3).with_columns(
        Metadata_Site=pl.Series([f"f{i}" for i in range(3) for _ in range(len(planted))]),
        **{name: pl.col(name) + rng.normal(0, 0.3, 3 * len(planted)) for name in names},
    )
    debris = 5  # a field of a control well
    fields = fields.with_columns(
        pl.when(pl.int_range(pl.len()) == debris).then(50.0).otherwise("DNA_000").alias("DNA_000")
    )
    found = uf.find_unusual(fields, CONTROLS, label="MoA")
    assert len(found.rows) == 360
    assert len(found.wells) == 120
    assert found.n_controls == 80
    assert found.rows.filter(control=True)["mahalanobis"].arg_max() == debris
    assert found.rows["mahalanobis_p"][debris] == pytest.approx(1 / 240)
    means = fields.group_by("Metadata_Plate", "Metadata_Well", maintain_order=True).agg(
        pl.col("Metadata_Compound", "Metadata_MoA").first(), pl.col(names).mean()
    )
    of_means = uf.find_unusual(means, CONTROLS, label="MoA").wells
    np.testing.assert_allclose(found.wells["mahalanobis"], of_means["mahalanobis"], rtol=1e-4)
    joined = found.rows.join(found.wells, on=["Metadata_Plate", "Metadata_Well"])
    assert joined["cluster"].equals(joined["cluster_right"].alias("cluster"))


def test_what_few_controls_cannot_tell_is_said() -> None:
    rng = np.random.default_rng(8)
    shifts = np.zeros((20, 6))
    shifts[:4] = 30
    table = screen(rng, n_controls=12, shifts=shifts)
    found = uf.find_unusual(table, CONTROLS)
    assert not found.rows["unusual"].any()
    assert found.least_p == pytest.approx(1 / 13)
    assert "12 controls give a p-value of 0.077 at least" in found.warnings[0]
    assert "take 19 controls" in found.warnings[0]
    lognormal = uf.find_unusual(table, CONTROLS, tail="lognormal")
    assert lognormal.rows["unusual"].to_numpy()[12:16].all()
    assert lognormal.warnings == ()
    few = screen(rng, n_controls=25, shifts=shifts)
    assert "fewer than 16 unusual rows of 20" in uf.find_unusual(few, CONTROLS).warnings[0]


TABLE = screen(np.random.default_rng(1), n_controls=9, shifts=np.ones((5, 3)))
CONSTANT = TABLE.with_columns(pl.col("^DNA.*$") * 0)
FLAT_CONTROLS = TABLE.with_columns(
    pl.when(Metadata_Compound="DMSO").then(1.0).otherwise(pl.col("^DNA.*$")).name.keep()
)


@pytest.mark.parametrize(
    ("table", "samples", "said"),
    [
        (TABLE, 'Metadata_Compound == "none"', "no row of 14 fits the samples"),
        (TABLE, 'Metadata_Compound != "none"', "all 14 rows fit the samples"),
        (TABLE, 'Metadata_Well == "A01"', "1 control well cannot show how controls vary"),
        (TABLE[8:10], CONTROLS, "the table has 2 rows"),
        (TABLE[:0], CONTROLS, "the table has 0 rows"),
        (CONSTANT, CONTROLS, "no feature varies among 14 rows"),
        (FLAT_CONTROLS, CONTROLS, "controls do not differ from each other"),
        (TABLE.with_columns(DNA_001=pl.lit(None, pl.Float64)), CONTROLS, "feature DNA_001 is null"),
        (TABLE.with_columns(DNA_001=float("nan")), CONTROLS, "feature DNA_001 is null, NaN or inf"),
        (TABLE.with_columns(DNA_001=1e300), CONTROLS, "feature DNA_001 is larger than float32"),
        (TABLE.lazy(), CONTROLS, "give a Polars DataFrame"),
        (TABLE.with_columns(DNA_001=pl.lit("x")), CONTROLS, "DNA_001 holds String"),
        (TABLE.select("^Metadata_.*$"), CONTROLS, "no feature columns"),
        (TABLE.with_columns(Metadata_Plate="Metadata_Well"), CONTROLS, "A01 has one control well"),
        (TABLE, "Metadata_Nothing == 1", "names column Metadata_Nothing"),
        (TABLE, "import os", "is not understood"),
    ],
)
def test_tables_that_cannot_be_judged(table: pl.DataFrame, samples: str, said: str) -> None:
    with pytest.raises((TableError, UsageError), match=said) as caught:
        uf.find_unusual(table, samples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "MoA"}, "no column Metadata_MoA"),
        ({"by": "Batch"}, "no column Metadata_Batch"),
        ({"k": 0}, "k 0 is too small"),
        ({"k": 9}, "k 9 is more than the 8 controls"),
        ({"fdr": 1.0}, "fdr 1.0 is no share"),
        ({"variance": 0.0}, "variance 0.0 is no share"),
        ({"measure": "cosine"}, "measure 'cosine' is unknown"),
        ({"tail": "normal"}, "tail 'normal' is unknown"),
        ({"smallest": 1}, "smallest 1 is too small"),
        ({"explained": 0.0}, "explained 0.0 is no share"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises((TableError, UsageError), match=said):
        uf.find_unusual(TABLE, CONTROLS, **options)


@pytest.mark.real_data
def test_a_mechanism_of_bbbc021_that_is_held_out_is_found(real_data_dir: Path) -> None:
    folder = real_data_dir / "bbbc021_profiles"
    recipe = load_recipe("paper-bbbc021").model_copy(update={"where": (), "at_least": ()})
    joined = {n: read_table(folder / f"BBBC021_v1_{n}") for n in ("image.csv.gz", "moa.csv")}
    profiles = read_table(folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    wells = prepare(profiles, recipe, joined, None, ())
    hidden = wells.with_columns(
        pl.when(pl.col("Metadata_MoA") != "Actin disruptors").then("Metadata_MoA")
    )
    found = uf.find_unusual(hidden, CONTROLS, label="MoA")
    actin = wells["Metadata_MoA"] == "Actin disruptors"
    assert found.rows.filter(actin)["unusual"].mean() > 0.9
    [candidate] = found.candidates.to_dicts()
    in_it = wells[candidate["rows"]]["Metadata_MoA"]
    assert set(in_it) == {"Actin disruptors"}
    assert len(in_it) >= 0.7 * actin.sum()
    assert json.dumps(found.to_dict(), allow_nan=False)
