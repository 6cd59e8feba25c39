"""Runs a recipe: its questions on its rows, beside baselines and published numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from unidino_fast.evaluation.baselines import Baseline, baseline_table
from unidino_fast.evaluation.protocols.prepare import chosen, of_recipe, prepare
from unidino_fast.evaluation.questions import answer
from unidino_fast.evaluation.table import tidy
from unidino_fast.names import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import polars as pl

    from unidino_fast.evaluation.protocols.recipe import Ask, Recipe
    from unidino_fast.profiles.recipe import Recipe as Steps

PROFILES = "profiles"
"""The subject of rows about the table that was given."""


class Value(NamedTuple):
    """One cell of the result; bounds are those of the metric's 95 % interval, if it has one."""

    value: float | None
    lower: float | None
    upper: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Column:
    """One question of a recipe, answered.

    Attributes:
        name: such as `NSC treatment`.
        values: of the profiles, and of each baseline by its name.
        published: value of each published profile.
        published_n: how many rows or queries the published values rest on.
        details: everything that the metric said of the profiles.
    """

    name: str
    values: dict[str, Value]
    published: dict[str, float]
    published_n: int | None
    details: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """A row of a paper's table, made of one's own profiles.

    Attributes:
        title: of the recipe.
        source: of the published numbers.
        n_rows: rows that the recipe's filters left.
        n_features: features after its steps.
        columns: one a question.
        seed: of everything that was drawn.
    """

    title: str
    source: str
    n_rows: int
    n_features: int
    columns: tuple[Column, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "title": self.title,
            "source": self.source,
            "n_rows": self.n_rows,
            "n_features": self.n_features,
            "seed": self.seed,
            "columns": [
                {
                    "name": column.name,
                    **column.values[PROFILES]._asdict(),
                    "baselines": {
                        name: value._asdict()
                        for name, value in column.values.items()
                        if name != PROFILES
                    },
                    "published": column.published,
                    "published_n": column.published_n,
                    "details": column.details,
                }
                for column in self.columns
            ],
        }

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows `metric, subject, value, lower, upper, n`.

        The metric is the question's name; the subject is `profiles`, a baseline, or
        `published NAME`.
        """
        rows: list[tuple[Any, ...]] = []
        for column in self.columns:
            rows += [(column.name, subject, *value) for subject, value in column.values.items()]
            rows += [
                (column.name, f"published {name}", value, None, None, column.published_n)
                for name, value in column.published.items()
            ]
        return tidy(rows)

    def summary(self) -> str:
        """The table for a person: a column a question, a row a kind of profile."""
        columns = self.columns
        subjects = list(columns[0].values)
        published = list(dict.fromkeys(name for column in columns for name in column.published))
        lines = [["", *(one_line(column.name) for column in columns)]]
        for subject in subjects:
            cells = [column.values[subject] for column in columns]
            lines.append([subject, *(_number(cell.value) for cell in cells)])
            if subject == PROFILES:
                if any(cell.lower is not None for cell in cells):
                    lines.append(["  95 %", *map(_range, cells)])
                lines.append(["  N", *(str(cell.n) for cell in cells)])
        if published:
            lines.append(["published", *("" for _ in columns)])
            known = [column.published_n for column in columns]
            if any(n is not None for n in known):
                lines.append(["  N", *("" if n is None else str(n) for n in known)])
            lines += [
                [f"  {one_line(name)}", *(_number(c.published.get(name)) for c in columns)]
                for name in published
            ]
        head = f"{one_line(self.title)}: {self.n_rows} rows, {self.n_features} features"
        return "\n".join([head, *_aligned(lines)])


def run_recipe(
    profiles: pl.DataFrame,
    recipe: Recipe,
    *,
    joined: Mapping[str, pl.DataFrame] | None = None,
    steps: Steps | None = None,
    where: Sequence[str] = (),
    baselines: Sequence[Baseline] = (),
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> ProtocolResult:
    """A recipe's table row for some profiles.

    Args:
        profiles: one row a well, of ours or CellProfiler's.
        recipe: from `load_recipe`.
        joined: tables of labels by name, see `prepare.join`.
        steps: instead of the recipe's own steps, if there are any.
        where: queries that rows must fit besides the recipe's own.
        baselines: by `baseline_table`, of the rows that take part.
        seed: of everything that is drawn.
        on_step: is told how much of a long metric is done.

    Raises:
        UsageError: a query or an option that is none.
        TableError: the table is not fit for the recipe.
    """
    rows = prepare(profiles, recipe, joined or {}, steps or recipe.steps, where)
    tables = {PROFILES: rows}
    for kind in dict.fromkeys(baselines):
        tables[kind] = baseline_table(rows, kind, seed)
    return ProtocolResult(
        title=recipe.title,
        source=recipe.source,
        n_rows=len(rows),
        n_features=sum(not name.startswith("Metadata_") for name in rows.columns),
        columns=tuple(_column(ask, tables, seed, on_step) for ask in recipe.ask),
        seed=seed,
    )


def _column(
    ask: Ask,
    tables: Mapping[str, pl.DataFrame],
    seed: int,
    on_step: Callable[[int, int], None] | None,
) -> Column:
    with of_recipe(ask.name):
        results = {
            subject: answer(
                table if ask.where is None else chosen(table, ask.where),
                ask.question,
                seed=seed,
                on_step=on_step,
            )
            for subject, table in tables.items()
        }
    return Column(
        name=ask.name,
        values={subject: _headline(result.to_frame()) for subject, result in results.items()},
        published=dict(ask.published),
        published_n=ask.n,
        details=results[PROFILES].to_dict(),
    )


def _headline(rows: pl.DataFrame) -> Value:
    """The first row of a result, which is what it comes to."""
    return Value(*rows.row(0)[2:])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _range(cell: Value) -> str:
    return "" if cell.lower is None else f"{cell.lower:.3f}-{cell.upper:.3f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to columns, the first to the left."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
