from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import KNeighborsClassifier

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation import cosine, evaluate
from unidino_fast.evaluation.nearest_neighbour import PRESETS


def table(features: Any, **metadata: Any) -> pl.DataFrame:
    """Profiles of a feature matrix and metadata columns named without their prefix."""
    columns = {f"Metadata_{name}": values for name, values in metadata.items()}
    values = np.asarray(features)
    return pl.DataFrame(columns | {f"DNA_{i:03d}": values[:, i] for i in range(values.shape[1])})


# ---- a naive double loop, in exact arithmetic ------------------------------------------------


def exact_similarity(a: list[int], b: list[int]) -> Fraction:
    """Signed square of the cosine of two integer vectors: exact, and in the cosine's order."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = sum(x * x for x in a) * sum(y * y for y in b)
    return Fraction(dot * abs(dot), lengths) if lengths else Fraction(0)


def naive(profiles: pl.DataFrame, label: str, keys: list[str], rule: str) -> dict[str, Any]:
    """Both rules as REFERENCE section 4 words them, one pair at a time."""
    rows = profiles.filter(pl.col(label).is_not_null())
    labels = rows[label].to_list()
    features = rows.select(pl.exclude("^Metadata_.*$")).rows()
    values = {key: rows[key].to_list() for key in keys}
    n = len(rows)
    near = [[exact_similarity(features[i], features[j]) for j in range(n)] for i in range(n)]
    for i in range(n):
        near[i][i] = Fraction(1)
    least = min(min(row) for row in near)
    correct = counted = without = 0
    chances = []
    for i in range(n):
        allowed = []
        for j in range(n):
            shared = [key for key in keys if values[key][i] == values[key][j]]
            if rule == "seed":
                shared = [k for k in shared if k == "Metadata_Well" or labels[i] == labels[j]]
            allowed.append(i != j and not shared)
        without += not any(allowed)
        if rule == "strict" and not any(allowed):
            continue
        row = [s if ok else least for s, ok in zip(near[i], allowed, strict=True)]
        candidates = [j for j in range(n) if allowed[j] or rule == "seed"]
        winner = min(candidates, key=lambda j: (-row[j], j))
        counted += 1
        correct += labels[winner] == labels[i]
        hits = [labels[j] == labels[i] for j in range(n) if allowed[j]]
        chances.append(np.mean(hits) if hits else float(labels[0] == labels[i]))
    return {
        "accuracy": correct / counted if counted else None,
        "n_queries": n,
        "n_without_candidate": without,
        "n_correct": correct,
        "chance": pytest.approx(np.mean(chances)) if chances else None,
    }


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """Small integer features: exact ties, duplicates, multiples, zero rows and opposite rows."""
    n = draw(st.integers(2, 14))
    width = draw(st.integers(1, 4))
    rows = [draw(st.lists(st.integers(-2, 2), min_size=width, max_size=width)) for _ in range(n)]
    factors = draw(st.lists(st.sampled_from([1, 1, 1, 3, 7]), min_size=n, max_size=n))
    rows = [[f * value for value in row] for f, row in zip(factors, rows, strict=True)]

    def column(choices: list[Any]) -> list[Any]:
        return draw(st.lists(st.sampled_from(choices), min_size=n, max_size=n))

    moa = ["a", "b", *column(["a", "b", "c", None])[2:]]
    return table(rows, MoA=moa, Well=column(["A01", "A02", "B01"]), Batch=column([1, 2, 3]))


@settings(max_examples=150, deadline=None)
@given(
    profiles=tables(),
    keys=st.lists(st.sampled_from(["Metadata_Well", "Metadata_Batch"]), unique=True),
    rule=st.sampled_from(["strict", "seed"]),
    block=st.sampled_from([1, 40, 1 << 20]),
)
def test_against_a_naive_loop(
    profiles: pl.DataFrame, keys: list[str], rule: Any, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosine, "_SMALLEST_TILE", block)
        patch.setattr(cosine, "_SMALLEST_STRIP", min(block, 3))
        patch.setattr(cosine, "_STRIPS", 5)
        patch.setattr(cosine, "_GATHER_ELEMENTS", block)
        result = evaluate(profiles, "MoA", keys, rule=rule).to_dict()
    expected = naive(profiles, "Metadata_MoA", keys, rule)
    assert {name: result[name] for name in expected} == expected


@pytest.mark.parametrize("shape", [(60, 3), (211, 37), (300, 200)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_leave_one_out_against_scikit_learn(shape: tuple[int, int], offset: float) -> None:
    """Also with rows that point nearly the same way, where float32 products cannot rank them."""
    rng = np.random.default_rng(7)
    features = (rng.standard_normal(shape) + offset).astype(np.float32)
    labels = rng.integers(0, 4, len(features))
    model = KNeighborsClassifier(1, metric="precomputed")
    distances = cosine_distances(features.astype(np.float64))
    np.fill_diagonal(distances, 9.0)
    predicted = model.fit(distances, labels).predict(distances)
    result = evaluate(table(features, MoA=labels), "MoA")
    assert result.n_correct == (predicted == labels).sum()
    assert result.n_without_candidate == 0


def test_scale_of_a_row_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    features = rng.standard_normal((40, 6))
    labels = rng.integers(0, 3, 40)
    scaled = features * 10.0 ** rng.integers(-200, 200, (40, 1))
    assert (
        evaluate(table(features, MoA=labels), "MoA").to_dict()
        == evaluate(table(scaled, MoA=labels), "MoA").to_dict()
    )


# ---- by hand ---------------------------------------------------------------------------------

FIVE = table(
    [[10, 0], [9, 1], [8, 3], [0, 10], [1, 9]],
    MoA=["x", "x", "y", "y", "x"],
    Compound=["p", "p", "q", "r", "s"],
    Batch=["1", "1", "1", "1", "1"],
    Well=["A01", "A02", "A03", "A04", "A05"],
)


def test_five_rows_leave_one_out() -> None:
    """Nearest: 0 to 1 (x, right), 1 to 0 (right), 2 to 1 (x, wrong), 3 and 4 to each other."""
    result = evaluate(FIVE, "Metadata_MoA")
    assert (result.n_correct, result.n_queries, result.n_without_candidate) == (2, 5, 0)
    assert result.accuracy == pytest.approx(0.4)
    assert result.chance == pytest.approx((2 / 4 * 3 + 1 / 4 * 2) / 5)
    assert result.per_class == (("x", 3, 2), ("y", 2, 0))


def test_five_rows_not_same_compound() -> None:
    """Rows 0 and 1 lose each other and fall to row 2 (y)."""
    result = evaluate(FIVE, preset="NSC")
    assert (result.label, result.not_same) == ("Metadata_MoA", ("Metadata_Compound",))
    assert (result.n_correct, result.n_queries, result.n_without_candidate) == (0, 5, 0)


def test_one_batch_leaves_no_candidate_under_strict() -> None:
    result = evaluate(FIVE, "MoA", ["Batch"])
    assert np.isnan(result.accuracy)
    assert np.isnan(result.chance)
    assert (result.n_queries, result.n_without_candidate, result.n_correct) == (5, 5, 0)
    assert result.per_class == (("x", 0, 0), ("y", 0, 0))
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["accuracy"] is None


def test_one_batch_under_the_seed_rule_excludes_the_own_label_alone() -> None:
    """So no query can be right, and none lacks a candidate."""
    result = evaluate(FIVE, "MoA", ["Batch"], rule="seed")
    assert (result.accuracy, result.n_without_candidate, result.chance) == (0.0, 0, 0.0)


def test_seed_rule_gives_the_first_row_where_there_is_no_candidate() -> None:
    """Well is unconditional: all five rows fall to row 0, whose label three of them carry."""
    same_well = FIVE.with_columns(Metadata_Well=pl.lit("A01"))
    result = evaluate(same_well, "MoA", "Well", rule="seed")
    assert (result.n_correct, result.n_without_candidate) == (3, 5)
    assert result.accuracy == pytest.approx(0.6)
    assert evaluate(same_well, "MoA", "Well").n_without_candidate == 5


def test_seed_rule_takes_the_largest_distance_for_excluded() -> None:
    """Row 3's one candidate, row 1, is as far as anything: the tie goes to row 0."""
    profiles = table(
        [[1, 0], [0, 1], [1, 1], [0, -1]],
        MoA=["a", "b", "b", "a"],
        Well=["W", "V", "W", "W"],
    )
    strict = evaluate(profiles, "MoA", ["Well"])
    seed = evaluate(profiles, "MoA", ["Well"], rule="seed")
    assert strict.per_class == (("a", 2, 0), ("b", 2, 2))
    assert seed.per_class == (("a", 2, 1), ("b", 2, 2))


