"""Section: do replicates agree, and do mechanisms: correlation and mean average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast.errors import TableError, UsageError, first_line
from unidino_fast.evaluation import (
    evaluate,
    mean_average_precision,
    percent_matching,
    percent_replicating,
)
from unidino_fast.names import distinct_names
from unidino_fast.report.labels import shown, stem
from unidino_fast.report.section import Finding, Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from unidino_fast.evaluation import ReplicateResult, RetrievalResult
    from unidino_fast.report.gather import PlateResults
    from unidino_fast.report.labels import Labels

_NULL_SIZE = 5_000
_GOOD_SHARE = 0.5
"""Of treatments that replicate: fewer are worth a look."""
_MOST_ROWS = 500


def replicate_section(results: PlateResults, labels: Labels) -> Section | None:
    """Tables by treatment and by mechanism; None where nothing is labelled."""
    if labels.compound is None:
        return None
    treated = labels.treated(results.profiles)
    same = list(labels.replicates)
    unknown = treated.select(same).fill_nan(None).select(pl.any_horizontal(pl.all().is_null()))
    known = treated.filter(~unknown.to_series())
    notes: list[str] = []
    replicating = _tried("replicate correlation", notes, lambda: percent_replicating(known, same))
    retrieved = _tried(
        "mean average precision",
        notes,
        lambda: _told_apart(mean_average_precision(known, same, same, null_size=_NULL_SIZE)),
    )
    tables = []
    if replicating is not None or retrieved is not None:
        name = " and ".join(stem(column) for column in same)
        tables.append(_table(f"Replicates of {name}", name, "wells", replicating, retrieved, same))
    findings = [_replicate_finding(replicating, retrieved, notes)]
    if labels.moa is not None:
        table, finding = _mechanisms(known, labels.compound, labels.moa, notes)
        tables += table
        findings += finding
    if len(known) < len(treated):
        are = "well" if len(treated) - len(known) == 1 else "wells"
        without = " or ".join(map(stem, same))
        notes.append(f"{len(treated) - len(known)} {are} without {without} took no part")
    return Section(
        key="replicates",
        title="Replicates and mechanisms",
        values={
            "tables": tables,
            "notes": notes,
            "controls_are": labels.controls_are if labels.controls is not None else "",
            "null_size": _NULL_SIZE,
        },
        findings=findings,
    )


def _mechanisms(
    treated: pl.DataFrame, compound: str, moa: str, notes: list[str]
) -> tuple[list[dict[str, Any]], list[Finding]]:
    matching = _tried(
        f"matching by {stem(moa)}", notes, lambda: percent_matching(treated, moa, compound)
    )
    known = treated.filter(pl.col(moa).is_not_null())
    retrieved = _tried(
        f"mean average precision by {stem(moa)}",
        notes,
        lambda: _told_apart(
            mean_average_precision(known, moa, moa, pos_diffby=compound, null_size=_NULL_SIZE)
        ),
    )
    nearest = _tried(
        f"nearest neighbour by {stem(moa)}",
        notes,
        lambda: evaluate(treated, label=moa, not_same=[compound], bootstrap=0),
    )
    tables, findings = [], []
    if matching is not None or retrieved is not None:
        name = stem(moa)
        tables.append(
            _table(
                f"Other compounds of the same {name}", name, "compounds", matching, retrieved, [moa]
            )
        )
    if nearest is not None:
        better = nearest.accuracy > 2 * nearest.chance
        asked = f"{stem(moa)} of the nearest other compound"
        alone = f"no {stem(moa)} is that of two compounds"
        findings.append(
            Finding(asked, "not known", alone, "none", "replicates")
            if nearest.chance == 0
            else Finding(
                asked,
                f"{nearest.accuracy:.0%} the same",
                f"of {nearest.n_queries} wells; by chance {nearest.chance:.0%}",
                "good" if better else "look",
                "replicates",
            )
        )
    return tables, findings


def _tried(what: str, notes: list[str], compute: Callable[[], Any]) -> Any:
    """What a metric gives, or None and a note where the table does not carry it."""
    try:
        return compute()
    except (TableError, UsageError) as error:
        notes.append(f"{what} was not computed: {shown(first_line(error), 240)}")
        return None


def _told_apart(retrieved: RetrievalResult) -> RetrievalResult:
    """The result, unless ties made it: a positive ranks before a negative that is as near.

    Raises:
        TableError: most queries are tied, as where all profiles are zeros.
    """
    if 2 * retrieved.n_tied > retrieved.n_queries:
        raise TableError(
            f"{retrieved.n_tied} of {retrieved.n_queries} wells have others exactly as near as"
            " their own kind: are profiles repeated, or all zeros?"
        )
    return retrieved


def _replicate_finding(
    replicating: ReplicateResult | None, retrieved: RetrievalResult | None, notes: list[str]
) -> Finding:
    label = "Replicates"
    if replicating is None:
        return Finding(label, "not known", notes[0] if notes else "", "none", "replicates")
    passed = sum(score.passes for score in replicating.groups)
    precision = "" if retrieved is None else f"; mAP {retrieved.mean_average_precision:.2f}"
    return Finding(
        label,
        f"{passed} of {len(replicating.groups)} agree",
        f"treatments whose wells correlate more than chance (5% would){precision}",
        "good" if replicating.share >= _GOOD_SHARE else "look",
        "replicates",
    )


def _table(
    caption: str,
    name: str,
    members: str,
    correlated: ReplicateResult | None,
    retrieved: RetrievalResult | None,
    columns: list[str],
) -> dict[str, Any]:
    """Rows of both metrics by group, best correlation first."""
    rows: dict[str, dict[str, Any]] = {}
    for score in correlated.groups if correlated is not None else ():
        rows[score.group] = {
            "size": score.size,
            "correlation": score.correlation,
            "threshold": score.threshold,
            "passes": score.passes,
        }
    for group in retrieved.groups.iter_rows(named=True) if retrieved is not None else ():
        key = " ".join(str(group[column]) for column in columns)
        rows.setdefault(key, {}).update(
            precision=group["mean_average_precision"], p=group["corrected_p_value"]
        )
    names = distinct_names(rows, shown)
    ordered = sorted(rows.items(), key=lambda item: -(item[1].get("correlation") or -2.0))
    return {
        "caption": caption,
        "name": name,
        "members": members,
        "rows": [{"name": names[key], **row} for key, row in ordered[:_MOST_ROWS]],
        "n_more": max(0, len(ordered) - _MOST_ROWS),
        "share": None if correlated is None else correlated.share,
        "n_groups": 0 if correlated is None else len(correlated.groups),
        "precision": None if retrieved is None else retrieved.mean_average_precision,
        "significant": None if retrieved is None else retrieved.share_significant,
    }
