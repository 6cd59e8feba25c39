from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from unidino_fast.errors import TableError, UnidinoError, UsageError
from unidino_fast.evaluation import evaluate, protocols
from unidino_fast.evaluation.protocols import load_recipe, run_recipe, shipped_recipes
from unidino_fast.evaluation.protocols.prepare import prepare
from unidino_fast.evaluation.protocols.recipe import steps_of

TABLES = {  # REFERENCE, tables 2 to 5 of the paper: uniDINO, CellProfiler, Gaussian
    "paper-bbbc021": {
        "NSC treatment": (0.845, 0.573, 0.039),
        "NSC well": (0.795, 0.596, 0.050),
        "NSCB well": (0.697, 0.496, 0.047),
        "NSPW well": (0.656, 0.646, 0.017),
    },
    "paper-jump-target2": {
        "NSC target, batch level": (0.029, 0.032, 0.004),
        "NSCB target, batch level": (0.017, 0.023, 0.004),
        "NSB compound, well": (0.431, 0.491, 0.005),
        "NSS compound, well": (0.045, 0.111, 0.004),
    },
    "paper-insect": {
        "NSC treatment": (0.605, 0.140, 0.116),
        "NSC well": (0.624, 0.391, 0.128),
        "NSCP well": (0.578, 0.360, 0.105),
        "NSPW well": (0.748, 0.236, 0.112),
    },
    "paper-cell-health": {
        "A549": (0.198, 0.192, 0.001),
        "ES2": (0.260, 0.270, 0.001),
        "HCC44": (0.227, 0.199, 0.000),
    },
}


def screen(batches: int = 2) -> pl.DataFrame:
    """Three mechanisms of two compounds, two wells each in every batch, and DMSO; taxol as well."""
    random = np.random.default_rng(0)
    rows = []
    for batch in range(1, batches + 1):
        compounds = [f"c{i}" for i in range(6)] + ["taxol", "DMSO", "lonely"]
        for place, compound in enumerate(compounds * 2):
            well = f"{'DE'[place // 9]}{place % 9 + 1:02d}"
            rows.append((f"Week{batch}_10{batch}", well, compound, 1.0))
    labels = {f"c{i}": f"m{i % 3}" for i in range(6)}
    labels |= {"taxol": "m0", "lonely": "alone", "DMSO": "DMSO"}
    table = pl.DataFrame(rows, schema=["Plate", "Well", "Compound", "dose"], orient="row")
    moas = [labels[compound] for compound in table["Compound"]]
    told = np.array([[moa == f"m{i}" for i in range(3)] for moa in moas]) * 5.0
    values = told + random.normal(size=(len(table), 3))
    return table.select(pl.all().name.prefix("Metadata_")).with_columns(
        pl.Series("Metadata_moa", moas),
        *(pl.Series(f"DNA_{i:03d}", values[:, i].astype(np.float32)) for i in range(3)),
    )


# ---- the recipes that ship ------------------------------------------------------------------


def test_each_dataset_of_the_paper_has_its_recipe() -> None:
    assert shipped_recipes() == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers(name: str) -> None:
    recipe = load_recipe(name)
    assert [ask.name for ask in recipe.ask] == list(TABLES[name])
    for ask in recipe.ask:
        values = (ask.published[who] for who in ("uniDINO", "CellProfiler", "Gaussian"))
        assert tuple(values) == TABLES[name][ask.name]
        assert len(ask.published) == 6


def test_recipes_ship_in_the_wheel() -> None:
    """setup.py names what is no Python."""
    root = Path(__file__).parents[2]
    assert "*.toml" in (root / "setup.py").read_text()
    assert len(list(Path(protocols.__file__).parent.glob("*.toml"))) == len(TABLES)


# ---- rows -----------------------------------------------------------------------------------