def test_lowest_row_wins_ties() -> None:
    """Row 0 equals rows 1 (another label) and 2 (its own, at another length)."""
    profiles = table([[1, 1], [3, 3], [7, 7], [1, -1]], MoA=["a", "b", "a", "b"])
    result = evaluate(profiles, "MoA")
    assert result.per_class == (("a", 2, 1), ("b", 2, 0))


def test_rows_without_label_take_no_part() -> None:
    nobody = table([[10, 0.1], [np.nan, 0]], MoA=[None, None], Compound=[None, "p"])
    profiles = pl.concat(
        [nobody, FIVE.select(nobody.columns)], how="vertical_relaxed"
    ).with_row_index("Metadata_Index")
    assert evaluate(profiles, "MoA").to_dict() == evaluate(FIVE, "MoA").to_dict()
    assert evaluate(profiles, preset="NSC").n_queries == 5


def test_nscb_leaves_out_labels_of_one_batch() -> None:
    """Label z stands in batch 1 alone: neither asked nor found, although it is nearest."""
    profiles = table(
        [[1, 0], [5, 4], [1, 0.01], [0, 1], [0.1, 1]],
        MoA=["x", "x", "z", "y", "y"],
        Compound=["p", "q", "o", "r", "s"],
        Batch=[1, 2, 1, 1, 2],
    )
    result = evaluate(profiles, preset="NSCB")
    assert result.dropped_labels == ("z",)
    assert (result.n_queries, result.n_without_candidate) == (4, 0)
    assert (result.n_correct, evaluate(profiles, preset="NSC").n_correct) == (4, 2)


