"""From a table to a figure, or to a file of one. N rows, F features."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from unidino_fast.columns import find_column, find_columns
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import channel_importance
from unidino_fast.evaluation.cell_health import cell_health
from unidino_fast.evaluation.cellprofiler import as_profiles, known_features
from unidino_fast.evaluation.channels import PLATE_LEVEL
from unidino_fast.evaluation.protocols import load_recipe
from unidino_fast.evaluation.protocols.prepare import chosen, prepare
from unidino_fast.evaluation.protocols.recipe import steps_of
from unidino_fast.evaluation.table import (
    average,
    check_complete,
    feature_matrix,
    labelled,
)
from unidino_fast.figures.bars import draw_importance, named_by_channel
from unidino_fast.figures.curves import curves_of, draw_curves, is_result
from unidino_fast.figures.planes import draw_plane, umap_plane
from unidino_fast.figures.recipes import PAGES, TAKES, Page, known_kind
from unidino_fast.figures.similarity import draw_similarity
from unidino_fast.figures.style import (
    SUFFIXES,
    new_figure,
    save_figure,
    shown,
    style,
)
from unidino_fast.names import distinct_names
from unidino_fast.results import METADATA_PREFIX
from unidino_fast.tables import check_output, check_polars, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import polars as pl

    OnStep = Callable[[int, int], None]

_HEIGHTS_MM = {"umap": 120.0, "similarity": 150.0, "importance": 100.0, "st-curves": 90.0}
_PAGE_HEIGHTS_MM = {"umap": 82.0, "similarity": 104.0, "importance": 60.0}
"""Of panels on one page, which a journal's fits: 246 mm."""
_TREATMENT = ("Metadata_Compound", "Metadata_Concentration")


@dataclass(frozen=True, slots=True)
class FigureOptions:
    """What a figure is told; a value of None or () was not said.

    Attributes:
        label: column of colours or classes.
        by: columns whose rows are averaged for a similarity map; the cell line of curves.
        level: columns whose rows are averaged first, or `treatment`.
        where: queries that rows must fit.
        features: prefixes of features, where that tells them from metadata.
        neighbours: of UMAP, 15.
        min_dist: of UMAP, 0.1.
        densmap: densMAP instead of UMAP.
        channels: parts of the names of features that are channels.
        readouts: columns that curves are of, where the table is of profiles.
        joins: tables of labels, of a dataset's page.
        normalize: method, of a page.
        select: operations of feature selection, of a page.
        samples: query of rows that `normalize` learns from.
        seed: of projections and forests.
    """

    label: str | None = None
    by: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    neighbours: int | None = None
    min_dist: float | None = None
    densmap: bool | None = None
    channels: tuple[str, ...] = ()
    readouts: tuple[str, ...] = ()
    joins: tuple[Path, ...] = ()
    normalize: str | None = None
    select: tuple[str, ...] = ()
    samples: str | None = None
    seed: int | None = None

    def check(self, kind: str) -> None:
        """Raises UsageError where an option is not of a figure, or one is lacking."""
        for option in fields(self):
            if getattr(self, option.name) in (None, ()) or option.name in TAKES[kind]:
                continue
            taken = ", ".join(sorted(map(_typed, TAKES[kind])))
            raise UsageError(
                f"{_typed(option.name)} is no option of figure {kind}: it takes {taken}"
            )
        if kind == "importance" and self.label is None:
            raise UsageError("figure importance needs --label: name a column, such as MoA")
        if self.samples is not None and self.normalize is None:
            raise UsageError("--samples belongs to --normalize: name a method")


def write_figure(
    kind: str, path: Path, out: Path, options: FigureOptions, on_step: OnStep | None = None
) -> None:
    """Draws a figure of a file and writes it.

    Raises:
        UsageError: an unknown figure, or an option that it does not take.
        TableError: the table is not fit for it.
        OutputError: the file cannot be written.
    """
    options.check(known_kind(kind))
    joins = {f"the table {file} that is joined": file for file in options.joins}
    check_output(out, {"the table that is read": path, **joins}, SUFFIXES)
    save_figure(draw_figure(kind, read_table(path), options, on_step), out)


def draw_figure(
    kind: str,
    table: pl.DataFrame,
    options: FigureOptions | None = None,
    on_step: OnStep | None = None,
) -> Any:
    """A figure of matplotlib, as `figure.savefig` takes it.

    Args:
        kind: one of `KINDS`.
        table: profiles, one a row; for `st-curves` and `cell-health` also the rows of a result.
        options: see there.
        on_step: is told how much of a long computation is done.

    Raises:
        UsageError, TableError: see `write_figure`.
    """
    kind, options = known_kind(kind), options or FigureOptions()
    options.check(kind)
    check_polars(table)
    page = PAGES.get(kind)
    if kind == "st-curves" or (page is not None and page.panels == ("st-curves",)):
        return _curves(table, page, options, on_step)
    if page is not None:
        return _page(table, page, options)
    rows = as_profiles(table, options.features)
    for query in options.where:
        rows = chosen(rows, query)
    if rows.is_empty():
        raise TableError("the table has no rows: there is nothing to draw")
    with style():
        figure = new_figure(_HEIGHTS_MM[kind])
        _DRAW[kind](figure, rows, options)
    return figure