def test_rows_of_bbbc021_by_hand() -> None:
    rows = prepare(screen(), load_recipe("paper-bbbc021"), {}, None, [])
    # no DMSO; taxol of Week1 in D07 and E07 is not in D03-D05; `alone` is of one compound
    assert sorted(set(rows["Metadata_Compound"])) == [f"c{i}" for i in range(6)]
    assert len(rows) == 6 * 2 * 2
    assert sorted(set(rows["Metadata_Batch"])) == ["Week1", "Week2"]
    assert set(rows.columns) >= {"Metadata_Concentration", "Metadata_MoA"}  # renamed
    moved = screen().with_columns(
        Metadata_Well=pl.when(pl.col("Metadata_Compound") == "taxol")
        .then(pl.lit("D04"))
        .otherwise("Metadata_Well")
    )
    taxol = prepare(moved, load_recipe("paper-bbbc021"), {}, None, []).filter(
        pl.col("Metadata_Compound") == "taxol"
    )
    assert taxol["Metadata_Batch"].to_list() == ["Week1", "Week1"]


def test_columns_are_what_the_metrics_say_alone() -> None:
    result = run_recipe(screen(), load_recipe("paper-bbbc021"), baselines=["gaussian"], seed=5)
    rows = prepare(screen(), load_recipe("paper-bbbc021"), {}, None, [])
    values = {column.name: column.values["profiles"] for column in result.columns}
    for name, preset in (("NSC well", "NSC"), ("NSCB well", "NSCB"), ("NSPW well", "NSPW")):
        alone = evaluate(rows, preset=preset, seed=5)  # type: ignore[arg-type]
        assert values[name].value == alone.accuracy
        assert values[name].n == alone.n_queries
    assert values["NSC treatment"].n == 12
    frame = result.to_frame()
    assert frame.columns == ["metric", "subject", "value", "lower", "upper", "n"]
    assert frame["subject"].to_list()[:3] == ["profiles", "gaussian", "published uniDINO"]
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["columns"][0]["published_n"] == 103
    assert document["columns"][0]["baselines"]["gaussian"]["n"] == 12
    lines = result.summary().splitlines()
    assert lines[0] == "BBBC021 (Morelli et al. 2025, Table 2): 24 rows, 3 features"
    assert lines[1].split() == ["NSC", "treatment", "NSC", "well", "NSCB", "well", "NSPW", "well"]
    assert ["uniDINO", "0.845", "0.795", "0.697", "0.656"] in [line.split() for line in lines]
    assert len({len(line) for line in lines[1:] if "0." in line and "-" not in line}) == 1


def test_steps_come_before_rows_are_left_out() -> None:
    """A plate's spread is of all its wells, and the query names controls that `where` drops."""
    from unidino_fast.profiles import normalize

    by_controls = 'Metadata_Compound == "DMSO"'
    steps = steps_of([{"normalize": "standardize", "samples": by_controls}], "here")
    rows = prepare(screen(), load_recipe("paper-bbbc021"), {}, steps, [])
    expected = normalize(screen(), "standardize", samples=by_controls)
    keys = ["Metadata_Plate", "Metadata_Well"]
    joined = rows.join(expected.select(*keys, "DNA_000"), on=keys, suffix="_expected")
    assert joined["DNA_000"].to_list() == joined["DNA_000_expected"].to_list()


def test_cell_health_from_labels_of_their_own() -> None:
    random = np.random.default_rng(0)
    n = 30
    guides = [f"g{i}" for i in range(n)]
    lines = np.repeat(["A549", "ES2", "HCC44"], n)
    coin = random.permutation(3 * n) % 2
    profiles = pl.DataFrame(
        {"Metadata_cell_line": lines, "Metadata_pert_name": guides * 3, "DNA_000": coin * 1.0}
    )
    labels = pl.DataFrame(
        {
            "cell_id": lines,
            "guide": guides * 3,
            "cc_told": coin * 2.0,
            "vb_lost": random.normal(size=3 * n),
            "plate": ["x"] * 3 * n,
        }
    )
    recipe = load_recipe("paper-cell-health")
    assert [ask.name for ask in recipe.ask] == ["A549", "ES2", "HCC44"]
    recipe = recipe.model_copy(update={"ask": recipe.ask[:1]})  # the others cost seconds
    (column,) = run_recipe(profiles, recipe, joined={"labels": labels}).columns
    assert column.values["profiles"].n == 2
    assert {score["n"] for score in column.details["readouts"]} == {n}
    # one of two readouts is told without fail, the other not at all
    assert column.values["profiles"].value == pytest.approx(0.5, abs=0.05)


