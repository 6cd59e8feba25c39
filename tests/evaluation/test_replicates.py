"""Percent replicating and matching against counts by hand and a naive loop."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import percent_matching, percent_replicating

# Of three features a row's correlation depends on its shape alone: up, up, down; another; flat.
UP, DOWN, OTHER = [0.0, 1.0, 2.0], [5.0, 3.0, 1.0], [0.0, 1.0, 0.0]


def wells(rows: list[tuple[str, list[float]]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "Metadata_Compound": [name for name, _ in rows],
            **{f"DNA_{i:03d}": [values[i] for _, values in rows] for i in range(3)},
        }
    )


def test_correlations_by_hand() -> None:
    """Of c the three pairs are 1, -1 and -1: the median is -1. `d` is alone."""
    table = wells(
        [
            *(("a", UP), ("a", UP), ("b", UP), ("b", OTHER)),
            *(("c", UP), ("c", DOWN), ("c", UP), ("d", UP)),
        ]
    )
    result = percent_replicating(table, n_null=200)
    found = {score.group: (score.size, pytest.approx(score.correlation)) for score in result.groups}
    assert found == {"a": (2, 1.0), "b": (2, 0.0), "c": (3, -1.0)}
    assert result.n_single == 1
    assert "1 of one member left out" in result.summary()


def test_two_of_three_replicate() -> None:
    """Groups of two: pairs of different treatments are at 0 or -1, so 1 passes and 0 does not."""
    table = wells([("a", UP), ("a", UP), ("b", DOWN), ("b", DOWN), ("c", OTHER), ("c", UP)])
    result = percent_replicating(table, n_null=500)
    assert [score.passes for score in result.groups] == [False, True, False]
    assert result.share == pytest.approx(1 / 3)  # `a` ties with the pairs of a and c, which are 1
    assert result.groups[0].threshold == pytest.approx(1.0)


def naive_threshold(features: Any, groups: Any, size: int, rng: Any) -> float:
    """Way et al. in words: wells at random, none of a treatment that is drawn already."""
    correlations = np.corrcoef(features)
    medians = []
    for _ in range(2000):
        drawn: list[int] = []
        while len(drawn) < size:
            row = int(rng.integers(len(groups)))
            if groups[row] not in groups[drawn]:
                drawn.append(row)
        pairs = itertools.combinations(drawn, 2)
        medians.append(np.median([correlations[pair] for pair in pairs]))
    return float(np.quantile(medians, 0.95))


def test_threshold_against_a_loop(screen: pl.DataFrame) -> None:
    table = screen.head(120)
    features = table.select("^DNA_.*$").to_numpy().astype(np.float64)
    groups = table["Metadata_Compound"].to_numpy()
    result = percent_replicating(table, n_null=4000)
    for score in result.groups[:3]:
        rows = np.flatnonzero(groups == score.group)
        pairs = itertools.combinations(rows, 2)
        expected = np.median([np.corrcoef(features[[a, b]])[0, 1] for a, b in pairs])
        assert score.correlation == pytest.approx(expected, abs=1e-9)
    score = result.groups[0]
    expected = naive_threshold(features, groups, score.size, np.random.default_rng(3))
    # a 95 % quantile of 2,000 draws that spread by about .07: error about .0035 on each side
    assert score.threshold == pytest.approx(expected, abs=0.02)


def test_of_noise_one_in_twenty_replicates() -> None:
    """By construction: 1,000 groups of noise pass at .05, within five standard errors."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3000, 30))
    table = pl.DataFrame(
        {"Metadata_Compound": np.arange(3000) // 3}
        | {f"DNA_{i:03d}": features[:, i] for i in range(30)}
    )
    result = percent_replicating(table, n_null=4000)
    assert result.share == pytest.approx(0.05, abs=5 * np.sqrt(0.05 * 0.95 / 1000))
    assert percent_replicating(table, n_null=4000) == result


def test_matching_compares_compounds_not_wells(screen: pl.DataFrame) -> None:
    """As percent replicating of mechanisms on a table of compound means."""
    result = percent_matching(screen, n_null=300)
    means = screen.group_by("Metadata_Compound", "Metadata_MoA", maintain_order=True).agg(
        pl.col("^DNA_.*$").cast(pl.Float64).mean()
    )
    expected = percent_replicating(means, "MoA", n_null=300)
    assert [score.size for score in result.groups] == [4] * 5
    assert result.share == expected.share
    for ours, other in zip(result.groups, expected.groups, strict=True):
        assert ours[2:] == pytest.approx(other[2:])
    assert result.metric == "percent_matching"


def test_rows_without_treatment_take_no_part(screen: pl.DataFrame) -> None:
    nobody = screen.head(9).with_columns(
        pl.lit(None, dtype=pl.String).alias("Metadata_Compound"), pl.lit(np.nan).alias("DNA_000")
    )
    both = pl.concat([screen, nobody], how="vertical_relaxed")
    assert percent_replicating(both) == percent_replicating(screen)


def test_result_is_json_ready_and_tidy(screen: pl.DataFrame) -> None:
    result = percent_replicating(screen, ["Compound", "Plate"], n_null=50)
    text = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert text["by"] == ["Metadata_Compound", "Metadata_Plate"]
    assert text["n_groups"] == len(result.groups)
    frame = result.to_frame()
    assert frame.columns == ["metric", "subject", "value", "lower", "upper", "n"]
    assert frame.row(0)[:3] == ("percent_replicating", None, result.share)
    assert len(result.summary().splitlines()) == 2


@pytest.mark.parametrize(
    ("profiles", "arguments", "error", "message"),
    [
        (wells([("a", UP), ("b", UP)]), {}, TableError, "no two rows share Metadata_Compound"),
        (
            wells([("DMSO", UP)] * 3 + [("b", UP)]),
            {},
            TableError,
            "has 3 members, but there are only 2 groups .* leave out controls",
        ),
        (wells([("a", UP)]).clear(), {}, TableError, "have no rows"),
        (wells([("a", [0, 1, np.nan])] * 2), {}, TableError, "DNA_002 is null, NaN"),
        (wells([("a", UP)] * 2), {"by": "Dose"}, TableError, "no column Metadata_Dose"),
        (wells([("a", UP)] * 2), {"n_null": 0}, UsageError, "n_null 0 is too small"),
        (wells([("a", UP)] * 2), {"quantile": 95}, UsageError, "quantile 95 is no share"),
    ],
)
def test_what_cannot_be_scored(
    profiles: pl.DataFrame, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        percent_replicating(profiles, **arguments)
    assert "\n" not in str(caught.value)


def test_a_constant_row_correlates_with_nothing() -> None:
    table = wells([("a", UP), ("a", [0.1, 0.1, 0.1]), ("b", UP), ("b", UP)])
    result = percent_replicating(table, n_null=50)
    assert result.groups[0].correlation == 0
