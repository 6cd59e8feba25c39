"""Every way to normalise, by name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.columns import metadata_names
from unidino_fast.errors import UsageError
from unidino_fast.profiles.groups import groups_of
from unidino_fast.profiles.harmony import harmony
from unidino_fast.profiles.options import (
    HarmonyOptions,
    NoOptions,
    Options,
    PcaOptions,
    SpherizeOptions,
)
from unidino_fast.profiles.pca import principal_components, unit_length
from unidino_fast.profiles.scaling import scale
from unidino_fast.profiles.spherize import spherize
from unidino_fast.profiles.table import (
    Report,
    describe_neutralised,
    selected_rows,
    take_apart,
)
from unidino_fast.profiles.tvn import tvn, tvn_efaar

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from unidino_fast.profiles.table import Neutralised, Profiles

ALL = "all"
"""What `by` is called where all rows are one group."""
_PLATE = ("Metadata_Plate",)
_SPHERIZE = {
    "spherize": "ZCA-cor",
    "spherize_zca": "ZCA",
    "spherize_pca": "PCA",
    "spherize_pca_cor": "PCA-cor",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Method:
    """What a way to normalise takes.

    Attributes:
        by: groups where none are named; none for all rows together.
        options: its own.
        by_group: whether a group's result depends on the rows of that group alone.
        groups: whether groups can be named at all.
        samples: whether it takes samples.
        needs_samples: whether it is nothing without them.
    """

    by: tuple[str, ...] = ()
    options: type[Options] = NoOptions
    by_group: bool = True
    groups: bool = True
    samples: bool = True
    needs_samples: bool = False


_METHODS = {
    "mad_robustize": Method(_PLATE),
    "standardize": Method(_PLATE),
    "none": Method(),
    "pycytominer_mad_robustize": Method(_PLATE),
    **{
        name: Method((), SpherizeOptions, by_group=kind.startswith("ZCA"))
        for name, kind in _SPHERIZE.items()
    },
    "tvn": Method(_PLATE, by_group=False, needs_samples=True),
    "tvn_efaar": Method(_PLATE, by_group=False, needs_samples=True),
    "l2": Method((), groups=False, samples=False),
    "pca": Method((), PcaOptions, by_group=False, groups=False),
    "harmony": Method(_PLATE, HarmonyOptions, by_group=False, samples=False),
}
METHODS = tuple(_METHODS)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """One step: a method with everything that it needs, checked."""

    method: str
    by: tuple[str, ...]
    samples: str | None
    options: Options

    @classmethod
    def of(
        cls,
        method: str,
        /,
        by: str | Sequence[str] | None = None,
        samples: str | None = None,
        **options: Any,
    ) -> Normalisation:
        """A step as it was asked for.

        Raises:
            UsageError: unknown method or option, or something that the method does not take.
        """
        kind = cls.knows(method)
        columns = _columns(by, kind.by)
        if not kind.groups and columns:
            raise UsageError(f"{method} knows no groups: leave out --by {', '.join(columns)}")
        if method in ("tvn", "tvn_efaar", "harmony") and not columns:
            raise UsageError(f"{method} aligns batches: name their column with --by")
        if kind.needs_samples and samples is None:
            raise UsageError(
                f"{method} learns from controls: name them with --samples, such as"
                " 'Metadata_Compound == \"DMSO\"'"
            )
        if not kind.samples and samples is not None:
            raise UsageError(f"{method} learns from no samples: leave out --samples")
        return cls(method, columns, samples, kind.options.of(options))

    @classmethod
    def knows(cls, method: str) -> Method:
        """What a method takes.

        Raises:
            UsageError: unknown method.
        """
        if method not in _METHODS:
            raise UsageError(f"method {method!r} is not available: use {', '.join(METHODS)}")
        return _METHODS[method]

    @property
    def by_group(self) -> bool:
        """Whether a group's result depends on the rows of that group alone."""
        return _METHODS[self.method].by_group

    @property
    def by_row(self) -> bool:
        """Whether a row's result depends on that row alone."""
        return self.method in ("l2", "none")

    def describe(self) -> dict[str, Any]:
        """JSON-ready; what a recipe says of it, with defaults written out."""
        found: dict[str, Any] = {"normalize": self.method}
        if _METHODS[self.method].groups and self.method != "none":
            found["by"] = list(self.by) or ALL
        if _METHODS[self.method].samples and self.method != "none":
            found["samples"] = self.samples
        return {**found, **self.options.model_dump(mode="json")}

    def summary(self) -> str:
        """For people: `mad_robustize by Metadata_Plate`."""
        return f"{self.method} by {', '.join(self.by)}" if self.by else self.method

    def apply(self, profiles: Profiles, report: Report) -> Profiles:
        """Normalises; may write into the matrix that it is given."""
        groups = groups_of(profiles.metadata, self.by, f"{self.method} (--by COLUMN or all)")
        selected = selected_rows(profiles, self.samples)
        if self.method == "none" or not profiles.features or not profiles.height:
            return profiles
        neutralised: list[Neutralised] = []
        match self.method:
            case "tvn":
                profiles = tvn(profiles, groups, selected, self.samples)
            case "tvn_efaar":
                profiles, neutralised = tvn_efaar(profiles, groups, selected, self.samples)
            case "l2":
                profiles, n_zero = unit_length(profiles)
                report.add_zero_rows(n_zero)
            case "pca":
                options = self.options.model_dump()
                profiles = principal_components(profiles, selected, self.samples, **options)
            case "harmony":
                profiles = harmony(profiles, self.by, **self.options.model_dump())
            case method if method in _SPHERIZE:
                profiles, neutralised = spherize(
                    profiles,
                    _SPHERIZE[method],
                    groups,
                    selected,
                    self.samples,
                    **self.options.model_dump(),
                )
            case method:
                profiles, neutralised = scale(profiles, method, groups, selected, self.samples)
        report.neutralised.extend(neutralised)
        return profiles


