"""What is drawn is what the data say: places, colours, lengths and names."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgba
from scipy.cluster.hierarchy import average as average_linkage
from scipy.spatial.distance import pdist

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import ChannelResult
from unidino_fast.figures import FigureOptions, draw_figure
from unidino_fast.figures.bars import draw_importance, named_by_channel
from unidino_fast.figures.curves import curves_of, draw_curves
from unidino_fast.figures.kinds import kinds_of
from unidino_fast.figures.planes import draw_plane, umap_plane
from unidino_fast.figures.similarity import correlations, draw_similarity, leaf_order
from unidino_fast.figures.style import OKABE_ITO, new_figure, save_figure, style

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RNG = np.random.default_rng(0)
PLANE = RNG.standard_normal((30, 2))
HOSTILE = [
    "$\\frac{1}$",
    "_x_",
    "<script>alert(1)</script>",
    "a\x1b[1m\nb",
    "\u202eRTL",
    "中",
    "=1+1",
]
HOSTILE += ["y" * 10_000, "y" * 9_999 + "z", "", "100 %", "{}"]


@pytest.fixture(autouse=True)
def in_style() -> Iterator[None]:
    """Figures are made and looked at under the settings that they are written with."""
    with style():
        yield


def legend_of(figure: Any) -> list[str]:
    [legend] = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_a_plane_shows_each_kind_at_its_places_in_its_colour() -> None:
    label = pl.Series([["b", "a", None][i % 3] for i in range(30)])
    figure = new_figure(100)
    axes = draw_plane(figure, PLANE, label, "MoA", "UMAP")
    assert legend_of(figure) == ["a", "b", "(none)"]
    none, b, a = axes.collections  # those without a label lie below
    for drawn, value, colour in ((a, "a", OKABE_ITO[0]), (b, "b", OKABE_ITO[1])):
        np.testing.assert_array_equal(drawn.get_offsets(), PLANE[(label == value).fill_null(False)])
        assert {to_hex(c).upper() for c in drawn.get_facecolors()} == {colour.upper()}
    np.testing.assert_array_equal(none.get_offsets(), PLANE[label.is_null()])
    assert [to_hex(h.get_facecolor()[0]) for h in figure.legends[0].legend_handles] == [
        to_hex(drawn.get_facecolors()[0]) for drawn in (a, b, none)
    ]
    assert axes.get_xlabel() == "UMAP 1 (no unit)"


def test_amounts_are_viridis_over_their_range() -> None:
    amounts = [None, float("nan"), *np.linspace(-2, 7, 28)]
    figure = new_figure(100)
    axes = draw_plane(figure, PLANE, pl.Series(amounts), "Dose", "UMAP")
    unknown, known = axes.collections
    np.testing.assert_array_equal(unknown.get_offsets(), PLANE[:2])
    np.testing.assert_array_equal(known.get_offsets(), PLANE[2:])
    np.testing.assert_allclose(known.get_array(), amounts[2:])
    assert (known.get_cmap().name, known.get_clim()) == ("viridis", (-2, 7))
    assert figure.axes[1].get_ylabel() == "Dose"
    few = draw_plane(new_figure(100), PLANE, pl.Series([10, 2, 1] * 10), "Dose", "UMAP")
    steps = [to_hex(drawn.get_facecolors()[0]) for drawn in reversed(few.collections)]
    assert steps == [to_hex(colormaps["viridis"](share)) for share in (0, 0.475, 0.95)]
    doses = pl.Series(np.geomspace(0.01, 100, 30))
    figure = new_figure(100)
    points = draw_plane(figure, PLANE, doses, "Dose", "UMAP").collections[-1]
    np.testing.assert_allclose(points.norm(doses.to_numpy()), np.linspace(0, 1, 30), atol=1e-9)
    figure.draw_without_rendering()
    ticks = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert {"0.01", "1", "100"} <= set(ticks)


def test_kinds_differ_in_colour_or_mark_and_the_rare_are_put_together() -> None:
    kinds = kinds_of(pl.Series([f"k{i % 50:02d}" for i in range(30 * 50 + 39)] + [None]))
    assert kinds.names == (*(f"k{i:02d}" for i in range(39)), "(others)", "(none)")
    assert (kinds.codes == 39).sum() == 11 * 30
    marks = list(zip(kinds.colours, kinds.markers, strict=True))
    assert len(set(marks)) == len(marks) == 41
    assert len(set(zip(kinds.colours, kinds.hatches, strict=True))) == 41
    assert kinds_of(pl.Series([10.0, 2.0, None, float("nan")])).names == ("2.0", "10.0", "(none)")


def test_a_similarity_map_is_the_correlation_in_the_order_of_its_clustering() -> None:
    means = RNG.standard_normal((4, 50))[[0, 1, 2, 3, 0, 1, 2]] + 0.3 * RNG.standard_normal((7, 50))
    names = [f"c{i}" for i in range(7)]
    figure = new_figure(150)
    label = pl.Series(["p", "q", "r", "s", "p", "q", "r"])
    axes = draw_similarity(figure, means, names, label, ("Compound", "MoA"))
    [image] = axes.images
    shown = [text.get_text() for text in axes.get_yticklabels()]
    order = [names.index(name) for name in shown]
    np.testing.assert_allclose(image.get_array(), np.corrcoef(means[order]))
    assert image.get_clim() == (-1, 1)
    heights = average_linkage(pdist(means, "correlation"))
    assert heights[0, 2] < 0.2 < heights[-1, 2]  # replicates join first
    for twin in range(3):
        assert abs(order.index(twin) - order.index(twin + 4)) == 1
    [strip] = axes.child_axes
    drawn = {round(bar.get_center()[0]): to_hex(bar.get_facecolor()) for bar in strip.patches}
    expected = [to_hex(OKABE_ITO["pqrs".index(label[place])]) for place in order]
    assert [drawn[place] for place in range(7)] == expected
    assert legend_of(figure) == ["p", "q", "r", "s"]


@pytest.mark.parametrize("name", ["x", "N-(4-hydroxyphenyl)-2-chloro-benzamide-40", "😀$_" * 13])
def test_a_similarity_map_keeps_its_room_beside_long_names(name: str) -> None:
    means = np.random.default_rng(0).normal(size=(12, 5))
    figure = new_figure(150)
    axes = draw_similarity(figure, means, [name] * 12, None, ("Compound", ""))
    figure.draw_without_rendering()
    assert axes.get_window_extent().width > 0.4 * figure.bbox.width
    widest = max(tick.get_window_extent().width for tick in axes.get_yticklabels())
    points = axes.get_yticklabels()[0].get_fontsize()
    assert points == 5.0 or widest < 0.27 * figure.bbox.width  # to a pixel or two


def test_a_similarity_map_of_many_leaves_names_out_and_of_two_is_refused() -> None:
    many = RNG.standard_normal((150, 5))
    axes = draw_similarity(new_figure(150), many, ["x"] * 150, None, ("Compound", ""))
    assert axes.get_yticks().size == 0
    assert axes.get_ylabel() == "150 values of Compound, in the order of the clustering"
    with pytest.raises(TableError, match="needs 3 to 2000 groups, not 2 by Compound"):
        draw_similarity(new_figure(150), many[:2], ["x"] * 2, None, ("Compound", ""))
    constant = correlations(np.ones((3, 4)))
    np.testing.assert_array_equal(constant, np.eye(3))
    assert sorted(leaf_order(constant)) == [0, 1, 2]


def test_bars_have_the_counts_as_lengths() -> None:
    counts = {"m2": {"DNA": 10, "ER": 40}, "_m1": {"DNA": 30, "ER": 20}}
    result = ChannelResult("Metadata_MoA", ("DNA", "ER"), counts, {"m2": 4, "_m1": 7}, ())
    figure = new_figure(80)
    axes = draw_importance(figure, result, "MoA")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["m2 (n = 4)", "_m1 (n = 7)"]
    bars = [(bar.get_x(), bar.get_width(), round(bar.get_center()[1])) for bar in axes.patches]
    assert bars == [(0, 10, 0), (0, 30, 1), (10, 40, 0), (30, 20, 1)]
    colours = [to_rgba(OKABE_ITO[i]) for i in (0, 0, 1, 1)]
    assert [bar.get_facecolor() for bar in axes.patches] == colours
    assert legend_of(figure) == ["DNA", "ER"]


def test_curves_are_the_rows_of_the_result() -> None:
    rows = [("profiles", f"S_{t:g}", "A549", 1 - t) for t in (0.5, 0, 1, 1e-5)]
    rows += [("gaussian", "S_0", "A549", 0.2), ("gaussian", "S_1", "A549", 0.0)]
    rows += [("profiles", "AUC_s", "A549", 0.25), ("profiles", "R2", "A549 cc", 0.4)]
    table = pl.DataFrame(rows, schema=["table", "metric", "subject", "value"], orient="row")
    figure = new_figure(80)
    axes = draw_curves(figure, curves_of(table))
    first, second = axes.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), [0, 1e-5, 0.5, 1])
    np.testing.assert_array_equal(first.get_ydata(), [1, 1 - 1e-5, 0.5, 0])
    np.testing.assert_array_equal(second.get_ydata(), [0.2, 0])
    assert first.get_color() == second.get_color() == OKABE_ITO[0]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert legend_of(figure) == ["A549, profiles (AUCₛ 0.250)", "A549, gaussian"]
    with pytest.raises(TableError, match="holds no rows S_0"):
        curves_of(table.filter(metric="R2"))


def test_features_are_told_by_a_part_of_their_name() -> None:
    names = ["Cells_Area", "Cells_Mean_DNA", "Nuclei_Edge_ER_3", "Nuclei_DNA_ER", "Cells_DNAX"]
    table = pl.DataFrame({"Metadata_Well": ["A01"]} | {n: [i] for i, n in enumerate(names)})
    named = named_by_channel(table, ["DNA", "ER"])
    assert named.columns == [
        *("Metadata_Well", "DNA_000", "DNA_001", "ER_000", "no channel_000", "no channel_001")
    ]
    assert named.row(0)[1:] == (1, 3, 2, 0, 4)
    with pytest.raises(TableError, match="no feature is of channel Mito"):
        named_by_channel(table, ["DNA", "Mito"])


def test_hostile_names_are_drawn_as_they_are_and_nothing_else_happens(tmp_path: Path) -> None:
    """No mathtext, no markup, no lost legend entries, no warnings about missing letters."""
    n = len(HOSTILE)
    label = pl.Series(HOSTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plane = new_figure(120)
        draw_plane(plane, PLANE[:n], label, "_$MoA$", "UMAP")
        bars = new_figure(100)
        counts = {name: {"$DNA_0$": 3, "_": 4} for name in HOSTILE}
        channels = ("$DNA_0$", "_")
        sizes = dict.fromkeys(HOSTILE, 2)
        draw_importance(bars, ChannelResult("", channels, counts, sizes, ()), "_$MoA$")
        similarity = new_figure(150)
        means = RNG.standard_normal((n, 9))
        texts = list(kinds_of(label).names)
        draw_similarity(similarity, means, texts, label, ("$C$", "_M"))
        for name, figure in (("a.svg", plane), ("b.pdf", bars), ("c.png", similarity)):
            save_figure(figure, tmp_path / name)
    shown = legend_of(plane)
    assert len(shown) == len(set(shown)) == n
    assert {"$\\frac{1}$", "_x_", "<script>alert(1)</script>", "a_[1m b", "_RTL", "□"} <= set(shown)
    assert max(map(len, shown)) <= 44
    assert legend_of(bars) == ["$DNA_0$", "_"]
    assert "<script" not in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files_are_the_same_every_time_and_name_no_date(tmp_path: Path, suffix: str) -> None:
    written = []
    for name in ("one", "two"):
        figure = new_figure(60)
        draw_plane(figure, PLANE, pl.Series(["a", "b", "c"] * 10), "MoA", "UMAP")
        save_figure(figure, tmp_path / f"{name}{suffix}")
        written.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert written[0] == written[1]
    for word in (b"CreationDate", b"<dc:date>", b"matplotlib.org", b"Software"):
        assert word not in written[0]


def test_umap_keeps_neighbours_and_is_the_same_every_time() -> None:
    centres = np.eye(3, 10) * 10
    values = np.repeat(centres, 12, axis=0) + RNG.standard_normal((36, 10))
    plane = umap_plane(values, neighbours=8)
    np.testing.assert_array_equal(plane, umap_plane(values, neighbours=8))
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) // 12 == np.arange(36) // 12).mean() > 0.9
    with pytest.raises(TableError, match="UMAP needs 8 rows or more, not 7"):
        umap_plane(values[:7])
    with pytest.raises(UsageError, match="min-dist 2 is out of range"):
        umap_plane(values, min_dist=2)


def test_a_similarity_map_of_a_table(screen: pl.DataFrame) -> None:
    figure = draw_figure("similarity", screen, FigureOptions(label="MoA"))
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(names) == sorted(screen["Metadata_Compound"].unique())
    means = screen.group_by("Metadata_Compound").agg(pl.col("^DNA.*$").cast(pl.Float64).mean())
    of = dict(
        zip(means["Metadata_Compound"], means.drop("Metadata_Compound").to_numpy(), strict=True)
    )
    np.testing.assert_allclose(
        axes.images[0].get_array(), np.corrcoef([of[name] for name in names]), atol=1e-9
    )
    both = draw_figure("similarity", screen, FigureOptions(by=("Plate", "MoA")))
    assert "P0 M1" in [text.get_text() for text in both.axes[0].get_yticklabels()]
    with pytest.raises(TableError, match="Metadata_Plate has several values"):
        draw_figure("similarity", screen, FigureOptions(label="Plate"))


def test_importance_of_a_table_counts_as_the_evaluation_does(screen: pl.DataFrame) -> None:
    from unidino_fast.evaluation import channel_importance

    two = screen.rename({f"DNA_{i:03d}": f"ER_{i:03d}" for i in range(12)})
    axes = draw_figure("importance", two, FigureOptions(label="MoA")).axes[0]
    counts = channel_importance(two, "MoA", repeats=0).counts
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [of[channel] for channel in ("ER", "DNA") for of in counts.values()]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("umap", {"label": "Moa2"}, "did you mean Metadata_MoA"),
        ("similarity", {"by": ("Nothing",)}, "no column Metadata_Nothing"),
        ("importance", {}, "needs --label"),
        ("importance", {"label": "MoA", "neighbours": 3}, "--neighbours is no option of figure"),
        ("st-curves", {}, "no readout was given"),
        ("heatmap", {}, "figure 'heatmap' is unknown: use umap"),
        ("bbbc021", {"label": "MoA"}, "--label is no option of figure bbbc021"),
        ("paper-bbbc021", {"samples": "x"}, "--samples belongs to --normalize"),
        ("insect", {}, "Metadata_MoA"),
        ("umap", {"where": ('Metadata_MoA == "none"',)}, "no row of 240 fits"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(
    screen: pl.DataFrame, kind: str, options: dict[str, Any], said: str
) -> None:
    table = screen.drop("Metadata_MoA") if kind == "insect" else screen
    with pytest.raises((TableError, UsageError), match=said) as caught:
        draw_figure(kind, table, FigureOptions(**options))
    assert "\n" not in str(caught.value)
