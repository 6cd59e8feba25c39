"""Limits beyond which quality control speaks: one TOML file, every number with where it is from."""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unidino_fast.errors import TableError, UsageError, first_line

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

Kind = Literal["defocused", "saturated", "empty", "background", "swapped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a well can be flagged for."""

_LARGEST = 1 << 20
"""Bytes of a file."""

Positive = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=2, le=100_000)]
Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=1_000)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Defocused(_Section):
    """Limits of the focus."""

    mads: Positive
    octaves: Positive


class AShare(_Section):
    """One share."""

    share: Share


class Empty(_Section):
    """Limits of empty squares."""

    share: Share
    usual: Share


class Background(_Section):
    """Limits of the background."""

    mads: Positive
    share_of_signal: Positive


class Swapped(_Section):
    """Limits of channels that stand in each other's place."""

    fits: Positive
    unlike: Positive


class Trend(_Section):
    """How sure and how large an effect must be."""

    errors: Positive
    change: Positive


class Line(Trend):
    """The same of a row or column, and which share of its wells may be flagged."""

    flagged: Share


class Controls(_Section):
    """Which wells are controls, and how far apart they must be."""

    positive: Text
    negative: Text
    columns: list[Name]
    positive_words: list[Name]
    negative_words: list[Name]
    min_wells: Count
    z_prime: Annotated[float, Field(ge=-1e6, le=1)]
    ssmd: Positive


class Replicates(_Section):
    """Which wells are replicates, and how many of them must agree."""

    by: list[Name]
    min_groups: Count
    share: Share


class Plates(_Section):
    """Limits of plates among each other."""

    min_plates: Annotated[int, Field(ge=3, le=100_000)]
    unlike: Positive
    least: Positive


class Thresholds(_Section):
    """All limits; see `thresholds.toml` for what each means."""

    drop: list[Kind]
    min_wells: Annotated[int, Field(ge=4, le=100_000)]
    defocused: Defocused
    saturated: AShare
    empty: Empty
    background: Background
    swapped: Swapped
    line: Line
    edge: Trend
    drift: Trend
    illumination: Trend
    channel: AShare
    controls: Controls
    replicates: Replicates
    plates: Plates

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.model_dump(mode="json")


def shipped_thresholds() -> Thresholds:
    """Those of the package."""
    return Thresholds.model_validate(_shipped())


def read_thresholds(path: str | os.PathLike[str]) -> Thresholds:
    """The thresholds of a TOML file; what it leaves out is as in the package.

    Raises:
        UsageError: there is no such file.
        TableError: it is no TOML, or holds what is not understood; says what and what is allowed.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise TableError(f"{file} is larger than {_LARGEST} bytes: give thresholds in TOML")
        document = tomllib.loads(data.decode())
    except FileNotFoundError:
        raise UsageError(f"--qc-config {file} does not exist: give a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise TableError(f"{file} cannot be read as TOML ({reason}): mend it") from error
    return thresholds_of(document, str(file))


def thresholds_of(document: Mapping[str, Any], name: str) -> Thresholds:
    """Thresholds of a parsed document of that name, on top of those of the package.

    Raises:
        TableError: it holds what is not understood.
    """
    merged = _shipped()
    for key, value in document.items():
        held = merged.get(key)
        merged[key] = (
            {**held, **value} if isinstance(held, dict) and isinstance(value, dict) else value
        )
    try:
        return Thresholds.model_validate(merged)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TableError(f"{name}: {_explained(place, first)}") from None


def _shipped() -> dict[str, Any]:
    file = resources.files("unidino_fast.qc") / "thresholds.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _explained(place: str, fault: Mapping[str, Any]) -> str:
    """What pydantic says of a value, with the value and a remedy."""
    if fault["type"] == "extra_forbidden":
        *section, name = place.split(".")
        model = Thresholds.model_fields[section[0]].annotation if section else Thresholds
        known = list(getattr(model, "model_fields", ()))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
        return f"{place} is no threshold: {hint}"
    value = repr(fault["input"])
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    rule = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{place} is {shown}, but {rule.replace('input should', 'it should')}: mend it"
