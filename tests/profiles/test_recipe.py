import json
from importlib import resources

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from unidino_profile_tables import CONTROLS, correlated_table, matrix

from unidino_fast.errors import TableError, UsageError
from unidino_fast.profiles import (
    consensus,
    normalize,
    read_recipe,
    run_recipe,
    select_features,
)
from unidino_fast.profiles.normalize import METHODS, Normalisation
from unidino_fast.profiles.recipe import (
    Consensus,
    Recipe,
    Selection,
    parse_recipe,
    shipped_recipes,
)


def recipe_of(tmp_path, text):
    file = tmp_path / "r.toml"
    file.write_text(text)
    return read_recipe(file)


WHOLE = """
[[step]]
normalize = "spherize"
by = "all"
samples = "Metadata_Compound == 'DMSO'"
epsilon = 1e-5

[[step]]
normalize = "mad_robustize"

[[step]]
select = ["variance", "correlation"]
correlation_threshold = 0.4

[[step]]
consensus = "Metadata_Compound"
statistic = "median"
"""


def test_steps_do_what_the_calls_do(tmp_path):
    table = correlated_table()
    found, report = run_recipe(table, recipe_of(tmp_path, WHOLE))
    wanted = normalize(table, "spherize", samples=CONTROLS, epsilon=1e-5)
    wanted = normalize(wanted, "mad_robustize")
    wanted = select_features(wanted, ["variance", "correlation"], correlation_threshold=0.4)
    wanted = consensus(wanted, "Metadata_Compound", statistic="median")
    assert found.columns == wanted.columns
    np.testing.assert_allclose(matrix(found), matrix(wanted), atol=1e-5)  # one rounding fewer
    assert [drop.operation for drop in report.dropped] == ["variance", "correlation"]


def test_the_table_that_was_given_stays_as_it_was():
    table = correlated_table()
    before = table.clone()
    for method in ("mad_robustize", "l2", "spherize"):
        normalize(table, method)
    assert_frame_equal(table, before)


def test_what_a_recipe_says_of_itself_is_a_recipe(tmp_path):
    recipe = recipe_of(tmp_path, WHOLE)
    described = json.loads(json.dumps(recipe.describe()))
    assert described[0] == {
        "normalize": "spherize", "by": "all", "samples": CONTROLS, "epsilon": 1e-5
    }  # fmt: skip
    assert parse_recipe({"step": described}, "again") == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes(name):
    recipe = read_recipe(name)
    found, _ = run_recipe(correlated_table(), recipe)
    assert found.height == 120
    text = (resources.files("unidino_fast.profiles") / "recipes" / f"{name}.toml").read_text()
    assert f"--recipe {name}" in text


@pytest.mark.parametrize(
    ("steps", "columns"),
    [
        ([("mad_robustize", None)], ("Metadata_Plate",)),
        ([("l2", None), ("standardize", "Metadata_Batch")], ("Metadata_Batch",)),
        ([("spherize", "Metadata_Plate"), ("l2", None)], ("Metadata_Plate",)),
        ([("mad_robustize", ["Metadata_Batch", "Metadata_Plate"]), ("standardize", None)],
         ("Metadata_Plate",)),
        ([("standardize", None), ("mad_robustize", "Metadata_Batch")], None),
        ([("spherize", None)], None),
        ([("spherize_pca", "Metadata_Plate")], None),
        ([("l2", None)], ()),
        ([("none", None), ("l2", None)], ()),
        ([("mad_robustize", ["Batch", "Plate"]), ("standardize", None)], ("Metadata_Plate",)),
        ([("mad_robustize", None), ("pca", None)], None),
    ],
)  # fmt: skip
def test_groups_that_can_go_apart(steps, columns):
    recipe = Recipe(tuple(Normalisation.of(method, by) for method, by in steps))
    assert recipe.group_columns() == columns
    for further in (Selection.of("na"), Consensus.of("Metadata_Plate")):
        assert Recipe((*recipe.steps, further)).group_columns() is None


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"none", "l2", "harmony"}))
def test_every_method_through_a_recipe(method):
    table = correlated_table()
    step = Normalisation.of(method, samples=CONTROLS)
    found, _ = run_recipe(table, Recipe((step,)))
    assert_frame_equal(found, normalize(table, method, samples=CONTROLS))
    assert found.select(pl.all().is_null().any()).row(0) == (False,) * found.width


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "recipe .* has no steps: write"),
        ("a = 1", "recipe .* has a: write"),
        ("step = 3", "has no steps"),
        ("[[step]]", "step 1 of recipe .* has not one of normalize, select, consensus"),
        ('[[step]]\nselect = "na"\nconsensus = "x"', "step 1 .* has not one of"),
        ('[[step]]\nnormalize = "l2"\n[[step]]\nnormalize = "l3"', "step 2 .*: method 'l3' is not"),
        (
            '[[step]]\nnormalize = "l2"\neps = 3',
            "step 1 .*: option eps is not known here: there is",
        ),
        ('[[step]]\nnormalize = "spherize"\nepsilon = "x"', "epsilon 'x' is refused: input should"),
        ('[[step]]\nselect = ["na", "no"]', "selection 'no' is not known"),
        ('[[step]]\nselect = "na"\nby = "x"', "option by is not known"),
        ("[[step]]\nnormalize = 3", "names something that is no text"),
        ('[[step]]\nnormalize = "l2"\nby = [1]', "names something that is no text"),
        ('[[step]]\nnormalize = "mad_robustize"\nsamples = 1', "names something that is no text"),
        ('[[step]]\nconsensus = ["x"]\nstatistic = "mode"', "statistic 'mode' is refused"),
        ("[[step]]\nconsensus = []", "consensus needs a column"),
        ('[[step]]\nconsensus = ""', "the name of a column is empty"),
        ("[[step]]\nselect = []", "select names no operation"),
        ('[[step]]\nnormalize = "l2"\nmethod = "l2"', "option method is not known here"),
        ('[[step]]\nnormalize = "l2"\ncls = 1', "option cls is not known here"),
        ('[[step]]\nselect = "na"\noperations = "na"', "option operations is not known here"),
        ('[[step]]\nselect = "na"\ncls = "na"', "option cls is not known here"),
        ('[[step]]\nconsensus = "x"\nby = "y"', "option by is not known here"),
        ('[[step]]\nconsensus = "x"\ncls = "y"', "option cls is not known here"),
        ('[[step]]\nnormalize = "pca"\nn_components = true', "n_components True is refused"),
        ("a = " + "[" * 20_000, "cannot be read as TOML"),
    ],
)
def test_recipes_that_are_none(tmp_path, text, said):
    with pytest.raises(TableError, match=said) as error:
        recipe_of(tmp_path, text)
    assert "\n" not in str(error.value)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(
        UsageError, match=r"does not exist: give a .toml file, or spherize-then-mad"
    ):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"^recipe nothing does not exist"):
        read_recipe("nothing")
    (tmp_path / "bad.toml").write_text("[[step")
    with pytest.raises(TableError, match="cannot be read as TOML"):
        read_recipe(tmp_path / "bad.toml")
