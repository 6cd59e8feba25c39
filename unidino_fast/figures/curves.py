"""Cell Health: S_t, the share of readouts that are told with an R2 of t at least, over t."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from unidino_fast.errors import TableError
from unidino_fast.figures.style import MOST_KINDS, OKABE_ITO, add_legend, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NEEDED = ("metric", "subject", "value")
_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_THRESHOLD = r"^S_(\d*\.?\d+(?:e-?\d+)?)$"


class Curve(NamedTuple):
    """One curve.

    Attributes:
        table: profiles or a baseline; empty where the rows name none.
        line: the cell line.
        thresholds: (T,), ascending.
        shares: S_t, (T,).
        auc: AUC_s; None where the rows lack it.
    """

    table: str
    line: str
    thresholds: NDArray[np.float64]
    shares: NDArray[np.float64]
    auc: float | None


def is_result(table: pl.DataFrame) -> bool:
    """Whether a table holds the rows that `evaluate --metric cell-health --out` writes."""
    return all(name in table.columns for name in _NEEDED) and table["metric"].dtype == pl.String


def curves_of(rows: pl.DataFrame) -> list[Curve]:
    """Curves of tidy rows, in their order.

    Raises:
        TableError: there are none.
    """
    if not rows["value"].dtype.is_numeric():
        raise TableError(f"column value holds {rows['value'].dtype}, not numbers: mend the table")
    if "table" not in rows.columns:
        rows = rows.with_columns(table=pl.lit(""))
    marked = rows.with_columns(
        threshold=pl.col("metric").str.extract(_THRESHOLD, 1).cast(pl.Float64),
        table=pl.col("table").cast(pl.String).fill_null(""),
        subject=pl.col("subject").cast(pl.String),
    )
    points = marked.filter(
        pl.col("threshold").is_not_null()
        & pl.col("value").is_not_null()
        & pl.col("subject").is_not_null()
    )
    if points.is_empty():
        raise TableError(
            "the table holds no rows S_0 ... S_1: give what unidino-fast evaluate --metric"
            " cell-health --out wrote"
        )
    found = []
    for (table, line), own in points.group_by("table", "subject", maintain_order=True):
        own = own.sort("threshold")
        auc = marked.filter(metric="AUC_s", table=table, subject=line)["value"]
        found.append(
            Curve(
                str(table),
                str(line),
                own["threshold"].to_numpy(),
                own["value"].cast(pl.Float64).to_numpy(),
                auc[0] if len(auc) else None,
            )
        )
    return found


def draw_curves(figure: Any, curves: list[Curve]) -> Any:
    """Curves, a colour a cell line and a dash a table; returns the axes.

    Raises:
        TableError: more cell lines or tables than can be told apart.
    """
    lines = list(dict.fromkeys(curve.line for curve in curves))
    tables = list(dict.fromkeys(curve.table for curve in curves))
    if len(lines) > MOST_KINDS // len(_LINES) or len(tables) > len(_LINES):
        raise TableError(
            f"{len(lines)} cell lines and {len(tables)} tables are more than can be told apart"
            f" ({len(OKABE_ITO)} and {len(_LINES)}): give fewer"
        )
    axes = figure.subplots()
    names = []
    for curve in curves:
        axes.plot(
            curve.thresholds,
            curve.shares,
            color=OKABE_ITO[lines.index(curve.line)],
            linestyle=_LINES[tables.index(curve.table)],
            linewidth=1.4,
            drawstyle="steps-pre",  # between two thresholds the share of the upper one is known
        )
        of_table = f", {shown(curve.table)}" if len(tables) > 1 else ""
        auc = "" if curve.auc is None else f" (AUCₛ {curve.auc:.3f})"
        names.append(f"{shown(curve.line)}{of_table}{auc}")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        xlabel="threshold t of R² on held-out folds",
        ylabel="Sₜ, share of readouts with R² of t or more",
    )
    axes.grid(color="#E5E5E5", linewidth=0.5)
    axes.set_axisbelow(True)
    add_legend(figure, axes.get_lines(), names, "cell line", loc="outside right upper")
    return axes
