"""Nearest-neighbour accuracies on the published profiles of BBBC021."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics.pairwise import cosine_distances

from unidino_fast.evaluation import evaluate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def bbbc021(real_data_dir: Path) -> pl.DataFrame:
    """Evaluation wells of REFERENCE section 4, z-scored per plate on the plate's DMSO wells.

    CellProfiler well means of Ljosa et al. 2013. Features that are constant among the DMSO wells
    of a plate are left out.
    """
    folder = real_data_dir / "bbbc021_profiles"
    wells = pl.read_csv(
        folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz", infer_schema_length=None
    ).rename({"Image_Metadata_Plate": "Metadata_Plate", "Image_Metadata_Well": "Metadata_Well"})
    images = pl.read_csv(folder / "BBBC021_v1_image.csv.gz", infer_schema_length=None)
    treatments = images.select(
        Metadata_Plate="Image_Metadata_Plate_DAPI",
        Metadata_Well="Image_Metadata_Well_DAPI",
        Metadata_Compound="Image_Metadata_Compound",
        Metadata_Concentration="Image_Metadata_Concentration",
    ).unique()
    moas = pl.read_csv(folder / "BBBC021_v1_moa.csv").select(
        Metadata_Compound="compound", Metadata_Concentration="concentration", Metadata_MoA="moa"
    )
    wells = (
        wells.join(treatments, on=["Metadata_Plate", "Metadata_Well"], maintain_order="left")
        .join(
            moas,
            on=["Metadata_Compound", "Metadata_Concentration"],
            how="left",
            maintain_order="left",
        )
        .with_columns(Metadata_Batch=pl.col("Metadata_Plate").str.split("_").list.first())
    )
    features = [column for column in wells.columns if not column.startswith("Metadata_")]
    control = pl.col(features).filter(pl.col("Metadata_Compound") == "DMSO")
    scored = wells.with_columns(
        ((pl.col(features) - control.mean()) / control.std()).over("Metadata_Plate")
    )
    finite = scored.select(pl.col(features).is_finite().all()).row(0)
    scored = scored.drop([f for f, ok in zip(features, finite, strict=True) if not ok])
    week1 = pl.col("Metadata_Plate").str.starts_with("Week1_")
    placed = pl.col("Metadata_Well").is_in(["D03", "D04", "D05"])
    return scored.filter(
        pl.col("Metadata_MoA").is_not_null()
        & (pl.col("Metadata_Compound") != "DMSO")
        & ((pl.col("Metadata_Compound") != "taxol") | (week1 & placed))
    )


@pytest.mark.real_data
def test_bbbc021_counts_of_the_paper(bbbc021: pl.DataFrame) -> None:
    treatments = ["Compound", "Concentration", "Batch", "MoA"]
    keys = [f"Metadata_{name}" for name in treatments]
    rows = bbbc021.group_by(keys, maintain_order=True).agg(pl.exclude("^Metadata_.*$").mean())
    assert (len(bbbc021), len(rows)) == (302, 103)
    wells = evaluate(bbbc021, preset="NSC")
    assert (wells.n_queries, wells.n_without_candidate, len(wells.per_class)) == (302, 0, 12)
    batch = evaluate(bbbc021, preset="NSCB")
    assert batch.n_queries == 274
    assert batch.dropped_labels == ("Cholesterol-lowering", "Kinase inhibitors")
    assert evaluate(bbbc021, preset="NSPW").n_queries == 302
    treated = evaluate(rows, preset="NSC")
    assert (treated.n_queries, treated.n_without_candidate) == (103, 0)
    at_level = evaluate(bbbc021, preset="NSC", level="treatment")
    assert (at_level.n_queries, at_level.n_correct) == (103, treated.n_correct)
    for result in (wells, batch, treated):
        assert result.accuracy > 2.5 * result.chance


@pytest.mark.real_data
@pytest.mark.parametrize("preset", ["NSC", "NSCB", "NSPW"])
def test_bbbc021_against_the_released_matrix(bbbc021: pl.DataFrame, preset: Any) -> None:
    """The seed rule on the whole distance matrix at once, as the released code has it."""
    result = evaluate(bbbc021, preset=preset, rule="seed")
    rows = bbbc021.filter(~pl.col("Metadata_MoA").is_in(result.dropped_labels))
    distances = cosine_distances(rows.select(pl.exclude("^Metadata_.*$")).to_numpy())
    labels = rows[result.label].to_numpy()
    excluded = np.eye(len(rows), dtype=bool)
    for key in result.not_same:
        shared = rows[key].to_numpy()[:, None] == rows[key].to_numpy()
        same_label = labels[:, None] == labels
        excluded |= shared if key == "Metadata_Well" else shared & same_label
    distances[excluded] = distances.max()
    predicted = labels[distances.argmin(axis=1)]
    assert result.n_correct == (predicted == labels).sum()
    assert result.accuracy == pytest.approx(np.mean(predicted == labels))
