"""A question to a table of profiles: a metric and its options, checked, then answered.

The command line and the recipes ask through here, so that both know the same options.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from unidino_fast.columns import find_column, find_columns
from unidino_fast.errors import UsageError
from unidino_fast.evaluation.nearest_neighbour import PRESETS, evaluate
from unidino_fast.evaluation.table import average, labelled
from unidino_fast.profiles.table import feature_frame
from unidino_fast.results import feature_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

Metric = Literal[
    "nearest-neighbour",
    "map",
    "replicating",
    "matching",
    "batch",
    "cell-health",
    "channels",
    "linear-probe",
]

_TREATMENT = ("Metadata_Compound", "Metadata_Concentration", "Metadata_Batch")
_TAKES: dict[str, frozenset[str]] = {
    "nearest-neighbour": frozenset({"label", "not_same", "preset", "rule", "level", "bootstrap"}),
    "map": frozenset({"label", "not_same", "preset", "level"}),
    "replicating": frozenset({"by"}),
    "matching": frozenset({"label", "by"}),
    "batch": frozenset({"label", "not_same", "by", "level"}),
    "cell-health": frozenset({"readouts", "by", "rule"}),
    "channels": frozenset({"label", "by", "level", "bootstrap"}),
    "linear-probe": frozenset({"label", "by", "level", "bootstrap"}),
}
_RULES = {"nearest-neighbour": ("strict", "seed"), "cell-health": ("paper", "released")}
_ONE_BY = ("matching", "batch", "cell-health", "linear-probe")
_OPTION = {"readouts": "--readout"}
"""Options whose names are not those of their fields."""


_NO_LABEL = "no label was given: use --label Metadata_MoA or a --preset"


class Result(Protocol):
    """What every metric returns."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        ...

    def summary(self) -> str:
        """A few lines for a person."""
        ...

    def to_frame(self) -> pl.DataFrame:
        """Tidy rows `metric, subject, value, lower, upper, n`; the first is the headline."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A metric and its options; None and () stand for what was not said.

    Attributes:
        metric: see `answer`.
        label: column of the labels, with or without `Metadata_`, as all columns here.
        not_same: columns that a profile and its match may not share.
        preset: label and exclusions by name.
        rule: of nearest-neighbour strict or seed, of cell-health paper or released.
        level: `well`, `treatment` or columns: rows are averaged by them first.
        by: columns of replicates, batch, cell line or compound, as the metric needs them.
        readouts: columns or patterns of what cell-health predicts.
        bootstrap: resamples of the intervals.
    """

    metric: Metric = "nearest-neighbour"
    label: str | None = None
    not_same: tuple[str, ...] = ()
    preset: str | None = None
    rule: str | None = None
    level: str | tuple[str, ...] | None = None
    by: tuple[str, ...] = ()
    readouts: tuple[str, ...] = ()
    bootstrap: int | None = None

    def check(self) -> None:
        """Raises UsageError where the metric is unknown, lacks an option or does not take one."""
        taken = _TAKES.get(self.metric)
        if taken is None:
            raise UsageError(
                f"metric {self.metric!r} is unknown: use {', '.join(get_args(Metric))}"
            )
        given = (f.name for f in fields(self) if getattr(self, f.name) not in (None, ()))
        for name in given:
            value = getattr(self, name)
            texts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(text, str) and not text.strip() for text in texts):
                raise UsageError(f"{_option(name)} is empty: name a column, or leave it out")
            if name not in taken | {"metric"}:
                options = ", ".join(sorted(map(_option, taken)))
                raise UsageError(
                    f"{_option(name)} is no option of metric {self.metric}: it takes {options}"
                )
        rules = _RULES.get(self.metric, ())
        if self.rule is not None and self.rule not in rules:
            raise UsageError(
                f"rule {self.rule!r} is not of metric {self.metric}: use {' or '.join(rules)}"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise UsageError(f"preset {self.preset!r} is unknown: use {', '.join(PRESETS)}")
        if "preset" in taken and self.label is None and self.preset is None:
            raise UsageError(_NO_LABEL)
        if self.metric in ("channels", "linear-probe") and self.label is None:
            raise UsageError("no label was given: use --label Metadata_MoA")
        if self.metric == "cell-health" and not self.readouts:
            raise UsageError("no readout was given: name columns such as --readout 'cc_*'")
        if len(self.by) > 1 and self.metric in _ONE_BY:
            raise UsageError(f"metric {self.metric} takes one --by, not {len(self.by)}: keep one")


def answer(
    profiles: pl.DataFrame,
    question: Question,
    *,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Result:
    """The result of a question.

    Args:
        profiles: one row a profile.
        question: what to measure: `nearest-neighbour` accuracy, mean average precision (`map`),
            percent `replicating` and `matching`, `batch` effects, `cell-health`, `channels`,
            `linear-probe`.
        seed: of everything that is drawn.
        on_step: is told how much of a long metric is done.

    Raises:
        UsageError: see `Question.check`.
        TableError: the table is not fit for the question.
    """
    question.check()
    return cast("Result", _ANSWERS[question.metric](profiles, question, seed, on_step))


def _option(name: str) -> str:
    return _OPTION.get(name, f"--{name.replace('_', '-')}")


def _columns_of(level: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Columns to average by; none leaves rows as they are."""
    if level is None or level == "well":
        return ()
    if level == "treatment":
        return _TREATMENT
    return (level,) if isinstance(level, str) else level


def _averaged(
    profiles: pl.DataFrame,
    level: str | tuple[str, ...] | None,
    label: str | None,
    keys: tuple[str, ...],
) -> pl.DataFrame:
    """Rows with a label, averaged to a level, with the columns that a metric needs."""
    by = _columns_of(level)
    if not by:
        return profiles
    kept = find_columns(profiles, keys)
    if label is not None:
        column = find_column(profiles, label)
        kept, profiles = (column, *kept), labelled(profiles, column)
    metadata, values = average(profiles, find_columns(profiles, by), kept)
    return metadata.hstack(feature_frame(feature_columns(profiles), values.T))


def _nearest_neighbour(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    options: dict[str, Any] = {"rule": question.rule or "strict", "level": question.level or "well"}
    if question.bootstrap is not None:
        options["bootstrap"] = question.bootstrap
    return evaluate(
        profiles,
        question.label,
        question.not_same,
        preset=cast("Any", question.preset),
        seed=seed,
        **options,
    )


def _map(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    from unidino_fast.evaluation.retrieval import mean_average_precision

    label, keys = question.label, question.not_same
    if question.preset is not None:
        named = PRESETS[question.preset]
        label, keys = label or named.label, (*named.not_same, *keys)
    if label is None:
        raise UsageError(_NO_LABEL)
    rows = labelled(profiles, find_column(profiles, label))
    rows = _averaged(rows, question.level, label, keys)
    return mean_average_precision(rows, [label], [label], pos_diffby=keys, seed=seed)


def _replicating(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    from unidino_fast.evaluation.replicates import percent_replicating

    return percent_replicating(profiles, question.by or ("Metadata_Compound",), seed=seed)


def _matching(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    from unidino_fast.evaluation.replicates import percent_matching

    compound = question.by[0] if question.by else "Metadata_Compound"
    return percent_matching(profiles, question.label or "Metadata_MoA", compound, seed=seed)


def _batch(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    from unidino_fast.evaluation.batch_effects import batch_effects

    batch = question.by[0] if question.by else "Metadata_Plate"
    rows = labelled(profiles, find_column(profiles, batch))
    return batch_effects(
        _averaged(rows, question.level, question.label, (batch, *question.not_same)),
        batch,
        question.label,
        group=question.not_same or None,
        seed=seed,
    )


def _cell_health(
    profiles: pl.DataFrame,
    question: Question,
    seed: int,
    on_step: Callable[[int, int], None] | None,
) -> Any:
    from unidino_fast.evaluation.cell_health import Rule, cell_health

    return cell_health(
        profiles,
        question.readouts,
        cell_line=question.by[0] if question.by else None,
        rule=cast("Rule", question.rule or "paper"),
        seed=seed,
        on_readout=on_step,
    )


def _channels(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    from unidino_fast.evaluation.channels import PLATE_LEVEL, channel_importance

    options: dict[str, Any] = {}
    if question.by:
        options["group"] = question.by
    if question.bootstrap is not None:
        options["bootstrap"] = question.bootstrap
    by = PLATE_LEVEL if question.level is None else _columns_of(question.level)
    label = find_column(profiles, str(question.label))
    return channel_importance(profiles, label, by=by, seed=seed, **options)


def _linear_probe(profiles: pl.DataFrame, question: Question, seed: int, _: object) -> Any:
    from unidino_fast.evaluation.linear_probe import PLATE, linear_probe

    by = question.by[0] if question.by else PLATE
    rows = _averaged(profiles, question.level, question.label, (by,))
    bootstrap = 1000 if question.bootstrap is None else question.bootstrap
    return linear_probe(rows, str(question.label), by=by, bootstrap=bootstrap, seed=seed)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "nearest-neighbour": _nearest_neighbour,
    "map": _map,
    "replicating": _replicating,
    "matching": _matching,
    "batch": _batch,
    "cell-health": _cell_health,
    "channels": _channels,
    "linear-probe": _linear_probe,
}
