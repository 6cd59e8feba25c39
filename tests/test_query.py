import itertools

import pandas as pd
import polars as pl
import pytest

from unidino_fast.errors import TableError, UsageError
from unidino_fast.query import parse_query

TABLE = pl.DataFrame(
    {
        "Metadata_Compound": ["DMSO", "taxol", None, "dmso", "a & b", "naïve", "x|y", "`q`"],
        "Metadata_Other": ["DMSO", "b", "c", None, "a & b", "z", "a", "b"],
        "Metadata_Column": [1, 2, 3, 12, 5, -6, 7, 300],
        "Metadata_Byte": pl.Series([1, 2, 3, 4, 5, 6, 7, 255], dtype=pl.UInt8),
        "Metadata_Dose": [0.5, None, float("nan"), 1.0, 2.5, -1.0, 1e6, float("inf")],
        "Metadata_Is_Control": [True, False, True, False, True, False, True, False],
        "Metadata_Two Words": ["a", "b", "c", "d", "e", "f", "g", "h"],
    }
)
PANDAS = pd.DataFrame(TABLE.to_dict(as_series=False))

QUERIES = [
    'Metadata_Compound == "DMSO"',
    "Metadata_Compound != 'DMSO'",
    "'DMSO' == Metadata_Compound",
    "Metadata_Compound < 'b'",
    "Metadata_Compound >= 'dmso'",
    "Metadata_Column == 5",
    "Metadata_Column != 5",
    "Metadata_Column < 5",
    "Metadata_Column <= 5",
    "Metadata_Column > 5",
    "Metadata_Column >= 5",
    "5 <= Metadata_Column",
    "2 < Metadata_Column <= 7",
    "Metadata_Column > -6.5",
    "Metadata_Column == +7",
    "Metadata_Column > 4.5",
    "Metadata_Byte > -1",
    "Metadata_Byte == 255",
    "Metadata_Byte == 256",
    "Metadata_Byte < 1e300",
    "Metadata_Dose > 0.5",
    "Metadata_Dose != 0.5",
    "Metadata_Dose <= 1",
    "not Metadata_Dose <= 1",
    "Metadata_Dose < 1e999",
    "Metadata_Column in [1, 2, 99]",
    "Metadata_Column in (1, 2)",
    "Metadata_Column == [1, 2, 300]",
    "Metadata_Column != [1, 2, 300]",
    "Metadata_Column not in [1, 2]",
    "Metadata_Byte in [1, 255]",
    "Metadata_Dose in [0.5, 1]",
    "Metadata_Dose not in [0.5, 1]",
    "Metadata_Compound in ['DMSO', 'taxol']",
    "Metadata_Compound not in ['DMSO', 'taxol']",
    "Metadata_Compound == 'DMSO' and Metadata_Column == 1",
    "Metadata_Compound == 'DMSO' or Metadata_Column > 5",
    "not Metadata_Compound == 'DMSO'",
    "not (Metadata_Compound == 'DMSO' or Metadata_Column > 5) and Metadata_Dose != 2.5",
    "Metadata_Column > 2 & Metadata_Column < 7",
    "(Metadata_Column > 2) & (Metadata_Column < 7)",
    "Metadata_Column < 2 | Metadata_Column > 7",
    "~(Metadata_Column > 2)",
    "Metadata_Compound == 'a & b'",
    "Metadata_Compound == 'x|y'",
    "Metadata_Compound == '`q`'",
    "Metadata_Compound == 'na\\xefve'",
    "Metadata_Compound == 'it\\'s'",
    "`Metadata_Two Words` == 'c'",
    "Metadata_Is_Control",
    "not Metadata_Is_Control and Metadata_Column > 2",
    "Metadata_Is_Control == True",
    "Metadata_Is_Control != True",
    "Metadata_Compound == Metadata_Other",
    "Metadata_Compound != Metadata_Other",
    "Metadata_Column > Metadata_Dose",
    "  Metadata_Column == 5  ",
]


def chosen(query, table=TABLE):
    condition = table.select(parse_query(query, table.schema).alias("found"))["found"]
    assert condition.null_count() == 0
    return [index for index, value in enumerate(condition) if value]


@pytest.mark.parametrize("query", QUERIES)
def test_pandas_query(query):
    assert chosen(query) == PANDAS.query(query, engine="python").index.tolist()


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
def test_every_comparison_both_ways(operator):
    for column, value in itertools.product(
        ["Metadata_Column", "Metadata_Byte", "Metadata_Dose"], ["3", "-1", "2.5"]
    ):
        for query in (f"{column} {operator} {value}", f"{value} {operator} {column}"):
            assert chosen(query) == PANDAS.query(query, engine="python").index.tolist(), query


def test_an_empty_list_holds_nothing():
    assert chosen("Metadata_Column in []") == []
    assert chosen("Metadata_Compound not in []") == list(range(8))


