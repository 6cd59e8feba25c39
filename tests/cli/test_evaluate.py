"""The evaluate command: every metric, baselines, outputs, and what it refuses, each in a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from unidino_fast.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]
    Refuse = Callable[..., str]

TIDY = ["metric", "subject", "value", "lower", "upper", "n"]


def screen() -> pl.DataFrame:
    """Six compounds of three mechanisms and DMSO, two wells each on each of three plates."""
    random = np.random.default_rng(0)
    compounds = [*(f"c{i}" for i in range(6)), "DMSO"] * 6
    moas = [f"m{int(name[1]) % 3}" if name != "DMSO" else "none" for name in compounds]
    told = np.array([[moa == f"m{i}" for i in range(3)] for moa in moas]) * 4.0
    values = np.hstack([told + random.normal(size=told.shape), random.normal(size=told.shape)])
    return pl.DataFrame(
        {
            "Metadata_Plate": [f"p{place // 14}" for place in range(len(compounds))],
            "Metadata_Well": [f"A{place % 14 + 1:02d}" for place in range(len(compounds))],
            "Metadata_Compound": compounds,
            "Metadata_Concentration": [1.0] * len(compounds),
            "Metadata_Batch": [f"b{place // 28}" for place in range(len(compounds))],
            "Metadata_MoA": moas,
            "Metadata_cc_told": told[:, 0],
            **{f"DNA_{i:03d}": values[:, i].astype(np.float32) for i in range(3)},
            **{f"ER_{i:03d}": values[:, i + 3].astype(np.float32) for i in range(3)},
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    screen().write_parquet(tmp_path / "profiles.parquet")
    return tmp_path / "profiles.parquet"


def test_the_contract_stays(run: Run, table: Path) -> None:
    outcome = run("evaluate", table, "--label", "MoA", "--not-same", "Compound", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document == json.loads(
        json.dumps(evaluate(screen(), "Metadata_MoA", ["Metadata_Compound"]).to_dict())
    )
    assert {"accuracy", "n_queries", "n_without_candidate", "rule"} <= document.keys()
    seed = run("evaluate", table, "--preset", "NSC", "--rule", "seed", "--json")
    assert json.loads(seed.out)["rule"] == "seed"


CALLS = {
    "nearest-neighbour": ("--preset", "NSC", "--level", "Compound,Plate", "--bootstrap", "9"),
    "map": ("--preset", "NSC", "--level", "Compound,Plate"),
    "replicating": ("--by", "Compound"),
    "matching": ("--label", "MoA", "--by", "Compound", "--where", "Metadata_MoA != 'none'"),
    "batch": ("--label", "MoA", "--by", "Plate", "--level", "Compound, Plate, Batch"),
    "cell-health": ("--readout", "cc_*", "--rule", "released"),
    "channels": ("--label", "MoA", "--bootstrap", "20", "--where", "Metadata_MoA != 'none'"),
    "linear-probe": ("--label", "MoA", "--bootstrap", "20", "--by", "Plate"),
}


@pytest.mark.parametrize("metric", CALLS)
def test_every_metric(run: Run, table: Path, tmp_path: Path, metric: str) -> None:
    out = tmp_path / "new" / "rows.csv"
    call = ("evaluate", table, "--metric", metric, *CALLS[metric], "--out", out)
    outcome = run(*call)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip()
    rows = pl.read_csv(out, infer_schema_length=None)
    assert rows.columns == ["table", *TIDY]
    assert set(rows["table"]) == {"profiles"}


def test_every_metric_in_json(run: Run, table: Path) -> None:
    for metric in ("map", "replicating", "batch", "cell-health"):
        outcome = run("evaluate", table, "--metric", metric, *CALLS[metric], "--json")
        assert isinstance(json.loads(outcome.out), dict), metric


def test_baselines_stand_beside(run: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    call = ("evaluate", table, "--preset", "NSC", "--where", "Metadata_Compound != 'DMSO'")
    both = ("--baseline", "gaussian", "--baseline", "shuffled", "--out", out)
    outcome = run(*call, *both, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    rows = pl.read_parquet(out)
    for kind in ("gaussian", "shuffled"):
        found = document["baselines"][kind]
        assert found["accuracy"] < document["accuracy"]
        own = rows.filter((pl.col("table") == kind) & (pl.col("metric") == "accuracy"))
        assert own["value"][0] == found["accuracy"]
    assert "baseline gaussian: accuracy" in run(*call, *both).out


def test_recipe(run: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    call = ("evaluate", table, "--recipe", "paper-insect", "--normalize", "mad_robustize")
    outcome = run(*call, "--select", "variance", "--baseline", "gaussian", "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Insect cells (Morelli et al. 2025, Table 4): 36 rows, 6 feat")
    assert "published" in outcome.out
    rows = json.loads(out.read_text())["rows"]
    assert list(rows[0]) == TIDY
    assert {row["subject"] for row in rows} >= {"profiles", "gaussian", "published uniDINO"}
    document = json.loads(run(*call, "--json").out)
    assert document["recipe"] == "paper-insect"
    assert document["steps"][0]["normalize"] == "mad_robustize"
    text = run("evaluate", table, "--recipe", "paper-insect", "--where", "Metadata_Plate == 'p0'")
    assert "12 rows" in text.out


def test_recipe_of_ones_own(run: Run, refuse: Refuse, table: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('title = "mine"\n[[ask]]\nname = "same MoA"\npreset = "NSC"\n')
    outcome = run("evaluate", table, "--recipe", mine, "--json")
    assert outcome.code == 0, outcome.err
    expected = evaluate(screen(), preset="NSC").accuracy
    assert json.loads(outcome.out)["columns"][0]["value"] == expected
    mine.write_text('title = "mine"\n[[ask]]\nname = "same MoA"\ncolour = "red"\n')
    refuse("evaluate", table, "--recipe", mine, code=1, said="recipe mine.toml: ask.1.colour")


def test_csv_of_cellprofiler(run: Run, tmp_path: Path) -> None:
    renamed = {name: f"Cells_Texture_{name}" for name in screen().columns[-6:]}
    renamed["Metadata_MoA"] = "moa"
    file = tmp_path / "cp.csv"
    screen().rename(renamed).with_columns(n_cells=pl.lit(7)).write_csv(file)
    outcome = run("evaluate", file, "--label", "moa", "--not-same", "Compound", "--json")
    assert outcome.code == 0, outcome.err
    expected = evaluate(screen(), "MoA", ["Compound"])
    assert json.loads(outcome.out)["accuracy"] == expected.accuracy


# ---- what it refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ((), "no label was given"),
        (("--metric", "umap"), "umap"),
        (("--preset", "NSX"), "NSX"),
        (("--metric", "map"), "no label was given"),
        (("--metric", "channels"), "no label was given"),
        (("--metric", "cell-health"), "no readout was given"),
        (("--metric", "map", "--label", "MoA", "--rule", "seed"), "--rule is no option of metric"),
        (("--metric", "batch", "--preset", "NSC"), "--preset is no option of metric batch"),
        (("--label", "MoA", "--readout", "cc_*"), "--readout is no option of metric nearest"),
        (("--label", "MoA", "--by", "Plate"), "--by is no option of metric nearest-neighbour"),
        (("--metric", "replicating", "--level", "treatment"), "--level is no option"),
        (("--metric", "batch", "--by", "Plate", "--by", "Well"), "takes one --by"),
        (("--label", "MoA", "--rule", "paper"), "rule 'paper' is not of metric nearest"),
        (
            ("--metric", "cell-health", "--readout", "x", "--rule", "seed"),
            "rule 'seed' is not of metric cell-health",
        ),
        (("--label", "MoA", "--baseline", "zeros"), "baseline 'zeros' is unknown"),
        (
            ("--label", "MoA", "--not-same", "MoA"),
            "Metadata_MoA is the label and may not be shared",
        ),
        (("--preset", "NSC", "--label", "Compound"), "is the label and may not be shared"),
        (("--label", "MoA", "--features", ""), "--features is empty"),
        (("--label", "MoA", "--level", ""), "--level is empty"),
        (("--label", "MoA", "--level", "Compound,"), "--level is empty"),
        (("--label", "MoA", "--normalize", ""), "--normalize belongs to a --recipe"),
        (("--metric", "replicating", "--by", ""), "--by is empty"),
        (("--label", "MoA", "--seed", "-1"), "seed -1 is negative"),
        (("--label", "MoA", "--bootstrap", "-1"), "bootstrap"),
        (("--label", "MoA", "--out", "rows.xlsx"), "ends in none of .parquet, .csv, .json"),
        (("--label", "MoA", "--where", "MoA ="), "is not understood"),
        (("--label", "MoA", "--join", "x.csv"), "--join belongs to a --recipe"),
        (("--label", "MoA", "--normalize", "tvn"), "--normalize belongs to a --recipe"),
        (("--label", "MoA", "--select", "na"), "--select belongs to a --recipe"),
        (("--label", "MoA", "--samples", "x"), "--samples belongs to a --recipe"),
        (("--recipe", "paper-x"), "recipe paper-x is unknown: use paper-bbbc021"),
        (("--recipe", "paper-insect", "--label", "MoA"), "brings its own questions"),
        (("--recipe", "paper-insect", "--metric", "map"), "brings its own questions"),
        (("--recipe", "paper-insect", "--samples", "x"), "--samples belongs to --normalize"),
        (("--recipe", "paper-insect", "--normalize", "magic"), "'magic' is not available"),
        (("--recipe", "paper-insect", "--normalize", "tvn"), "tvn learns from controls"),
        (("--recipe", "paper-insect", "--select", "best"), "'best' is not known"),
    ],
)
def test_what_was_typed(refuse: Refuse, table: Path, call: tuple[str, ...], said: str) -> None:
    refuse("evaluate", table, *call, code=2, said=said)


def without_controls(frame: pl.DataFrame) -> pl.DataFrame:
    """No DMSO on plate p1."""
    return frame.filter(
        (pl.col("Metadata_Plate") != "p1") | (pl.col("Metadata_Compound") != "DMSO")
    )


def hole(frame: pl.DataFrame, column: str, value: Any) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 0
    return frame.with_columns(pl.when(first).then(pl.lit(value)).otherwise(column).alias(column))


NSC = ("--preset", "NSC")
BY_CONTROLS = ("--normalize", "standardize", "--samples", 'Metadata_Compound == "DMSO"')


@pytest.mark.parametrize(
    ("change", "call", "said"),
    [
        (lambda f: f, ("--label", "Mechanism"), "no column Metadata_Mechanism"),
        (lambda f: f.drop("Metadata_MoA"), NSC, "which preset NSC needs"),
        (lambda f: f.with_columns(Metadata_MoA=pl.lit("m")), NSC, "Metadata_MoA is 'm' in all"),
        (
            lambda f: f.with_columns(Metadata_MoA=pl.lit(None, pl.String)),
            NSC,
            "Metadata_MoA is null in all",
        ),
        (lambda f: hole(f, "Metadata_Compound", None), NSC, "Metadata_Compound is null in 1 of"),
        (
            lambda f: hole(f, "Metadata_Batch", None),
            ("--label", "MoA", "--level", "Well,Compound", "--not-same", "Batch"),
            "Metadata_Batch is null in 1 of",
        ),
        (
            lambda f: f.with_columns(Metadata_Plate=pl.lit("p")),
            ("--label", "MoA", "--not-same", "Plate"),
            "none of 42 rows has another that it may match",
        ),
        (
            lambda f: f.with_columns(Metadata_Doses=pl.concat_list("Metadata_Concentration")),
            ("--label", "MoA", "--not-same", "Doses"),
            "Metadata_Doses holds List(Float64)",
        ),
        (lambda f: hole(f, "DNA_000", float("nan")), NSC, "feature DNA_000 is null, NaN"),
        (lambda f: hole(f, "DNA_000", float("inf")), NSC, "feature DNA_000 is null, NaN"),
        (lambda f: hole(f, "DNA_000", None), NSC, "feature DNA_000 is null, NaN"),
        (lambda f: f.with_columns(site=pl.lit("x")), NSC, "column site holds String"),
        (lambda f: f.select("^Metadata_.*$"), NSC, "no feature columns"),
        (lambda f: f.head(0), NSC, "no rows"),
        (lambda f: f, (*NSC, "--where", "Metadata_Plate == 'p9'"), "no row of 42 fits"),
        (lambda f: f, (*NSC, "--where", "Plate == 'p0'"), "did you mean Metadata_Plate"),
        (lambda f: f, (*NSC, "--level", "Dose,Plate"), "no column Metadata_Dose"),
        (lambda f: f, (*NSC, "--features", "emb_"), "no column begins with emb_"),
        (without_controls, ("--recipe", "paper-insect", *BY_CONTROLS), "no row of p1 fits"),
        (
            lambda f: hole(f, "DNA_000", float("nan")),
            ("--recipe", "paper-insect", "--normalize", "mad_robustize"),
            "feature DNA_000 is NaN or infinite in 1 of 42 rows",
        ),
        (
            lambda f: f.drop("Metadata_Plate"),
            ("--recipe", "paper-insect", "--normalize", "mad_robustize"),
            "no column Metadata_Plate, which mad_robustize (--by COLUMN or all) needs",
        ),
        (
            lambda f: f.drop("Metadata_Batch"),
            ("--recipe", "paper-bbbc021"),
            "Metadata_Batch is missing, and no Metadata_Plate fits",
        ),
        (lambda f: f, ("--recipe", "paper-insect", "--join", "absent.csv"), "does not exist"),
        (lambda f: f, ("--metric", "cell-health", "--readout", "vb_*"), "fits vb_*"),
        (
            lambda f: f.rename({"DNA_000": "area"}),
            ("--metric", "channels", "--label", "MoA"),
            "feature area names no channel",
        ),
    ],
)
def test_what_lies_on_disk(
    refuse: Refuse, tmp_path: Path, change: Any, call: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "profiles.parquet"
    change(screen()).write_parquet(file)
    out = tmp_path / "rows.parquet"
    refuse("evaluate", file, *call, "--out", out, code=1, said=said)
    assert not out.exists()


def test_spares_the_table_that_it_reads(refuse: Refuse, table: Path) -> None:
    before = table.read_bytes()
    refuse("evaluate", table, *NSC, "--out", table, code=2, said="is the table that is read")
    assert table.read_bytes() == before


def test_spares_labels_and_recipes(refuse: Refuse, table: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("Compound,MoA\nc1,m1\n")
    call = ("evaluate", table, "--recipe", "paper-insect", "--join", labels, "--out", labels)
    refuse(*call, code=2, said="that is joined: name another file")
    assert labels.read_text() == "Compound,MoA\nc1,m1\n"


def test_an_output_that_cannot_be_written_is_found_first(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    call = ("evaluate", tmp_path / "absent.parquet", *NSC)  # which is looked for later
    refuse(*call, "--out", tmp_path / "file" / "rows.csv", code=1, said="cannot be written")


def test_rows_without_a_label_take_no_part(run: Run, table: Path, tmp_path: Path) -> None:
    holed = tmp_path / "holed.parquet"
    hole(screen(), "Metadata_MoA", None).write_parquet(holed)
    screen()[1:].write_parquet(table)
    for call in (("map", *NSC), ("nearest-neighbour", *NSC), ("batch", "--label", "MoA")):
        said = [run("evaluate", path, "--metric", *call, "--json").out for path in (holed, table)]
        assert said[0] == said[1] != ""


def test_batch_level_leaves_out_rows_without_batch(run: Run, table: Path) -> None:
    hole(screen(), "Metadata_Batch", None).write_parquet(table)
    outcome = run("evaluate", table, "--metric", "batch", "--by", "Batch", "--level", "Plate,Well")
    assert outcome.code == 0, outcome.err


def test_columns_with_commas(run: Run, table: Path) -> None:
    call = ("evaluate", table, "--metric", "replicating", "--json")
    apart = run(*call, "--by", "Compound", "--by", "Batch")
    assert json.loads(apart.out)["by"] == ["Metadata_Compound", "Metadata_Batch"]
    assert run(*call, "--by", "Compound, Batch").out == apart.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[ask]]\nname = "a"\npreset = "NSC"\n', "title: field required: mend it"),
        ('title = "m"\n[derive.Metadata_X]\nfrom = "Plate"\npattern = "("\n'
         '[[ask]]\nname = "a"\npreset = "NSC"\n', "regular expression (unclosed group): mend it"),
        ('title = "m"\nwhere = ["Plate ="]\n[[ask]]\nname = "a"\npreset = "NSC"\n',
         "recipe, where: query 'Plate =' is not understood"),
        ('title = "m"\n[[ask]]\nname = "a"\nlabel = "MoA"\nnot_same = ["MoA"]\n',
         "recipe, a: Metadata_MoA is the label"),
    ],
)  # fmt: skip
def test_faults_of_a_recipe_are_those_of_a_file(
    refuse: Refuse, table: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    refuse("evaluate", table, "--recipe", tmp_path / "mine.toml", code=1, said=said)


def test_help_is_short_and_teaches(run: Run) -> None:
    shown = run("evaluate", "--help").out
    assert "paper-bbbc021" in shown
    assert len(shown.splitlines()) < 110
