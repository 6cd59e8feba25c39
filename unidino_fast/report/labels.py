"""Which columns say what is in a well: treatment, mechanism, controls; and their text, shortened.

Names of columns differ from screen to screen, so they are looked for by what they are usually
called; what was chosen stands in the report, and the command line can name others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from unidino_fast.columns import find_column
from unidino_fast.names import short_line
from unidino_fast.qc import negative_controls, shipped_thresholds
from unidino_fast.results import METADATA_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_COMPOUND = [
    "compound",
    "compoundname",
    "compoundid",
    "pertiname",
    "pertname",
    "broadsample",
    "jcp2022",
    "treatment",
    "drug",
    "chemical",
    "perturbation",
    "perturbagen",
    "gene",
    "genesymbol",
    "sirna",
]
_DOSE = [
    "concentration",
    "conc",
    "concentrationum",
    "concum",
    "dose",
    "doseum",
    "mmolesperliter",
    "umolesperliter",
]
_MOA = ["moa", "mechanism", "mechanismofaction", "moaclass", "target", "pathway"]
_STRUCTURE = frozenset(
    f"{METADATA_PREFIX}{name}"
    for name in [
        "Plate",
        "Well",
        "Row",
        "Column",
        "Site",
        "Time",
        "n_fields",
        "n_tiles",
        "n_tiles_dropped",
    ]
)
LONGEST = 60
"""Characters of a name that the page shows."""


@dataclass(frozen=True)
class Labels:
    """What is known about the wells.

    Attributes:
        columns: all columns that the platemap brought.
        compound: the column of compounds, or of whatever replicates share; None without one.
        dose: the column of concentrations; None without one, or where each compound has but one.
        moa: the column of mechanisms; None without one.
        controls: which wells are negative controls (N,); None where none are known.
        controls_are: how they are known, in words.
    """

    columns: tuple[str, ...]
    compound: str | None
    dose: str | None
    moa: str | None
    controls: NDArray[np.bool_] | None
    controls_are: str

    @property
    def replicates(self) -> tuple[str, ...]:
        """Columns that replicates share."""
        return tuple(name for name in (self.compound, self.dose) if name is not None)

    def treatment_codes(self, frame: pl.DataFrame) -> NDArray[np.int64]:
        """Treatment of each row (N,) as an integer; what is unknown counts as a value of its own.

        Platemaps leave controls without a concentration and empty wells without a compound.
        """
        keys = frame.select(pl.col(self.replicates).cast(pl.String)).rows()
        codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
        return np.array([codes[key] for key in keys], dtype=np.int64)

    def treated(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that are no controls."""
        return frame if self.controls is None else frame.filter(pl.Series(~self.controls))


def find_labels(
    profiles: pl.DataFrame,
    *,
    compound: str | None = None,
    moa: str | None = None,
    controls: str | None = None,
) -> Labels:
    """Finds them by name, or takes those that are given.

    Args:
        profiles: the table.
        compound: column, with or without `Metadata_`.
        moa: column.
        controls: query, such as `Metadata_Compound == "DMSO"`.

    Raises:
        TableError: a given column is not there, or the query does not fit the table.
        UsageError: the query is no query.
    """
    columns = tuple(
        name
        for name in profiles.columns
        if name.startswith(METADATA_PREFIX)
        and name not in _STRUCTURE
        and not name.startswith(f"{METADATA_PREFIX}QC_")
        and not profiles[name].dtype.is_nested()
    )
    mask, how = _controls(profiles, controls)
    if compound is not None:
        column: str | None = find_column(profiles, compound)
    else:
        column = _by_name(columns, _COMPOUND) or _repeating(profiles, columns)
    mechanism = find_column(profiles, moa) if moa is not None else _by_name(columns, _MOA)
    return Labels(
        columns=columns,
        compound=column,
        dose=_dose(profiles, columns, column),
        moa=None if mechanism == column else mechanism,
        controls=mask,
        controls_are=how,
    )


def stem(column: str) -> str:
    """A column's name for the page, without its prefix."""
    return shown(column.removeprefix(METADATA_PREFIX))


def shown(value: object, longest: int = LONGEST) -> str:
    """A foreign value as the page shows it."""
    return short_line(value, longest)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.removeprefix(METADATA_PREFIX).lower())


def _by_name(columns: Iterable[str], names: Iterable[str]) -> str | None:
    by_plain = {_plain(column): column for column in columns}
    return next((by_plain[name] for name in names if name in by_plain), None)


def _repeating(profiles: pl.DataFrame, columns: Iterable[str]) -> str | None:
    """The first column with values that several wells share: replicates of something."""
    for column in columns:
        values = profiles[column].drop_nulls()
        if 3 <= values.n_unique() <= len(profiles) // 2 and not values.dtype.is_float():
            return column
    return None


def _dose(profiles: pl.DataFrame, columns: Iterable[str], compound: str | None) -> str | None:
    dose = _by_name(columns, _DOSE)
    if dose is None or compound is None or dose == compound:
        return None
    most = profiles.group_by(compound).agg(pl.col(dose).drop_nulls().n_unique())[dose].max()
    return dose if isinstance(most, int) and most > 1 else None


def _controls(profiles: pl.DataFrame, query: str | None) -> tuple[NDArray[np.bool_] | None, str]:
    """As quality control finds them; and how they are known, in words."""
    config = shipped_thresholds().controls
    if query is not None:
        mask, _ = negative_controls(profiles, config.model_copy(update={"negative": query}))
        return (mask, shown(query)) if mask.any() else (None, f"{shown(query)} fits no well")
    mask, column = negative_controls(profiles, config)
    if column is None:
        return None, "no negative controls are labelled"
    kinds = sorted({shown(value) for value in profiles[column].filter(pl.Series(mask))})
    return mask, f"{stem(column)} is {' or '.join(kinds[:3])}"