def _umap(figure: Any, rows: pl.DataFrame, options: FigureOptions) -> None:
    label = None if options.label is None else find_column(rows, options.label)
    level = _TREATMENT if options.level == ("treatment",) else options.level
    if level:
        if label is not None:
            rows = labelled(rows, label)
        metadata, values = average(
            rows, find_columns(rows, level), [] if label is None else [label]
        )
    else:
        metadata, values = rows, feature_matrix(rows)
    densmap = bool(options.densmap)
    plane = umap_plane(
        values,
        neighbours=15 if options.neighbours is None else options.neighbours,
        min_dist=0.1 if options.min_dist is None else options.min_dist,
        densmap=densmap,
        seed=options.seed or 0,
    )
    colour = None if label is None else metadata[label]
    title = "" if label is None else _stem(label)
    draw_plane(figure, plane, colour, title, "densMAP" if densmap else "UMAP")


def _similarity(figure: Any, rows: pl.DataFrame, options: FigureOptions) -> None:
    by = find_columns(rows, options.by or ("Metadata_Compound",))
    label = None if options.label is None else find_column(rows, options.label)
    for column in by:
        rows = labelled(rows, column)
    if label is not None and label not in by:
        check_complete(labelled(rows, label), label)
        rows = labelled(rows, label)
    metadata, means = average(rows, by, [] if label is None else [label])
    keys = metadata.select(by).rows()
    names = distinct_names(keys if len(by) > 1 else [key[0] for key in keys], shown)
    texts = [names[key if len(by) > 1 else key[0]] for key in keys]
    if len(by) > 1:
        short = distinct_names((" ".join(map(str, key)) for key in keys), shown)
        texts = [short[" ".join(map(str, key))] for key in keys]
    titles = (" ".join(map(_stem, by)), "" if label is None else _stem(label))
    draw_similarity(figure, means, texts, None if label is None else metadata[label], titles)


def _importance(figure: Any, rows: pl.DataFrame, options: FigureOptions) -> None:
    label = find_column(rows, cast("str", options.label))
    if options.channels:
        rows = named_by_channel(rows, options.channels)
    elif known_features(rows.columns, options.features):
        raise TableError(
            "the features are CellProfiler's, whose names do not begin with a channel: name the"
            " parts that are channels, such as --channels DNA,ER"
        )
    usual = tuple(name for name in PLATE_LEVEL if name in rows.columns)
    level = find_columns(rows, options.level) if options.level else usual
    result = channel_importance(
        rows, label, by=level, group=(label,), repeats=0, seed=options.seed or 0
    )
    draw_importance(figure, result, _stem(label))


_DRAW: Mapping[str, Callable[[Any, pl.DataFrame, FigureOptions], None]] = {
    "umap": _umap,
    "similarity": _similarity,
    "importance": _importance,
}


def _page(table: pl.DataFrame, page: Page, options: FigureOptions) -> Any:
    """What the paper shows of a dataset, one below the other."""
    rows = _prepared(table, page, options)
    is_cellprofiler = bool(known_features(table.columns, options.features))
    channels = options.channels or (page.channels if is_cellprofiler else ())
    of_panels = {
        "umap": FigureOptions(
            label="Metadata_MoA",
            level=page.level,
            neighbours=page.neighbours,
            min_dist=page.min_dist,
            densmap=page.densmap,
            seed=options.seed,
        ),
        "similarity": FigureOptions(label="Metadata_MoA", by=("Metadata_Compound",)),
        "importance": FigureOptions(label="Metadata_MoA", channels=channels, seed=options.seed),
    }
    heights = [_PAGE_HEIGHTS_MM[panel] for panel in page.panels]
    with style():
        figure = new_figure(sum(heights))
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for letter, panel, part in zip("abcdef", page.panels, parts, strict=False):
            _DRAW[panel](part, rows, of_panels[panel])
            part.text(0.005, 0.985, letter, fontsize=11, fontweight="bold", va="top")
    return figure


def _prepared(table: pl.DataFrame, page: Page, options: FigureOptions) -> pl.DataFrame:
    """The rows of the dataset's protocol."""
    recipe = load_recipe(page.protocol)
    if options.features:
        recipe = recipe.model_copy(update={"features": options.features})
    steps: list[dict[str, Any]] = []
    if options.normalize is not None:
        samples = {} if options.samples is None else {"samples": options.samples}
        steps.append({"normalize": options.normalize, **samples})
    if options.select:
        steps.append({"select": list(options.select)})
    return prepare(
        table,
        recipe,
        {str(file): read_table(file) for file in options.joins},
        steps_of(steps, "the command line") if steps else recipe.steps,
        options.where,
    )


def _curves(
    table: pl.DataFrame, page: Page | None, options: FigureOptions, on_step: OnStep | None
) -> Any:
    """Curves of a result, or of profiles, whose forests are grown first."""
    if is_result(table):
        rows = table
    else:
        if page is not None:
            profiles = _prepared(table, page, options)
            readouts: tuple[str, ...] = load_recipe(page.protocol).keep
            line: str | None = "Metadata_Cell_Line"
        else:
            profiles = as_profiles(table, options.features)
            for query in options.where:
                profiles = chosen(profiles, query)
            readouts, line = options.readouts, options.by[0] if options.by else None
            if not readouts:
                raise UsageError(
                    "no readout was given: name columns such as --readout 'cc_*', or give the rows"
                    " that evaluate --metric cell-health --out wrote"
                )
        result = cell_health(
            profiles, readouts, cell_line=line, seed=options.seed or 0, on_readout=on_step
        )
        rows = result.to_frame()
    curves = curves_of(rows)
    with style():
        figure = new_figure(_HEIGHTS_MM["st-curves"])
        draw_curves(figure, curves)
    return figure


def _stem(column: str) -> str:
    return shown(column.removeprefix(METADATA_PREFIX))


def _typed(name: str) -> str:
    """An option as it is typed."""
    typed = {"joins": "join", "readouts": "readout"}
    return f"--{typed.get(name, name).replace('_', '-')}"
