"""The search command as a user sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import unidino_fast as uf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.parquet"
    pl.DataFrame(
        {
            "Metadata_Plate": ["p", "p", "p", "q"],
            "Metadata_Compound": ["taxol", "taxol", "DMSO", "b\x1b[1m"],
            "DNA_000": [1.0, 2.0, 1.0, 0.0],
            "DNA_001": [0.0, 0.1, 1.0, 1.0],
        }
    ).write_parquet(path)
    return path


QUERY = 'Metadata_Compound == "taxol"'


def test_search_prints_writes_and_gives_json(run: Any, profiles: Path, tmp_path: Path) -> None:
    outcome = run("search", profiles, "--query", QUERY, "--k", "2", "--out", tmp_path / "f.parquet")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "query 0: p, taxol"
    assert lines[1].split() == ["1", "0.9988", "row", "1", "p,", "taxol"]
    assert len(lines) == 2 * 3 + 1
    found = uf.search(profiles, QUERY, k=2)
    assert pl.read_parquet(tmp_path / "f.parquet").equals(found)
    as_json = json.loads(run("search", profiles, "--query", QUERY, "--k", "2", "--json").out)
    assert as_json["n_found"] == 4
    assert [row["row"] for row in as_json["neighbours"]] == found["row"].to_list()


def test_names_of_any_length_keep_lines_short(run: Any, profiles: Path) -> None:
    table = pl.read_parquet(profiles)
    table = table.with_columns(Metadata_MoA=pl.col("Metadata_Compound") + "x" * 10_000)
    table.write_parquet(profiles)
    outcome = run("search", profiles, "--query", QUERY, "--k", "2")
    assert outcome.code == 0, outcome.err
    assert "taxolxxx" in outcome.out
    assert max(map(len, outcome.out.splitlines())) < 200


def test_search_with_its_options(run: Any, profiles: Path, tmp_path: Path) -> None:
    index = tmp_path / "i.npy"
    outcome = run(
        "search", profiles, "--query", QUERY, "--not-same", "Compound", "--consensus",
        "--index", index, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["neighbours"]
    assert [row["row"] for row in found] == [2, 3]
    assert index.exists()
    shown = run("search", profiles, "--query-table", profiles, "--k", "1").out
    assert "query 3: q, b_[1m\n" in shown


def test_search_that_finds_nothing_says_so(run: Any, profiles: Path) -> None:
    one = pl.read_parquet(profiles).filter(Metadata_Plate="p")
    one.write_csv(profiles.with_suffix(".csv"))
    outcome = run("search", profiles.with_suffix(".csv"), "--query", QUERY, "--not-same", "Plate")
    assert (outcome.code, outcome.out) == (0, "nothing found: --not-same leaves no row\n")


def test_search_spares_what_it_reads(refuse: Any, profiles: Path, tmp_path: Path) -> None:
    before = profiles.read_bytes()
    call = ("search", profiles, "--query", QUERY, "--out", profiles)
    refuse(*call, code=2, said="is the table that is read")
    queries = tmp_path / "queries.parquet"
    queries.write_bytes(before)
    call = ("search", profiles, "--query-table", queries, "--out", queries)
    refuse(*call, code=2, said="is the query table")
    assert profiles.read_bytes() == queries.read_bytes() == before
    absent = ("search", tmp_path / "no.parquet", "--query", QUERY)  # which is looked for later
    refuse(*absent, "--out", profiles / "f.csv", code=1, said="cannot be written")


def test_search_says_what_is_no_number_or_one_line(run: Any, profiles: Path) -> None:
    odd = pl.read_parquet(profiles).with_columns(
        Metadata_Dose=pl.Series([1.0, float("nan"), float("inf"), None]),
        Metadata_Doses=pl.Series([[1.0], [float("nan")], [2.0], []]),
        Metadata_Plate=pl.lit("p\nq\r"),
    )
    odd.write_parquet(profiles)
    call = ("search", profiles, "--query", QUERY, "--consensus", "--k", "4")
    found = run("search", profiles, "--query", QUERY, "--json").out
    rows = json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    doses = {
        row["row"]: (row["Metadata_Dose"], row["Metadata_Doses"]) for row in rows["neighbours"]
    }
    assert doses[1] == (None, [None])
    assert doses[2] == (None, [2.0])
    lines = run(*call).out.splitlines()
    assert len(lines) == 1 + 2
    assert lines[1].endswith("p q, DMSO")


def test_search_refuses_in_one_line(refuse: Any, profiles: Path, tmp_path: Path) -> None:
    refuse("search", profiles, code=2, said="nothing to search for")
    refuse("search", profiles, "--query", "Metadata_Plate ==", code=2, said="is not understood")
    refuse("search", profiles, "--query", QUERY, "--not-same", "MoA", code=1, said="no column")
    refuse("search", tmp_path / "no.parquet", "--query", QUERY, code=1, said="does not exist")
    refuse("search", profiles, "--query", QUERY, "--out", "x.txt", code=2, said="neither")


def test_features_by_prefix_as_evaluate_and_profile_take_them(run: Any, tmp_path: Path) -> None:
    rows = {"Compound": ["taxol", "a", "b"], "size": [1.0, 1.0, 9.0]}
    features = {"emb_0": [1.0, 0.9, 0.0], "emb_1": [0.0, 0.1, 1.0]}
    for path in (tmp_path / "foreign.parquet", tmp_path / "foreign.csv"):
        frame = pl.DataFrame(rows | features)
        frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
        found = run("search", path, "--query", QUERY, "--features", "emb_", "--k", "1")
        assert found.code == 0, found.err
        assert found.out.splitlines()[1].split()[:4] == ["1", "0.9939", "row", "1"]
        made = run("profile", path, "--out", tmp_path / "p.parquet", "--method", "l2",
                   "--features", "emb_")  # fmt: skip
        assert made.code == 0, made.err
        made = pl.read_parquet(tmp_path / "p.parquet")
        assert made.columns == ["Metadata_Compound", "Metadata_size", "emb_0", "emb_1"]
    search, profile = (
        ("search", path, "--query", QUERY),
        ("profile", path, "--out", tmp_path / "q.csv"),
    )
    for asked in (search, profile):
        refused = run(*asked, "--features", " ")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "--features is empty" in refused.err
        missing = run(*asked, "--features", "none_")
        assert (missing.code, missing.err.count("\n")) == (1, 1)
        assert "no column begins with none_" in missing.err