def test_presets_add_to_what_is_asked() -> None:
    profiles = FIVE.with_columns(Metadata_Plate=pl.Series(["1", "2", "1", "2", "1"]))
    result = evaluate(profiles, "Compound", "Batch", preset="NSPW")
    assert result.label == "Metadata_Compound"
    assert result.not_same == ("Metadata_Plate", "Metadata_Well", "Metadata_Batch")
    assert list(PRESETS) == ["NSC", "NSCB", "NSPW", "NSB", "NSS", "NSCP"]


def test_the_summary_is_two_lines_whatever_the_columns_are_called() -> None:
    odd = FIVE.rename({"Metadata_MoA": "Metadata_\x1b[1mMoA", "Metadata_Well": "Metadata_a\nb"})
    text = evaluate(odd, "\x1b[1mMoA", ["a\nb"]).summary()
    assert len(text.splitlines()) == 2
    assert all(line.isprintable() for line in text.splitlines())


def test_result_is_json_ready() -> None:
    result = evaluate(FIVE, preset="NSC")
    text = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert text["per_class"][0] == {"label": "x", "n_queries": 3, "n_correct": 0}
    assert text["metric"] == "cosine"
    assert {"accuracy", "n_queries", "n_without_candidate", "rule", "chance"} <= set(text)


# ---- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profiles", "arguments", "message"),
    [
        (FIVE, {"label": "moa"}, "no column Metadata_moa: did you mean Metadata_MoA"),
        (FIVE, {"label": "Zzz"}, "no column Metadata_Zzz: join it .* one of Metadata_MoA"),
        (FIVE, {"label": "DNA_000"}, "no column Metadata_DNA_000"),
        (FIVE, {"label": "MoA", "not_same": ["Plate"]}, "no column Metadata_Plate"),
        (
            FIVE.drop("Metadata_Batch"),
            {"preset": "NSCB"},
            "Metadata_Batch, which preset NSCB needs",
        ),
        (FIVE, {"label": "Batch"}, "Metadata_Batch is '1' in all 5 rows"),
        (FIVE, {"preset": "NSCB"}, "every Metadata_MoA occurs in one Metadata_Batch only"),
        (FIVE.clear(), {"label": "MoA"}, "have no rows"),
        (
            FIVE.with_columns(Metadata_MoA=pl.lit(None, dtype=pl.String)),
            {"label": "MoA"},
            "Metadata_MoA is null in all 5 rows",
        ),
        (
            FIVE.with_columns(Metadata_Compound=pl.Series(["p", None, "q", None, "s"])),
            {"preset": "NSC"},
            "Metadata_Compound is null in 2 of 5 labelled rows",
        ),
        (FIVE.select("^Metadata_.*$"), {"label": "MoA"}, "no feature columns"),
        (
            FIVE.with_columns(Site=pl.lit("s1")),
            {"label": "MoA"},
            "column Site holds String.*rename it to Metadata_Site",
        ),
        (
            FIVE.with_columns(DNA_001=pl.Series([1.0, np.nan, np.inf, None, 2.0])),
            {"label": "MoA"},
            r"DNA_001 is null, NaN or infinite in 3 of 5 rows: leave .* \(embed --channels\), or",
        ),
        (
            FIVE.with_columns(ER_000=pl.lit(None, dtype=pl.Float32), ER_001=pl.lit(np.nan)),
            {"label": "MoA"},
            r"feature ER_000 \(and 1 more features\) is null in 5 of 5 rows",
        ),
    ],
)
def test_tables_that_lack_something(
    profiles: pl.DataFrame, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TableError, match=message) as caught:
        evaluate(profiles, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no label was given"),
        ({"preset": "NSX"}, "'NSX' is unknown: use NSC, NSCB"),
        ({"label": "MoA", "rule": "loose"}, "'loose' is unknown: use strict or seed"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(FIVE, **arguments)
