"""The `profile` command: options, recipes, files, and what it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from unidino_fast.profiles import METHODS, OPERATIONS, consensus, normalize, select_features
from unidino_fast.tables import write_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Refuse, Run

CONTROLS = 'Metadata_Compound == "DMSO"'


@pytest.fixture
def wells(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 5)).astype("f4")
    values[:40, 2] = 0.5
    names = [f"DNA_{index:03d}" for index in range(5)]
    metadata = {
        "Metadata_Plate": ["p"] * 40 + ["q"] * 40,
        "Metadata_Compound": ["DMSO", "a", "DMSO", "b"] * 20,
    }
    table = pl.DataFrame(metadata).hstack(pl.DataFrame(values, schema=names))
    table.write_parquet(tmp_path / "wells.parquet")
    return tmp_path / "wells.parquet"


def test_the_help_lists_what_there_is(run: Run) -> None:
    shown = " ".join(run("profile", "--help").out.replace("│", " ").split())
    for name in (*METHODS, *OPERATIONS):
        assert name in shown.replace(" ", "") or name in shown


def test_steps_in_order(run: Run, wells: Path, tmp_path: Path) -> None:
    made = run(
        "profile", wells, "--out", tmp_path / "p.parquet", "--method", "spherize", "--method",
        "mad_robustize", "--samples", CONTROLS, "--samples", "all", "--by", "all",
        "--by", "Metadata_Plate", "--select", "na", "--select", "correlation",
        "--consensus", "Metadata_Plate, Metadata_Compound", "--statistic", "mean",
    )  # fmt: skip
    assert made.code == 0, made.err
    table = normalize(pl.read_parquet(wells), "spherize", samples=CONTROLS)
    table = select_features(normalize(table, "mad_robustize"), ["na", "correlation"])
    wanted = consensus(table, ["Metadata_Plate", "Metadata_Compound"], statistic="mean")
    assert_frame_equal(pl.read_parquet(tmp_path / "p.parquet"), wanted, abs_tol=1e-5)
    assert made.out.splitlines() == [
        f"{tmp_path}/p.parquet: 6 rows, 5 features, spherize, mad_robustize by Metadata_Plate,"
        " selection by na, correlation, mean by Metadata_Plate, Metadata_Compound",
        "dropped features: 0 by na, 0 by correlation",
    ]
    held = json.loads(pl.read_parquet_metadata(tmp_path / "p.parquet")["unidino_fast"])
    assert held["input"] == "wells.parquet"
    kinds = ("normalize", "normalize", "select", "consensus")
    assert [kind in step for kind, step in zip(kinds, held["recipe"], strict=True)] == [True] * 4
    assert held["recipe"][0] == {
        "normalize": "spherize", "by": "all", "samples": CONTROLS, "epsilon": 1e-6
    }  # fmt: skip
    assert "samples" not in held["recipe"][1]


def test_what_the_wells_were_made_of_goes_with_the_profiles(
    run: Run, wells: Path, tmp_path: Path
) -> None:
    made_by = {"model": {"weights": "w.pth"}, "plate": {"name": "p"}}
    write_table(pl.read_parquet(wells), wells, made_by)
    for name in ("one", "two"):
        assert run("profile", wells, "--out", tmp_path / f"{name}.parquet").code == 0
        wells = tmp_path / f"{name}.parquet"
    held = json.loads(pl.read_parquet_metadata(wells)["unidino_fast"])
    assert (held["input"], held["source"]["input"]) == ("one.parquet", "wells.parquet")
    assert held["source"]["source"] == made_by


def test_one_value_goes_to_every_method_that_knows_it(
    run: Run, wells: Path, tmp_path: Path
) -> None:
    made = run(
        "profile", wells, "--out", tmp_path / "p.csv", "--method", "standardize", "--method", "l2",
        "--samples", CONTROLS, "--by", "Metadata_Plate", "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    summary = json.loads(made.out)
    assert (summary["n_rows"], summary["n_features"], summary["streamed"]) == (80, 5, False)
    assert summary["neutralised"] == {"p": ["DNA_002"]}
    assert summary["recipe"] == [
        {"normalize": "standardize", "by": ["Metadata_Plate"], "samples": CONTROLS},
        {"normalize": "l2"},
    ]
    assert made.err == "warning: 1 feature has no spread on p and was set to 0: DNA_002\n"


def test_a_recipe_file_and_a_shipped_one(run: Run, wells: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[step]]\nnormalize = "tvn"\nsamples = \'' + CONTROLS + "'\n")
    made = run("profile", wells, "--out", tmp_path / "p.parquet", "--recipe", tmp_path / "r.toml")
    assert made.code == 0, made.err
    wanted = normalize(pl.read_parquet(wells), "tvn", samples=CONTROLS)
    assert pl.read_parquet(tmp_path / "p.parquet").equals(wanted)
    shipped = run(
        "profile", wells, "--out", tmp_path / "s.parquet", "--recipe", "spherize-then-mad"
    )
    assert shipped.code == 0, shipped.err


def test_a_recipe_of_another_suffix(refuse: Refuse, wells: Path, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text('[[step]]\nnormalize = "l2"\n')
    refuse(
        *("profile", wells, "--out", tmp_path / "p.parquet", "--recipe", tmp_path / "r.txt"),
        code=2,
        said="r.txt does not end in .toml: rename it, or name one of spherize-then-mad",
    )


def test_large_files_stream(
    run: Run, wells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unidino_fast.profiles.streaming._WORTH_BYTES", 1)
    made = run("profile", wells, "--out", tmp_path / "new/p.parquet", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["streamed"] is True
    wanted = normalize(pl.read_parquet(wells))
    assert_frame_equal(pl.read_parquet(tmp_path / "new/p.parquet"), wanted)


def test_columns_without_their_prefix(run: Run, wells: Path, tmp_path: Path) -> None:
    short, full = tmp_path / "short.parquet", tmp_path / "full.parquet"
    for out, prefix in ((short, ""), (full, "Metadata_")):
        made = run(
            "profile", wells, "--out", out, "--by", f"{prefix}Plate,{prefix}Compound",
            "--consensus", f"{prefix}Compound, {prefix}Plate",
        )  # fmt: skip
        assert made.code == 0, made.err
    assert_frame_equal(pl.read_parquet(short), pl.read_parquet(full))
    assert pl.read_parquet(short).columns[:2] == ["Metadata_Compound", "Metadata_Plate"]


def test_a_faulty_recipe_file_is_no_fault_of_what_was_typed(
    refuse: Refuse, wells: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text('[[step]]\nnormalize = "l3"\n')
    options = ["--out", tmp_path / "p.parquet", "--recipe", tmp_path / "r.toml"]
    refuse("profile", wells, *options, code=1, said="step 1 of recipe")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_features_of_cellprofiler(
    run: Run, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unidino_fast.profiles.streaming._WORTH_BYTES", 1)
    rng = np.random.default_rng(1)
    area = rng.normal(size=(8, 2))
    table = pl.DataFrame(
        {
            "Image_Metadata_Plate": ["p", "q"] * 4,
            "Metadata_Well": [f"A{at:02d}" for at in range(8)],
            "concentration": rng.normal(size=8),
            "Cells_AreaShape_Area": area[:, 0],
            "Nuclei_Texture_Variance_DNA": [None, *area[1:, 1]],
        }
    )
    wells = tmp_path / f"cp.{suffix}"
    if suffix == "csv":
        table.write_csv(wells)
    else:
        table.fill_null(float("nan")).write_parquet(wells)
    made = run("profile", wells, "--out", tmp_path / "p.parquet", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["n_features"] == 2
    found = pl.read_parquet(tmp_path / "p.parquet")
    renamed = {"Image_Metadata_Plate": "Metadata_Plate", "concentration": "Metadata_concentration"}
    wanted = normalize(table.rename(renamed))
    assert_frame_equal(found, wanted, abs_tol=1e-6)


def test_many_warnings_are_cut(run: Run, tmp_path: Path) -> None:
    plates = [f"p{index}" for index in range(30)]
    pl.DataFrame({"Metadata_Plate": plates, "x_000": [1.0] * 30}).write_csv(tmp_path / "w.csv")
    made = run("profile", tmp_path / "w.csv", "--out", tmp_path / "p.csv")
    assert len(made.err.splitlines()) == 6
    assert made.err.endswith("warning: and 25 more (--json lists all)\n")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--method", "tvn"], 2, "tvn learns from controls: name them with --samples"),
        (["--recipe", "spherize-then-mad", "--by", "x"], 2, "--recipe and --by exclude each other"),
        (["--recipe", "none"], 2, "recipe none does not exist: give a .toml file"),
        (["--samples", "Metadata_Compound == 'x'"], 1, "no row of p fits the samples"),
        (["--method", "l2", "--by", "Metadata_Plate"], 2, "l2 knows no groups"),
        (["--by", "Metadata_Plate,,"], 2, "the name of a column is empty"),
        (["--by", ""], 2, "the name of a column is empty"),
        (["--consensus", ""], 2, "the name of a column is empty"),
        (
            ["--by", "Plaet"],
            1,
            "which mad_robustize (--by COLUMN or all) needs: did you mean Metadata_Plate?",
        ),
        (["--statistic", "mean"], 2, "--statistic is that of a consensus: add --consensus"),
        (
            ["--recipe", "spherize-then-mad", "--statistic", "modz"],
            2,
            "--recipe and --statistic exclude each other",
        ),
        (["--by", "a", "--by", "b"], 2, "--by is given 2 times for 1 methods"),
        (["--consensus", "Metadata_Gate"], 1, "the table has no column Metadata_Gate"),
        (["--select", "entropy"], 2, "selection 'entropy' is not known: use variance"),
        (["--method", "zscore"], 2, "method 'zscore' is not available: use mad_robustize"),
    ],
)
def test_refusals(
    refuse: Refuse, wells: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    refuse("profile", wells, "--out", tmp_path / "p.parquet", *options, code=code, said=said)
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"Metadata_Plate": [], "DNA_000": []}, "wells.csv has no rows: give a table with wells"),
        ({"Metadata_Plate": ["p"]}, "wells.csv has no features, as all of its columns begin"),
    ],
)
def test_a_table_of_nothing_is_refused(
    refuse: Refuse, tmp_path: Path, columns: dict[str, list[str]], said: str
) -> None:
    pl.DataFrame(columns, schema_overrides={"Metadata_Plate": pl.String}).write_csv(
        tmp_path / "wells.csv"
    )
    refuse("profile", tmp_path / "wells.csv", "--out", tmp_path / "p.parquet", code=1, said=said)
    assert not (tmp_path / "p.parquet").exists()


def test_anndata(run: Run, wells: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes .h5ad files")
    made = run("profile", wells, "--out", tmp_path / "p.h5ad", "--method", "none")
    assert made.code == 0, made.err
    with h5py.File(tmp_path / "p.h5ad") as file:
        features = pl.read_parquet(wells).select(pl.col("^DNA_.*$"))
        np.testing.assert_array_equal(file["X"][...], features.to_numpy())
        assert file["obs"].attrs["column-order"].tolist() == ["Metadata_Plate", "Metadata_Compound"]
        assert json.loads(file["uns/unidino_fast"][()])["input"] == "wells.parquet"
