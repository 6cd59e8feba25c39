"""Recipes: the steps from wells to profiles, in order, as data.

A recipe is a TOML file of `[[step]]` tables. Each has one of `normalize`, `select` and `consensus`,
and the options of that; see `recipes/` beside this file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidino_fast.columns import metadata_names
from unidino_fast.errors import TableError, UsageError, first_line
from unidino_fast.profiles.consensus import consensus_of
from unidino_fast.profiles.normalize import Normalisation
from unidino_fast.profiles.options import ConsensusOptions, SelectOptions
from unidino_fast.profiles.selection import operations_of, select
from unidino_fast.profiles.table import Report, take_apart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from unidino_fast.profiles.options import Operation
    from unidino_fast.profiles.table import Profiles

_SHIPPED = "recipes"
_KINDS = ("normalize", "select", "consensus")


@dataclass(frozen=True, slots=True)
class Selection:
    """One step: features that are dropped, operation by operation."""

    operations: tuple[Operation, ...]
    samples: str | None
    options: SelectOptions

    @classmethod
    def of(
        cls, operations: str | Sequence[str], /, samples: str | None = None, **options: Any
    ) -> Selection:
        """A step as it was asked for.

        Raises:
            UsageError: unknown operation or option, or none.
        """
        return cls(operations_of(operations), samples, SelectOptions.of(options))

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        options = self.options.model_dump(mode="json", exclude_none=True)
        return {"select": list(self.operations), "samples": self.samples, **options}

    def summary(self) -> str:
        """For people."""
        return f"selection by {', '.join(self.operations)}"

    def apply(self, profiles: Profiles, report: Report) -> Profiles:
        """Drops features."""
        profiles, dropped = select(profiles, self.operations, self.samples, self.options)
        report.dropped.extend(dropped)
        return profiles


@dataclass(frozen=True, slots=True)
class Consensus:
    """One step: replicates become one profile."""

    by: tuple[str, ...]
    options: ConsensusOptions

    @classmethod
    def of(cls, by: str | Sequence[str], /, **options: Any) -> Consensus:
        """A step as it was asked for.

        Raises:
            UsageError: no column, or an unknown statistic.
        """
        columns = metadata_names(by)
        if not columns:
            raise UsageError("consensus needs a column: name one, such as Metadata_Compound")
        return cls(columns, ConsensusOptions.of(options))

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"consensus": list(self.by), **self.options.model_dump(mode="json")}

    def summary(self) -> str:
        """For people."""
        return f"{self.options.statistic} by {', '.join(self.by)}"

    def apply(self, profiles: Profiles, report: Report) -> Profiles:
        """Joins replicates."""
        return consensus_of(profiles, self.by, self.options.statistic)


Step = Normalisation | Selection | Consensus


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps in order."""

    steps: tuple[Step, ...]

    def describe(self) -> list[dict[str, Any]]:
        """JSON-ready, for the provenance; the `step` list of a recipe file that does the same."""
        return [
            {name: value for name, value in step.describe().items() if value is not None}
            for step in self.steps
        ]

    def summary(self) -> str:
        """For people."""
        return ", ".join(step.summary() for step in self.steps)

    def group_columns(self) -> tuple[str, ...] | None:
        """Columns whose groups can go through all steps apart; None where none can.

        No columns where each row can. Groups may be finer in some steps than in others: the
        coarsest serve all.
        """
        coarsest: tuple[str, ...] = ()
        for step in self.steps:
            if not isinstance(step, Normalisation) or not step.by_group:
                return None
            if step.by_row:
                continue
            if not step.by:
                return None
            if not coarsest or set(step.by) < set(coarsest):
                coarsest = step.by
            if not set(coarsest) <= set(step.by):
                return None
        return coarsest

    def apply(self, profiles: Profiles, report: Report) -> Profiles:
        """All steps on a table taken apart, which they may write into."""
        for step in self.steps:
            profiles = step.apply(profiles, report)
        return profiles


def run_recipe(wells: pl.DataFrame, recipe: Recipe) -> tuple[pl.DataFrame, Report]:
    """A table of profiles, and what was done to it that a person should know.

    Raises:
        TableError: the table lacks what a step needs.
    """
    report = Report()
    return recipe.apply(take_apart(wells), report).frame(), report


def read_recipe(name: str | Path) -> Recipe:
    """A recipe from a TOML file, or one that ships with the package, by name.

    Raises:
        UsageError: there is no such file.
        TableError: it is no TOML, or a step is not understood; says which.
    """
    path = Path(name)
    shipped = resources.files("unidino_fast.profiles") / _SHIPPED / f"{name}.toml"
    try:
        text = shipped.read_text() if path.suffix != ".toml" else path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        if path.is_file():
            raise UsageError(
                f"recipe {name} does not end in .toml: rename it, or name one of"
                f" {', '.join(shipped_recipes())}"
            ) from None
        raise UsageError(
            f"recipe {name} does not exist: give a .toml file, or {' or '.join(shipped_recipes())}"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise TableError(f"recipe {name} cannot be read as TOML ({reason}): mend it") from error
    try:
        return parse_recipe(document, str(name))
    except UsageError as error:  # of what stands in a file
        raise TableError(str(error)) from None


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    folder = resources.files("unidino_fast.profiles") / _SHIPPED
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def parse_recipe(document: Mapping[str, Any], name: str) -> Recipe:
    """A recipe of a parsed TOML file of that name.

    Raises:
        UsageError: a step is not understood; says which.
    """
    steps = document.get("step")
    extra = sorted(set(document) - {"step"})
    if extra or not isinstance(steps, list) or not steps:
        found = f"has {', '.join(extra)}" if extra else "has no steps"
        raise UsageError(f"recipe {name} {found}: write [[step]] tables and nothing else")
    return Recipe(
        tuple(_step(step, f"step {at} of recipe {name}") for at, step in enumerate(steps, 1))
    )


def _step(step: object, place: str) -> Step:
    kinds = [kind for kind in _KINDS if isinstance(step, dict) and kind in step]
    if not isinstance(step, dict) or len(kinds) != 1:
        raise UsageError(f"{place} has not one of {', '.join(_KINDS)}: give it one of them")
    options = {key: value for key, value in step.items() if key != kinds[0]}
    value = step[kinds[0]]
    lists = [value] if kinds[0] == "normalize" else [[value] if isinstance(value, str) else value]
    if "by" in options:
        lists.append([options["by"]] if isinstance(options["by"], str) else options["by"])
    texts = [text for entry in lists for text in (entry if isinstance(entry, list) else [entry])]
    texts.append(options.get("samples", ""))
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(
            f"{place} names something that is no text: write columns and names in quotes"
        )
    try:
        if kinds[0] == "normalize":
            return Normalisation.of(value, **options)
        if kinds[0] == "select":
            return Selection.of(value, **options)
        return Consensus.of(value, **options)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None
