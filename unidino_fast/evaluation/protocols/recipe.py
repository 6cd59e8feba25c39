"""The TOML of a protocol, read and checked; nothing in it is run."""

from __future__ import annotations

import os
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unidino_fast.errors import TableError, UsageError, first_line
from unidino_fast.evaluation.questions import Metric, Question
from unidino_fast.names import one_line
from unidino_fast.profiles.recipe import Recipe as Steps
from unidino_fast.profiles.recipe import parse_recipe
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.resources.abc import Traversable

_SUFFIX = ".toml"
_LARGEST = 1 << 20
"""Bytes of a recipe; ours have three thousand."""
_LONGEST_SHOWN = 60

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=10_000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Derivation(_Part):
    """A column made of another: what the first group of a pattern finds in its text."""

    source: Name = Field(alias="from")
    pattern: Name

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            groups = pl.select(pl.lit("").str.extract_groups(self.pattern)).to_series().dtype
        except pl.exceptions.PolarsError as error:
            # many lines that show the place; the last says what is wrong there
            reason = str(error).strip().rpartition("error: ")[2].splitlines() or ["faulty"]
            raise ValueError(f"pattern is no regular expression ({reason[0]})") from None
        if len(getattr(groups, "fields", ())) != 1:
            raise ValueError("pattern needs one group, such as ^(Week[0-9]+)_")
        return self


class AtLeast(_Part):
    """Keeps values of a column (`each`) that occur with `n` values of another (`of`) or more."""

    each: Name
    of: Name
    n: Annotated[int, Field(ge=1)]


class Ask(_Part):
    """One column of the result: a question, and what is published for it.

    Attributes:
        name: of the column, such as `NSC treatment`.
        where: a query that narrows the rows further.
        n: published number of rows or queries.
        published: value of each published profile.
    """

    name: Name
    where: Text | None = None
    metric: Metric = "nearest-neighbour"
    label: Name | None = None
    not_same: tuple[Name, ...] = ()
    preset: Name | None = None
    rule: Name | None = None
    level: Name | tuple[Name, ...] | None = None
    by: tuple[Name, ...] = ()
    readouts: tuple[Name, ...] = ()
    bootstrap: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    n: Annotated[int, Field(ge=0)] | None = None
    published: dict[Name, float] = Field(default_factory=dict)

    @property
    def question(self) -> Question:
        """What is asked, without its name and the published numbers."""
        own = {"name", "where", "n", "published"}
        return Question(**{key: getattr(self, key) for key in Ask.model_fields if key not in own})

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        self.question.check()  # a UsageError is a ValueError
        return self


class Recipe(_Part):
    """A protocol.

    Attributes:
        title: one line.
        source: where the published numbers are from.
        columns: a column's name in this recipe -> the names that tables have it under; the first
            that a table has is taken. Metadata all, so each begins with `Metadata_`.
        keep: patterns of further columns to take over from joined tables, such as `cc_*`.
        derive: columns that are made of others where no table has them.
        features: prefixes of features, where CellProfiler's are not meant.
        step: normalisation and feature selection of all rows, before any is left out, as in the
            recipes of `profile`; none by default: profiles are used as they come.
        where: queries; rows that fit all of them take part.
        at_least: see `AtLeast`; after `where`.
        ask: the questions.
    """

    title: Text
    source: Text = ""
    columns: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    keep: tuple[Name, ...] = ()
    derive: dict[Name, Derivation] = Field(default_factory=dict)
    features: tuple[Name, ...] = ()
    step: tuple[dict[str, Any], ...] = ()
    where: tuple[Text, ...] = ()
    at_least: tuple[AtLeast, ...] = ()
    ask: Annotated[tuple[Ask, ...], Field(min_length=1, max_length=1000)]

    @property
    def steps(self) -> Steps | None:
        """What is done to features, if anything."""
        return steps_of(self.step, "here") if self.step else None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _ = self.steps  # a UsageError is a ValueError
        for name in (*self.columns, *self.derive):
            if not name.startswith(METADATA_PREFIX):
                raise ValueError(f"column {one_line(name)} must begin with {METADATA_PREFIX}")
        asked = [ask.name for ask in self.ask]
        if len(set(asked)) < len(asked):
            raise ValueError("two questions (ask) share a name")
        return self


def steps_of(steps: Sequence[Mapping[str, Any]], place: str) -> Steps:
    """Steps on features of their tables, as `profile` knows them.

    Raises:
        UsageError: one is not understood.
    """
    return parse_recipe({"step": [dict(step) for step in steps]}, place)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        entry.name.removesuffix(_SUFFIX)
        for entry in _folder().iterdir()
        if entry.name.endswith(_SUFFIX)
    )


def load_recipe(name: str | os.PathLike[str]) -> Recipe:
    """A recipe by the name of one that ships, or from a TOML file.

    Raises:
        UsageError: no recipe has this name and no file this path.
        TableError: the file is no recipe; says the first fault and where it is.
    """
    given = os.fspath(name)
    if given in shipped_recipes():
        return _parse((_folder() / f"{given}{_SUFFIX}").read_bytes(), given)
    file = Path(given)
    try:
        if not file.is_file():  # neither a folder nor a pipe, which would never end
            raise UsageError(
                f"recipe {one_line(given)} is unknown: use {', '.join(shipped_recipes())}, or the"
                f" path of a {_SUFFIX} file"
            )
        with file.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise TableError(
            f"recipe {one_line(given)} cannot be read ({first_line(error)}): check the path"
        ) from error
    if len(data) > _LARGEST:
        raise TableError(f"recipe {one_line(given)} is larger than {_LARGEST} bytes: shorten it")
    return _parse(data, file.name)


def _folder() -> Traversable:
    return files("unidino_fast.evaluation.protocols")


def _parse(data: bytes, name: str) -> Recipe:
    try:
        return Recipe.model_validate(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TableError(
            f"recipe {one_line(name)} is not TOML ({one_line(first_line(error))}): mend it"
        ) from None
    except ValidationError as error:
        raise TableError(
            f"recipe {one_line(name)}: {_fault(error)}: mend it, or begin with a copy of"
            f" {shipped_recipes()[0]}{_SUFFIX}"
        ) from None


def _fault(error: ValidationError) -> str:
    """The first fault in a line: where, what, and how many more."""
    faults = error.errors(include_url=False)
    first = faults[0]
    place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
    text = one_line(str(first["msg"]).removeprefix("Value error, "))
    given: Any = first["input"]
    shown = ""
    if isinstance(given, str | int | float) and first["type"] != "value_error":
        shown = f" {one_line(repr(given))[:_LONGEST_SHOWN]}"
    n_more = len(faults) - 1
    more = f" (and {n_more} more fault{'s' * (n_more > 1)})" if n_more else ""
    return f"{one_line(place)}{shown}{': ' if place else ''}{text[:1].lower()}{text[1:]}{more}"