def normalize(
    wells: pl.DataFrame,
    method: str = "mad_robustize",
    *,
    by: str | Sequence[str] | None = None,
    samples: str | None = None,
    **options: Any,
) -> pl.DataFrame:
    """Normalises features, within each plate unless told otherwise.

    A feature has no spread where its spread is within the rounding of its numbers (float32, or
    float64 where it holds more digits), compared with its median or mean in the group. It is set to
    0: divided by next to nothing it would outweigh all others (Morelli et al. 2025, BBBC021:
    accuracy .330 instead of .650).

    Args:
        wells: a profile table; metadata columns are kept as they are.
        method: within groups (plates by default), feature by feature:
            `mad_robustize` is (h - median) / (1.4826 MAD) (Morelli et al. 2025, after
            pycytominer); `standardize` is (h - mean) / SD; both set features without spread to 0.
            `pycytominer_mad_robustize` adds 1e-18 to the scaled MAD instead, as pycytominer does,
            so that a feature without spread explodes: for comparison; `none` changes nothing.
            Over all rows by default, features mixed: `spherize` (ZCA-cor), `spherize_zca`,
            `spherize_pca`, `spherize_pca_cor` (option `epsilon`); `pca` (option `n_components`).
            Row by row: `l2`.
            Batches (plates by default) aligned: `tvn` and `tvn_efaar` by the controls that
            `samples` names, `harmony` (options `theta`, `max_iter`, `seed`; needs harmonypy).
        by: the column or columns, with or without `Metadata_`, whose groups are normalised apart,
            or aligned; `all` for all rows together.
        samples: a query such as `Metadata_Compound == "DMSO"`; its rows give centre and spread.
        **options: of the method.

    Returns:
        A table of the same rows, float32 features. `tvn`, `pca` and `spherize_pca` mix channels:
        their features are `TVN_000` ... and `PCA_000` ... What was neutralised is logged as a
        warning.

    Raises:
        TableError: a group column is missing or null somewhere, features hold NaN or infinite
            values or are not numbers, or a group has no row that `samples` selects.
        UsageError: unknown method or option, malformed query, or no Polars DataFrame.
    """
    profiles, neutralised = normalize_with_report(wells, method, by=by, samples=samples, **options)
    for group in neutralised:
        _log.warning("%s", describe_neutralised(group))
    return profiles


def normalize_with_report(
    wells: pl.DataFrame,
    method: str = "mad_robustize",
    *,
    by: str | Sequence[str] | None = None,
    samples: str | None = None,
    **options: Any,
) -> tuple[pl.DataFrame, list[Neutralised]]:
    """Like `normalize`, and the features that were set to 0 for want of spread, by group."""
    step = Normalisation.of(method, by, samples, **options)
    report = Report()
    profiles = step.apply(take_apart(wells), report)
    return (wells if method == "none" else profiles.frame()), report.neutralised


def _columns(by: str | Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if by is None:
        return default
    if by in (ALL, [ALL], (ALL,)):
        return ()
    columns = metadata_names(by)
    if not columns:
        raise UsageError("no column to group by: name one, such as Metadata_Plate, or all")
    return columns