def test_jump_asks_for_targets_and_compounds() -> None:
    table = screen().rename({"Metadata_moa": "Metadata_target"})
    table = table.with_columns(
        Metadata_Source=pl.col("Metadata_Plate").str.slice(0, 5),
        Metadata_Batch=pl.col("Metadata_Plate"),
        Metadata_target=pl.when(pl.col("Metadata_Compound") == "lonely")
        .then(None)
        .otherwise("Metadata_target"),
    )
    result = run_recipe(table, load_recipe("paper-jump-target2"))
    # 8 compounds without DMSO, 2 batches, 2 wells; one has no target
    assert [column.values["profiles"].n for column in result.columns] == [14, 14, 32, 32]


# ---- tables that are joined -----------------------------------------------------------------


def split_screen() -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Profiles with positions alone, and the two tables that say what was there."""
    table = screen()
    where = ["Metadata_Plate", "Metadata_Well"]
    images = table.select(
        Image_Metadata_Plate_DAPI="Metadata_Plate",
        Image_Metadata_Well_DAPI="Metadata_Well",
        Image_Metadata_Compound="Metadata_Compound",
        Image_Metadata_Concentration="Metadata_dose",
        Image_FileName_DAPI=pl.int_range(pl.len()).cast(pl.String),
    )
    moas = table.select(
        compound="Metadata_Compound", concentration="Metadata_dose", moa="Metadata_moa"
    ).unique()
    return table.select(*where, "^DNA_.*$"), {"images": pl.concat([images, images]), "moas": moas}


def test_joined_tables_say_what_one_table_would() -> None:
    profiles, tables = split_screen()
    recipe = load_recipe("paper-bbbc021")
    joined = prepare(profiles, recipe, tables, None, [])
    whole = prepare(screen(), recipe, {}, None, [])
    assert joined.select(sorted(joined.columns)).equals(whole.select(sorted(joined.columns)))
    assert not any("FileName" in name for name in joined.columns)


def test_rows_that_find_no_labels_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    profiles, tables = split_screen()
    known = tables["images"].filter(pl.col("Image_Metadata_Plate_DAPI") == "Week1_101")
    recipe = load_recipe("paper-bbbc021")
    rows = prepare(profiles, recipe, {"images": known, "moas": tables["moas"]}, None, [])
    assert "18 of 36 rows are not in images: they get no labels" in caplog.messages
    assert set(rows["Metadata_Plate"]) == {"Week1_101"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop("Image_Metadata_Compound", "Image_Metadata_Concentration"), "adds no"),
        (lambda t: t.select("Image_FileName_DAPI"), "shares no column"),
        (lambda t: t.with_columns(Image_Metadata_Plate_DAPI=pl.lit("other")), "no row of the"),
        (lambda t: t.with_columns(Image_Metadata_Well_DAPI=pl.lit(1)), "holds String in the"),
        (
            lambda t: t.with_columns(Image_Metadata_Concentration=pl.int_range(pl.len()) * 1.0),
            "has two rows that differ for Metadata_Plate Week1_101, Metadata_Well D01",
        ),
    ],
)
def test_tables_that_cannot_be_joined(change: Any, said: str) -> None:
    profiles, tables = split_screen()
    with pytest.raises(TableError, match=r"^[^\n]*$") as error:
        prepare(
            profiles, load_recipe("paper-bbbc021"), {"i.csv": change(tables["images"])}, None, []
        )
    assert said in str(error.value)
    assert "i.csv" in str(error.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            screen().drop("Metadata_moa"),
            "no column Metadata_MoA (nor moa, MOA, Image_Metadata_MoA)",
        ),
        (screen().head(0), "no row"),
        (screen().with_columns(Metadata_Plate=pl.lit("P1")), "Metadata_Batch is missing"),
        (screen().filter(pl.col("Metadata_Compound") == "DMSO"), "no row of 4 fits"),
        (screen().filter(pl.col("Metadata_Compound").is_in(["c0", "c1"])), "has 2 different"),
        (screen().with_columns(DNA_000=pl.lit(float("nan"))), "feature DNA_000"),
    ],
)
def test_tables_that_do_not_fit_the_recipe(table: pl.DataFrame, said: str) -> None:
    with pytest.raises(TableError, match=r"^[^\n]*$") as error:
        run_recipe(table, load_recipe("paper-bbbc021"))
    assert said in str(error.value)


# ---- recipes that are no recipes ------------------------------------------------------------

GOOD = 'title = "t"\n[[ask]]\nname = "a"\npreset = "NSC"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "title: field required"),
        ('title = "t"', "ask: field required"),
        ("title = ", "is not TOML"),
        ('title = "t"\nask = []', "ask"),
        (GOOD + "colour = 1\n", "ask.1.colour"),
        (GOOD.replace("NSC", "NSX"), "preset 'NSX' is unknown"),
        (GOOD + 'metric = "cell-health"\n', "--preset is no option of metric cell-health"),
        (GOOD + 'metric = "umap"\n', "ask.1.metric 'umap'"),
        (GOOD + 'rule = "paper"\n', "rule 'paper' is not of metric nearest-neighbour"),
        (GOOD + "published = { x = nan }\n", "ask.1.published.x"),
        (GOOD + "bootstrap = -1\n", "ask.1.bootstrap"),
        (GOOD + GOOD.split("\n", 1)[1], "two questions (ask) share a name"),
        (GOOD + '[columns]\nPlate = ["plate"]\n', "column Plate must begin with Metadata_"),
        (GOOD + '[derive.Metadata_B]\nfrom = "P"\npattern = "(("\n', "no regular expression"),
        (GOOD + '[derive.Metadata_B]\nfrom = "P"\npattern = "week"\n', "needs one group"),
        (GOOD + '[[step]]\nnormalize = "magic"\n', "method 'magic' is not available"),
        (GOOD + '[[step]]\nselect = "best"\n', "selection 'best' is not known"),
        ('title = "t"\nwhere = 3\n' + GOOD.split("\n", 1)[1], "where"),
        ('title = "t"\nx = ' + "[" * 9999 + "]" * 9999, "is not TOML"),
        ('title = "' + "x" * 2_000_000 + '"', "is larger than"),
        ("\x00", "is not TOML"),
    ],
)
def test_untrusted_recipes(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(TableError, match=r"^[^\n]*$") as error:
        load_recipe(file)
    assert said in str(error.value)
    assert len(str(error.value)) < 500


def test_nothing_in_a_recipe_is_run(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    query = f"__import__('pathlib').Path('{tmp_path}/ran').touch()"
    file.write_text(f'title = "t"\nwhere = ["""{query}"""]\n' + GOOD.split("\n", 1)[1])
    with pytest.raises(UnidinoError, match="is not understood"):
        run_recipe(screen(), load_recipe(file))
    assert not (tmp_path / "ran").exists()


def test_names_that_are_no_recipe(tmp_path: Path) -> None:
    for name in ("paper-bbbc022", str(tmp_path), "../paper-bbbc021", "a\x1b[2J\0b"):
        with pytest.raises((UsageError, TableError), match=r"^[ -~]*$"):
            load_recipe(name)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "mine"\nwhere = [\'Metadata_Compound != "DMSO"\']\n'
        '[[step]]\nnormalize = "mad_robustize"\n'
        '[[ask]]\nname = "same"\nlabel = "moa"\nnot_same = ["Compound"]\nrule = "seed"\n'
        "bootstrap = 0\n"
        '[[ask]]\nname = "precision"\nmetric = "map"\nlabel = "moa"\nnot_same = ["Well"]\n'
        "where = 'Metadata_moa != \"alone\"'\n"
    )
    result = run_recipe(screen(), load_recipe(file))
    assert result.columns[0].values["profiles"].n == 32
    assert result.columns[0].values["profiles"].lower is None
    assert 0.5 < (result.columns[1].values["profiles"].value or 0) <= 1
    assert result.columns[1].details["mean_average_precision"] is not None


def test_shipped_recipes_are_read_as_toml_says() -> None:
    """What our model makes of a file is what the file holds, in other words."""
    for name in shipped_recipes():
        file = Path(protocols.__file__).parent / f"{name}.toml"
        document = tomllib.loads(file.read_text())
        recipe = load_recipe(name)
        assert len(recipe.ask) == len(document["ask"])
        assert list(recipe.where) == document.get("where", [])
