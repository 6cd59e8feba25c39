"""Options of the steps, checked where they come in: from keywords, the command line, a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

Operation = Literal["variance", "low_variance", "correlation", "na", "blocklist", "outliers"]
Statistic = Literal["mean", "median", "modz"]
Share = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel):
    """Frozen, strict, and with errors of one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Options of keyword values.

        Raises:
            UsageError: one is unknown or out of range; says which.
        """
        for name, value in values.items():
            if isinstance(value, bool):  # which pydantic takes for 0 or 1
                raise UsageError(f"{name} {value} is refused: no option is true or false")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            fault = error.errors()[0]
            name = str(fault["loc"][0]) if fault["loc"] else "options"
            if fault["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields) or "none"
                raise UsageError(f"option {name} is not known here: there is {known}") from None
            reason = fault["msg"]
            raise UsageError(
                f"{name} {fault['input']!r} is refused: {reason[:1].lower()}{reason[1:]}"
            ) from None


class NoOptions(Options):
    """Of methods that have none."""


class SpherizeOptions(Options):
    """Attributes: epsilon: added to the singular values."""

    epsilon: Annotated[float, Field(ge=0)] = 1e-6


class PcaOptions(Options):
    """Attributes: n_components: how many, or below 1 the share of variance to explain."""

    n_components: Annotated[float, Field(gt=0)] | None = None


class HarmonyOptions(Options):
    """Attributes: theta: diversity penalty. max_iter: rounds. seed: of the clustering."""

    theta: Annotated[float, Field(ge=0)] | None = None
    max_iter: Annotated[int, Field(ge=1)] = 10
    seed: Annotated[int, Field(ge=0)] = 0


class SelectOptions(Options):
    """Thresholds of feature selection, pycytominer's by default.

    Attributes:
        freq_cut: least ratio of the second most frequent value to the most frequent.
        unique_cut: least ratio of different values to rows.
        min_variance: a variance up to this is low.
        correlation_threshold: a pair above it loses one.
        na_cutoff: largest share of missing values.
        blocklist: names to drop; by default the CellProfiler features known to be noisy.
        outlier_cutoff: largest absolute value.
    """

    freq_cut: Share = 0.05
    unique_cut: Share = 0.01
    min_variance: Annotated[float, Field(ge=0)] = 1e-6
    correlation_threshold: Share = 0.9
    na_cutoff: Share = 0.05
    blocklist: tuple[str, ...] | None = None
    outlier_cutoff: Annotated[float, Field(ge=0)] = 500.0


class ConsensusOptions(Options):
    """Attributes: statistic: mean, median or modz, over the rows of a group."""

    statistic: Statistic = "modz"
