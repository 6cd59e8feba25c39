"""Search against a naive loop in float64, over tables, Parquet files and indices."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from unidino_fast.errors import OutputError, TableError, UsageError
from unidino_fast.evaluation import search
from unidino_fast.evaluation.topk import TopK
from unidino_fast.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

search_module = importlib.import_module("unidino_fast.evaluation.search")
ASKED = 'Metadata_Compound == "C03" and Metadata_Plate == "P1"'


def naive(
    profiles: pl.DataFrame, rows: list[int], k: int, keys: list[str]
) -> list[tuple[int, int, int]]:
    """(query, rank, row), one pair at a time."""
    similar = cosine_similarity(profiles.select("^DNA_.*$").to_numpy().astype(np.float64))
    found = []
    for query in rows:
        allowed = [
            row
            for row in range(len(profiles))
            if row != query and all(profiles[key][row] != profiles[key][query] for key in keys)
        ]
        best = sorted(allowed, key=lambda row: (-round(similar[query, row], 12), row))[:k]
        found += [(query, rank + 1, row) for rank, row in enumerate(best)]
    return found


def rows_of(found: pl.DataFrame) -> list[tuple[int, int, int]]:
    return list(found.select("query", "rank", "row").iter_rows())


@pytest.mark.parametrize("keys", [[], ["Compound"], ["Compound", "Plate"]])
@pytest.mark.parametrize("block", [1, 1 << 24])
def test_against_a_loop(
    screen: pl.DataFrame, keys: list[str], block: int, tmp_path: Path, monkeypatch: Any
) -> None:
    """The same from memory, from Parquet of many row groups and from an index; in any blocks."""
    monkeypatch.setattr(search_module, "_BLOCK_ELEMENTS", block)
    path = tmp_path / "p.parquet"
    many = pl.concat([screen] * 3)  # 720 rows: each has two equals
    many.write_parquet(path, row_group_size=50)
    rows = np.flatnonzero(
        (many["Metadata_Compound"] == "C03").to_numpy()
        & (many["Metadata_Plate"] == "P1").to_numpy()
    ).tolist()
    expected = naive(many, rows, 7, [f"Metadata_{key}" for key in keys])
    found = search(many, ASKED, k=7, not_same=keys)
    assert rows_of(found) == expected
    assert search(path, ASKED, k=7, not_same=keys).equals(found)
    for _ in ("made", "used"):
        index = tmp_path / "i.npy"
        assert search(path, ASKED, k=7, not_same=keys, index=index).equals(found)


def test_similarities_against_scikit_learn(screen: pl.DataFrame) -> None:
    features = screen.select("^DNA_.*$").to_numpy().astype(np.float64)
    model = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(features)
    distances, rows = model.kneighbors(features[:9])
    found = search(screen.with_row_index("Metadata_Row"), "Metadata_Row < 9", k=5)
    assert found["row"].to_list() == rows[:, 1:].ravel().tolist()
    np.testing.assert_allclose(found["similarity"], 1 - distances[:, 1:].ravel(), atol=1e-12)


def test_finds_and_their_query_stand_side_by_side(screen: pl.DataFrame) -> None:
    found = search(screen, ASKED, k=2, not_same="Plate")
    assert found.columns[:4] == ["query", "rank", "similarity", "row"]
    assert (found["Query_Plate"] == "P1").all()
    assert (found["Metadata_Plate"] != "P1").all()
    rows = screen[found["row"].to_list()]
    assert found["Metadata_Compound"].to_list() == rows["Metadata_Compound"].to_list()
    assert found["rank"].to_list() == [1, 2] * (len(found) // 2)


def test_consensus_is_the_mean_and_leaves_all_queries_out(screen: pl.DataFrame) -> None:
    asked = screen.filter(Metadata_Compound="C03")
    mean = asked.select(pl.col("^DNA_.*$").cast(pl.Float64).mean()).to_numpy()
    similar = cosine_similarity(screen.select("^DNA_.*$").to_numpy(), mean)[:, 0]
    others = np.flatnonzero((screen["Metadata_Compound"] != "C03").to_numpy())
    best = others[np.argsort(-similar[others])][:10]
    for keys in ([], ["Compound"]):
        found = search(screen, 'Metadata_Compound == "C03"', k=10, not_same=keys, consensus=True)
        assert found["row"].to_list() == best.tolist()
        assert found["query"].to_list() == [0] * 10
        assert not any(name.startswith("Query_") for name in found.columns)


def test_another_table_of_queries(screen: pl.DataFrame, tmp_path: Path) -> None:
    """All its rows where no query is given; columns in another order; nothing is itself."""
    queries = screen.filter(Metadata_Plate="P2").select(reversed(screen.columns))
    queries.write_csv(tmp_path / "q.csv")
    found = search(screen, query_table=tmp_path / "q.csv", k=1)
    own = np.flatnonzero((screen["Metadata_Plate"] == "P2").to_numpy())
    assert found["row"].to_list() == own.tolist()
    np.testing.assert_allclose(found["similarity"], 1.0, atol=1e-12)
    one = search(screen, ASKED.replace("P1", "P2"), query_table=queries, k=1, not_same="Plate")
    assert (one["Metadata_Plate"] != "P2").all()


def test_fewer_rows_than_asked(screen: pl.DataFrame) -> None:
    assert len(search(screen.head(5).with_row_index("Metadata_I"), "Metadata_I == 2", k=99)) == 4
    alone = screen.head(5).with_columns(Metadata_Plate=pl.lit("P1"))
    found = search(alone, "Metadata_Plate == 'P1'", not_same="Plate")
    assert found.is_empty()
    assert found.columns[:4] == ["query", "rank", "similarity", "row"]


def test_sizes_from_one_end_of_the_range_to_the_other() -> None:
    """Lengths do not matter, zeros are as far from all, equal rows come in their order."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 8)).astype(np.float32)
    scaled = features * (10.0 ** rng.integers(-30, 30, (300, 1))).astype(np.float32)
    plain, odd = TopK(features[:4], 9), TopK(scaled[:4], 9)
    plain.add(0, features, None)
    odd.add(0, scaled, None)
    for one, other in zip(plain.found, odd.found, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
    zeros = TopK(np.zeros((1, 8), np.float32), 3)
    zeros.add(0, features, None)
    assert (zeros.found[0].rows.tolist(), zeros.found[0].similarities.tolist()) == (
        [0, 1, 2],
        [0, 0, 0],
    )


def test_an_index_is_made_again_when_its_file_changes(screen: pl.DataFrame, tmp_path: Path) -> None:
    path, index = tmp_path / "p.parquet", tmp_path / "i.npy"
    screen.write_parquet(path)
    search(path, ASKED, index=index)
    made = index.stat().st_mtime_ns
    search(path, ASKED, index=index)
    assert index.stat().st_mtime_ns == made
    changed = screen.with_columns(pl.col("DNA_000") + 3)
    changed.write_parquet(path)
    assert search(path, ASKED, index=index).equals(search(changed, ASKED))
    stamp = json.loads((tmp_path / "i.npy.json").read_text())
    assert stamp["features"] == screen.columns[3:]
    write_json({**stamp, "size": None}, tmp_path / "i.npy.json")  # cut off while it was written
    assert search(path, ASKED, index=index).equals(search(changed, ASKED))


@pytest.mark.parametrize("stamp", [None, "{", "[1]", '{"size": 3}'])
def test_a_file_that_is_no_index_stays(
    screen: pl.DataFrame, tmp_path: Path, stamp: str | None
) -> None:
    screen.write_parquet(tmp_path / "p.parquet")
    index = tmp_path / "mine.npy"
    np.save(index, np.arange(4))
    if stamp is not None:
        (tmp_path / "mine.npy.json").write_text(stamp)
    with pytest.raises(UsageError, match="does not say that it is an index"):
        search(tmp_path / "p.parquet", ASKED, index=index)
    assert np.load(index).tolist() == [0, 1, 2, 3]


def test_an_index_in_a_new_folder(screen: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    screen.write_parquet(path)
    found = search(path, ASKED, index=tmp_path / "new" / "i.npy")
    assert found.equals(search(screen, ASKED))
    with pytest.raises(OutputError, match=r"cannot be made \(.*\): choose another --index"):
        search(path, ASKED, index=path / "i.npy")


def test_paths_are_no_patterns(screen: pl.DataFrame, tmp_path: Path) -> None:
    """`p[1].parquet` is that file, not `p1.parquet`."""
    screen.with_columns(Metadata_Plate=pl.lit("other")).write_parquet(tmp_path / "p1.parquet")
    screen.write_parquet(tmp_path / "p[1].parquet")
    found = search(tmp_path / "p[1].parquet", ASKED)
    assert found.equals(search(screen, ASKED))


def test_row_numbers_of_pandas_are_no_feature(screen: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    screen.with_columns(__index_level_0__=1000 * pl.int_range(pl.len())).write_parquet(path)
    for index in (None, tmp_path / "i.npy"):
        assert search(path, ASKED, index=index).equals(search(screen, ASKED))


def test_features_of_cellprofiler(screen: pl.DataFrame, tmp_path: Path) -> None:
    """Counts and labels without our prefix are metadata there, as for `evaluate`."""
    path = tmp_path / "p.parquet"
    names = {name: f"Cells_Texture_{name}" for name in screen.columns[3:]}
    table = screen.rename({**names, "Metadata_Plate": "Image_Metadata_Plate"}).with_columns(
        Image_Count_Cells=1000 * pl.int_range(pl.len()), concentration=0.5
    )
    table.write_parquet(path)
    expected = search(screen, ASKED)
    for profiles in (table, path):
        found = search(profiles, ASKED)
        assert found.select("row", "similarity").equals(expected.select("row", "similarity"))
        assert {"Metadata_Plate", "Metadata_concentration"} <= set(found.columns)
    indexed = search(path, ASKED, index=tmp_path / "i.npy")
    assert indexed.equals(search(path, ASKED))


@pytest.mark.parametrize("consensus", [False, True])
@pytest.mark.parametrize("kind", ["text", "number"])
def test_rows_of_unknown_key_are_not_found(
    screen: pl.DataFrame, kind: str, consensus: bool, caplog: pytest.LogCaptureFixture
) -> None:
    batch = pl.int_range(pl.len()) % 5
    if kind == "text":
        key = pl.when(batch == 4).then(None).otherwise("b" + batch.cast(pl.String))
    else:
        key = pl.when(batch == 4).then(float("nan")).otherwise(batch.cast(pl.Float64))
    table = screen.with_columns(Metadata_Batch=key)
    asked = "Metadata_Row == 17" if not consensus else "Metadata_Row in [17, 22]"  # batch 2
    found = search(
        table.with_row_index("Metadata_Row"), asked, k=300, not_same="Batch", consensus=consensus
    )
    allowed = [row for row in range(240) if row % 5 not in (2, 4)]
    assert sorted(found["row"]) == allowed
    assert "Metadata_Batch is null in 48 of 240 rows: they are not found" in caplog.text


def holed(value: Any) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == 17).then(value).otherwise("DNA_005").alias("DNA_005")


@pytest.mark.parametrize(
    ("spoil", "arguments", "error", "message"),
    [
        (None, {"query": None}, UsageError, "nothing to search for"),
        (None, {"k": 0}, UsageError, "k 0 is too small"),
        (None, {"query": "Metadata_Plate ="}, UsageError, "is not understood"),
        (None, {"query": 'Metadata_Plate == "P9"'}, TableError, "no row answers"),
        (None, {"not_same": "Dose"}, TableError, "no column Metadata_Dose"),
        (None, {"index": "x.npy"}, UsageError, "an index is made of a Parquet file"),
        (holed(np.nan), {}, TableError, "row 17 has features that are null, NaN or infinite"),
        (holed(np.inf), {}, TableError, "row 17 has features that are null, NaN or infinite"),
        (holed(None), {}, TableError, "row 17 has features that are null, NaN or infinite"),
        (pl.lit("x").alias("Site"), {}, TableError, "column Site holds String"),
        (
            pl.lit(None, dtype=pl.String).alias("Metadata_Compound"),
            {"query": "Metadata_Plate == 'P1'", "not_same": "Compound"},
            TableError,
            "Metadata_Compound is null in 60 of 60 queries",
        ),
    ],
)
def test_what_cannot_be_searched(
    screen: pl.DataFrame,
    spoil: pl.Expr | None,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    table = screen if spoil is None else screen.with_columns(spoil)
    with pytest.raises(error, match=message) as caught:
        search(table, **{"query": ASKED, **arguments})
    assert "\n" not in str(caught.value)


def test_tables_that_do_not_fit(screen: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="feature DNA_003 is in one of the two tables only"):
        search(screen, query_table=screen.drop("DNA_003"))
    with pytest.raises(TableError, match="Metadata_Plate holds String in one table and Int"):
        search(screen, query_table=screen.with_columns(Metadata_Plate=1), not_same="Plate")
    with pytest.raises(TableError, match="query table has no rows"):
        search(screen, query_table=screen.clear())
    with pytest.raises(TableError, match="query table has no column Metadata_Plate"):
        search(screen, query_table=screen.drop("Metadata_Plate"), not_same="Plate")
    with pytest.raises(TableError, match=r"nowhere\.parquet does not exist"):
        search(tmp_path / "nowhere.parquet", ASKED)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 is not enough")
    with pytest.raises(TableError, match=r"broken\.parquet cannot be read as a table"):
        search(broken, ASKED)
    screen.write_parquet(tmp_path / "p.parquet")
    with pytest.raises(UsageError, match=r"index\.txt does not end in \.npy"):
        search(tmp_path / "p.parquet", ASKED, index=tmp_path / "index.txt")
