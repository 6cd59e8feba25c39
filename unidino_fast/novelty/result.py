"""What `find_unusual` gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True, slots=True)
class Unusual:
    """What is unlike the controls.

    Attributes:
        rows: the metadata of the table, a row each, then `control`, `mahalanobis`,
            `mahalanobis_p`, `mahalanobis_q`, `knn`, `knn_p`, `knn_q` (q is null for controls),
            `unusual` (q of the chosen measure is at most the rate; false for controls) and
            `cluster` (null for what is in none).
        wells: the same of wells where the table is of fields; else `rows`.
        clusters: a row a cluster of unusual wells, largest first: `cluster`, `n_wells`, `label`
            (the commonest) and its `share`, `explained` (null without labels), `cohesion` (mean
            cosine of pairs), median `distance`, `rows` (places in `wells`).
        nearest: the treatments most like each cluster: `cluster, rank, similarity`, the treatment's
            columns, `n_wells`.
        n_controls: rows that are controls, in `wells`.
        n_components: of the space of distances, for `wells`.
        least_p: that an empirical p-value of a well can have.
        warnings: what a person should know, a line each.
        options: what was asked for.
    """

    rows: pl.DataFrame
    wells: pl.DataFrame
    clusters: pl.DataFrame
    nearest: pl.DataFrame
    n_controls: int
    n_components: int
    least_p: float
    warnings: tuple[str, ...]
    options: dict[str, Any]

    @property
    def candidates(self) -> pl.DataFrame:
        """Clusters that no known label explains: all, where no label was given."""
        return self.clusters.filter(~pl.col("explained").fill_null(value=False))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: counts, and of each cluster its wells and nearest treatments."""
        judged = self.wells.filter(~pl.col("control"))
        fields = self.rows.filter(~pl.col("control"))
        clusters = [
            {
                **{name: value for name, value in row.items() if name != "rows"},
                "wells": [_place(well) for well in self.wells[row["rows"]].to_dicts()],
                "nearest": self.nearest.filter(pl.col("cluster") == row["cluster"])
                .drop("cluster")
                .to_dicts(),
            }
            for row in self.clusters.to_dicts()
        ]
        found = {
            **self.options,
            "n_controls": self.n_controls,
            "n_wells": len(judged),
            "n_unusual": int(judged["unusual"].sum()),
            "n_components": self.n_components,
            "least_p": self.least_p,
            "n_candidates": len(self.candidates),
            "clusters": clusters,
            "warnings": list(self.warnings),
        }
        if len(self.rows) != len(self.wells):
            found |= {"n_fields": len(fields), "n_unusual_fields": int(fields["unusual"].sum())}
        return found


def _place(row: dict[str, Any]) -> dict[str, Any]:
    """Where a well is."""
    names = ("Plate", "Well", "Time")
    return {name.lower(): row[f"Metadata_{name}"] for name in names if f"Metadata_{name}" in row}
