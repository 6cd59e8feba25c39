"""The table that a recipe asks about: columns named, tables joined, features made, rows chosen."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.columns import find_column
from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.cellprofiler import as_profiles
from unidino_fast.evaluation.forest import fits
from unidino_fast.names import one_line
from unidino_fast.profiles.recipe import run_recipe as run_steps
from unidino_fast.query import parse_query
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from unidino_fast.evaluation.protocols.recipe import AtLeast, Derivation, Recipe
    from unidino_fast.profiles.recipe import Recipe as Steps

_log = logging.getLogger(__name__)


def prepare(
    profiles: pl.DataFrame,
    recipe: Recipe,
    joined: Mapping[str, pl.DataFrame],
    steps: Steps | None,
    where: Sequence[str],
) -> pl.DataFrame:
    """The rows that a recipe's questions are asked of.

    Args:
        profiles: as read from a file.
        recipe: what to do.
        joined: tables of labels by name; joined one after the other.
        steps: on features, before rows are left out: a plate's controls belong to its spread.
        where: queries that all rows must fit, besides the recipe's own.

    Raises:
        TableError: a column is missing, tables do not fit together, or no row is left.
        UsageError: a query that is none.
    """
    table = _named(as_profiles(profiles, recipe.features), recipe.columns)
    for name, other in joined.items():
        table = join(table, _named(_all_metadata(other), recipe.columns), name, recipe)
    for column, derivation in recipe.derive.items():
        if column not in table.columns:
            table = _derived(table, column, derivation)
    if steps is not None:
        table = _after(table, steps)
    for query in recipe.where:
        _check_known(table, recipe, query)
        with of_recipe("where"):
            table = chosen(table, query)
    for query in where:
        table = chosen(table, query)
    for rule in recipe.at_least:
        table = _frequent(table, rule)
    return table


def chosen(table: pl.DataFrame, query: str) -> pl.DataFrame:
    """Rows that fit a query.

    Raises:
        UsageError: it is no query.
        TableError: it names other columns than the table has, or no row fits.
    """
    rows = table.filter(parse_query(query, table.schema))
    if rows.is_empty():
        raise TableError(f"no row of {len(table)} fits {one_line(query)!r}: widen the query")
    return rows


@contextmanager
def of_recipe(place: str) -> Iterator[None]:
    """What a recipe says is not what was typed: its faults are those of a file."""
    try:
        yield
    except UsageError as error:
        raise TableError(f"recipe, {one_line(place)}: {error}") from error


def join(table: pl.DataFrame, other: pl.DataFrame, name: str, recipe: Recipe) -> pl.DataFrame:
    """The table with the labels of another, by the columns of the recipe that both have.

    Of the other table the recipe's columns are taken, and those that `keep` fits. Rows that it does
    not have keep nulls.

    Raises:
        TableError: the tables share no column, or of other kinds; two rows for one key that differ;
            nothing to add, or no row that fits.
    """
    shown = one_line(name)
    wanted = [
        column
        for column in other.columns
        if column in recipe.columns or any(fits(column, pattern) for pattern in recipe.keep)
    ]
    keys = [column for column in wanted if column in table.columns and column in recipe.columns]
    added = [column for column in wanted if column not in table.columns]
    if not keys or not added:
        lacking = "shares no column with the profiles" if not keys else "adds no column"
        raise TableError(
            f"{shown} {lacking} that the recipe names ({', '.join(recipe.columns)}): rename its"
            " columns, or name them in a recipe of your own"
        )
    for key in keys:
        if _kind(table[key]) != _kind(other[key]):
            raise TableError(
                f"{key} holds {table[key].dtype} in the profiles, but {other[key].dtype} in"
                f" {shown}: write both alike"
            )
    lookup = other.select(*keys, *added).unique(maintain_order=True).drop_nulls(keys)
    repeated = lookup.filter(pl.struct(keys).is_duplicated())
    if not repeated.is_empty():
        values = ", ".join(f"{key} {repeated[key][0]}" for key in keys)
        raise TableError(f"{shown} has two rows that differ for {one_line(values)}: keep one")
    lookup = lookup.with_columns(pl.col(key).cast(table[key].dtype, strict=False) for key in keys)
    n_lost = len(table.select(keys).join(lookup, on=keys, how="anti"))
    if n_lost == len(table):
        raise TableError(
            f"no row of the profiles is in {shown} by {', '.join(keys)}: check how they are written"
        )
    if n_lost:
        _log.warning("%d of %d rows are not in %s: they get no labels", n_lost, len(table), shown)
    return table.join(lookup, on=keys, how="left", maintain_order="left")


def _named(table: pl.DataFrame, columns: Mapping[str, tuple[str, ...]]) -> pl.DataFrame:
    """The recipe's names for columns that go under others.

    A column that has its name already keeps it, whatever else the table holds.
    """
    renamed: dict[str, str] = {}
    for name, aliases in columns.items():
        if name in table.columns:
            continue
        full = (a if a.startswith(METADATA_PREFIX) else METADATA_PREFIX + a for a in aliases)
        alias = next((a for a in full if a in table.columns and a not in renamed), None)
        if alias is not None:
            renamed[alias] = name
    return table.rename(renamed)


def _all_metadata(table: pl.DataFrame) -> pl.DataFrame:
    """A table of labels with the prefix before every column."""
    plain = {c: c.removeprefix("Image_").removeprefix(METADATA_PREFIX) for c in table.columns}
    names = [METADATA_PREFIX + name for name in plain.values()]
    if len(set(names)) < len(names):  # Image_Metadata_X beside X: the table's own names stay apart
        names = [c if c.startswith(METADATA_PREFIX) else METADATA_PREFIX + c for c in table.columns]
    return table.rename(dict(zip(table.columns, names, strict=True)))


def _check_known(table: pl.DataFrame, recipe: Recipe, query: str) -> None:
    """Raises TableError where a query of the recipe needs a column that no table brought."""
    for name, aliases in recipe.columns.items():
        if name in query and name not in table.columns:
            known = ", ".join(alias.removeprefix(METADATA_PREFIX) for alias in aliases)
            raise TableError(
                f"the profiles have no column {name} (nor {known}), which the recipe needs: join a"
                " table that has it (--join), or write yours under [columns] of a recipe"
            )


def _derived(table: pl.DataFrame, column: str, derivation: Derivation) -> pl.DataFrame:
    source = find_column(table, derivation.source)
    made = table[source].cast(pl.String).str.extract(derivation.pattern, 1)
    if made.null_count() == len(made):
        raise TableError(
            f"{column} is missing, and no {source} fits the pattern {derivation.pattern!r} that it"
            f" would be made by (such as {one_line(str(table[source][0]))!r}): join it to the table"
            if len(made)
            else "the profiles have no rows: there is nothing to evaluate"
        )
    return table.with_columns(made.alias(column))


def _after(table: pl.DataFrame, steps: Steps) -> pl.DataFrame:
    """The table after its features went through some steps; says what they neutralised."""
    profiles, report = run_steps(table, steps)
    if report.neutralised:
        counts = sorted(len(group.features) for group in report.neutralised)
        several = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
        _log.warning(
            "%s features without spread were set to 0 in each of %d groups (the first: %s)",
            several,
            len(counts),
            one_line(report.neutralised[0].group),
        )
    for note in report.notes:
        _log.warning("%s", note)
    return profiles


def _frequent(table: pl.DataFrame, rule: AtLeast) -> pl.DataFrame:
    each, of = find_column(table, rule.each), find_column(table, rule.of)
    counts = table.drop_nulls([each, of]).group_by(each).agg(pl.n_unique(of).alias("n"))
    kept = counts.filter(pl.col("n") >= rule.n)[each]
    rows = table.filter(pl.col(each).is_in(kept.to_list()))
    if rows.is_empty():
        raise TableError(f"no {each} has {rule.n} different {of} or more: nothing is left to ask")
    left_out = sorted(str(value) for value in set(counts[each]) - set(kept))
    if left_out:
        shown = ", ".join(map(one_line, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
        _log.warning("left out, with fewer than %d %s each: %s", rule.n, of, shown)
    return rows


def _kind(column: pl.Series) -> str:
    if column.dtype.is_numeric():
        return "number"
    return "text" if column.dtype in (pl.String, pl.Categorical) else str(column.dtype)
