"""Rows as one picture: a bar for each candidate, the baseline and the machine's limit as lines."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unidino_fast.benchmarks.candidates import OURS
from unidino_fast.benchmarks.rows import LIMIT, shown
from unidino_fast.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unidino_fast.benchmarks.rows import Row

# Okabe and Ito's colours, told apart with any colour vision; kinds differ in lightness too
_OURS, _OTHERS, _BASELINE, _LINE = "#0072B2", "#BBBBBB", "#E69F00", "#333333"
_KERNEL = "kernel"
_BAR_INCHES = 0.36
_WIDTH_INCHES = 9.5


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Draws rows as a PNG; rows without a value are named below their panel.

    Raises:
        UsageError: matplotlib is not installed, or no row has a value.
        OutputError: the file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "matplotlib is not installed, no picture is drawn: pip install matplotlib"
        ) from error
    panels = [list(members) for _, members in groupby(rows, key=_panel)]
    panels = [panel for panel in panels if any(row.value is not None for row in panel)]
    if not panels:
        raise UsageError("no row has a value: there is nothing to draw")
    heights = [len(_bars(panel)) + 2.8 for panel in panels]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(
            figsize=(_WIDTH_INCHES, sum(heights) * _BAR_INCHES + 0.9), layout="constrained"
        )
        grid = figure.subplots(
            len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw(axes, panel)
        _explain(figure)
        figure.supxlabel(_origin(rows[0]), fontsize=8, color="#555555", x=0.01, ha="left")
        try:
            figure.savefig(path, dpi=160)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): choose another --out"
            ) from error


def _draw(axes: Any, panel: list[Row]) -> None:
    bars = _bars(panel)
    values = [row.value or 0.0 for row in bars]
    places = range(len(bars))
    baseline = next((row.baseline for row in bars if row.baseline), "")
    limit = next((row for row in panel if row.is_limit), None)
    spans = [
        [value - (row.p10 or value) for row, value in zip(bars, values, strict=True)],
        [(row.p90 or value) - value for row, value in zip(bars, values, strict=True)],
    ]
    axes.barh(
        places,
        values,
        height=0.68,
        color=[_colour(row, baseline) for row in bars],
        xerr=spans,
        error_kw={"ecolor": _LINE, "elinewidth": 1, "capsize": 2},
    )
    right = max([*values, *(row.p90 or 0.0 for row in bars)])
    top = limit.value if limit is not None and limit.value else None
    for place, row in zip(places, bars, strict=True):
        end = max(row.value or 0.0, row.p90 or 0.0)
        axes.annotate(
            _label(row),
            (end, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
            zorder=4,
        )
    base = next((row.value for row in bars if row.candidate == baseline), None)
    if base is not None:
        axes.axvline(base, color=_BASELINE, linewidth=1.2, linestyle="--", zorder=1)
    span = max(right * 1.45, (top or 0.0) * 1.12)
    if limit is not None and top is not None:
        axes.axvline(top, color=_LINE, linewidth=1.2, linestyle=":", zorder=1)
        axes.annotate(
            f"{limit.candidate.removeprefix(LIMIT)}: {shown(top)}",
            (top, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
            color=_LINE,
        )
    axes.set_xlim(0, span)
    axes.set_yticks(list(places), [textwrap.fill(row.candidate, 26) for row in bars])
    axes.invert_yaxis()
    axes.set_xlabel(bars[0].unit)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_title(_title(panel), loc="left", fontsize=9, fontweight="bold", pad=16)
    axes.grid(axis="x", color="#E5E5E5", zorder=0)
    axes.set_axisbelow(True)


def _bars(panel: list[Row]) -> list[Row]:
    """What gets a bar, fastest first; the limit is a line."""
    bars = [row for row in panel if row.value is not None and not row.is_limit]
    return sorted(bars, key=lambda row: -(row.value or 0.0))


def _colour(row: Row, baseline: str) -> str:
    if row.candidate.startswith(OURS) or row.candidate == _KERNEL:
        return _OURS
    return _BASELINE if row.candidate == baseline else _OTHERS


def _label(row: Row) -> str:
    parts = [shown(row.value)]
    if row.ratio is not None and row.candidate != row.baseline:
        parts.append(f"{row.ratio:.2f}x")
    if row.limit_share is not None:
        parts.append(f"{row.limit_share:.0%} of limit")
    if row.note.startswith("WRONG"):
        parts.append(row.note)
    if row.noise:
        parts.append("noisy")
    return "  ".join(parts)


def _panel(row: Row) -> tuple[Any, ...]:
    return row.benchmark, row.shape, row.precision, row.batch


def _title(panel: list[Row]) -> str:
    first = panel[0]
    batch = "" if first.batch is None else f", batch {first.batch}"
    text = textwrap.fill(f"{first.benchmark}: {first.precision}{batch}; {first.shape}", 84)
    missing = [row.candidate for row in panel if row.value is None]
    return text + (f"\nleft out: {', '.join(missing)}" if missing else "")


def _origin(row: Row) -> str:
    where = row.environment
    return (
        f"{where.device}, {where.threads} of {where.cores} cores, torch {where.torch},"
        f" commit {where.commit}, {where.date[:10]}"
    )


def _explain(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_OURS, label="this package"),
        Patch(color=_BASELINE, label="baseline of the ratios"),
        Patch(color=_OTHERS, label="others"),
        Line2D([], [], color=_LINE, linestyle=":", label="limit, measured in the same rounds"),
        Line2D([], [], color=_LINE, linewidth=1, marker="|", label="10 to 90 % of rounds"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=8)