@pytest.mark.parametrize("digits", [19, 30, 400])
def test_numbers_beyond_every_column(digits):
    assert chosen(f"Metadata_Column < {'9' * digits}") == list(range(8))
    assert chosen(f"Metadata_Column in [1, {'9' * digits}]") == [0]
    assert chosen(f"Metadata_Column < -{'9' * digits}") == []


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a", "DMSO"])])
def test_categories_compare_as_text(dtype):
    table = pl.DataFrame({"x": pl.Series(["a", "b", "DMSO", None], dtype=dtype)})
    assert chosen("x < 'b'", table) == [0, 2]
    assert chosen("x in ['b', 'zz']", table) == [1]
    assert chosen("x != 'a'", table) == [1, 2, 3]


def test_a_table_without_rows():
    assert chosen(QUERIES[0], TABLE[:0]) == []


HOSTILE = [
    "__import__('os').system('touch {mark}')",
    "__import__('os').system('touch {mark}') == 0",
    "Metadata_Column == __import__('os').system('touch {mark}')",
    "Metadata_Column in [__import__('os').system('touch {mark}')]",
    "open('{mark}', 'w')",
    'exec(\'open("{mark}", "w")\')',
    "@open('{mark}', 'w')",
    "Metadata_Column == @__builtins__",
    "[open('{mark}', 'w') for x in [1]]",
    "(lambda: open('{mark}', 'w'))()",
    "Metadata_Compound == f\"{{open('{mark}', 'w')}}\"",
    "(x := 5) == Metadata_Column",
    "Metadata_Compound.str.contains('a')",
    "Metadata_Compound.__class__ == 'a'",
    "Metadata_Compound[0] == 'D'",
    "Metadata_Column + 1 == 2",
    "Metadata_Column == 1 + 1",
    "Metadata_Column == 1 if True else 2",
    "Metadata_Column == 1j",
    "Metadata_Compound == b'DMSO'",
    "Metadata_Compound == None",
    "Metadata_Column == ...",
    "Metadata_Column == {{1: 2}}",
    "Metadata_Column is 5",
    "Metadata_Column in 5",
    "Metadata_Column < [1, 2]",
    "[1, 2] == Metadata_Column",
    "Metadata_Column in [[1]]",
    "Metadata_Column == -True",
    "1 == 1",
    "True",
    "5",
    "'DMSO'",
    "",
    "   ",
    "Metadata_Column ==",
    "Metadata_Column = 5",
    "Metadata_Column == 5; import os",
    "Metadata_Column == 5\nimport os",
    "Metadata_Compound == 'DMSO",
    "Metadata_Compound == \x00",
    "Metadata_Compound == '\ud800",
    "Metadata_Column == 1_",
    "*",
    "`",
    "``",
    "(" * 300 + "Metadata_Column == 1" + ")" * 300,
    "not " * 400 + "Metadata_Column == 1",
    "~" * 2000 + "(Metadata_Column == 1)",
    "not " * 60 + "Metadata_Column == 1",
    "Metadata_Column == 1 and " * 3000 + "Metadata_Column == 1",
    "Metadata_Column == " + "9" * 5000,
    "[" * 4000,
]


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: ascii(query[:30]))
def test_hostile_text_is_refused_and_not_run(query, tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(UsageError) as error:
        parse_query(query.replace("{mark}", str(mark)).replace("{{", "{"), TABLE.schema)
    assert list(tmp_path.iterdir()) == []
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_deep_but_sane_nesting_works():
    assert chosen("(" * 40 + "Metadata_Column == 1" + ")" * 40) == [0]
    assert chosen("not " * 40 + "Metadata_Column == 1") == [0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("Compound == 'a'", r"names column Compound, which .*: did you mean Metadata_Compound\?"),
        ("Metadata_Compond == 'a'", r"did you mean Metadata_Compound\?"),
        ("Metadata_Compound == DMSO", r"names column DMSO, which .*: write text in quotes$"),
        ("Metadata_Compound == 5", "compares column Metadata_Compound with number: it holds text"),
        ("Metadata_Column == '5'", "compares column Metadata_Column with text: it holds number"),
        ("Metadata_Column == Metadata_Other", "compares column Metadata_Column with Metadata_Oth"),
        ("Metadata_Column == True", "with true or false: it holds number"),
        ("Metadata_Is_Control == 1", "with number: it holds true or false"),
        ("Metadata_Column in [1, 'a']", "mixes number and text in a list"),
        ("Metadata_Column", "needs a comparison: column Metadata_Column holds number"),
        ("Metadata_Column and Metadata_Is_Control", "needs a comparison"),
        ("Metadata_Day > '2020'", "holds Date: compare columns of text or numbers"),
        ("Metadata_Column in Metadata_Other", "compares column Metadata_Column with Metadata_Oth"),
    ],
)
def test_columns_that_do_not_fit(query, message):
    table = TABLE.with_columns(Metadata_Day=pl.lit("2020-01-01").str.to_date())
    with pytest.raises(TableError, match=message) as error:
        parse_query(query, table.schema)
    assert "\n" not in str(error.value)


def test_column_names_are_not_values():
    with pytest.raises(UsageError):
        parse_query("Metadata_Compound in Metadata_Other", TABLE.schema)
