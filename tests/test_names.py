from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unidino_fast.names import (
    WellName,
    natural_key,
    one_line,
    parse_well,
    row_index,
    row_letters,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A1", "A01"), ("a01", "A01"), ("A/1", "A01"), ("A/01", "A01"), (" B-2 ", "B02"),
        ("C_003", "C03"), ("AA12", "AA12"), ("aa/12", "AA12"), ("P24", "P24"), ("AF 48", "AF48"),
        ("H120", "H120"),
    ],
)  # fmt: skip
def test_well_names_have_one_form(text: str, name: str) -> None:
    assert str(parse_well(text)) == name


@pytest.mark.parametrize(
    "text",
    ["", "A", "1", "A0", "A00", "ABC1", "A1000", "A-", "1A", "A1x", "\u0391" + "1", "A\u0661"],
)
def test_other_text_is_no_well(text: str) -> None:
    assert parse_well(text) is None


@given(st.integers(0, 20_000))
def test_row_letters_and_index_undo_one_another(row: int) -> None:
    assert row_index(row_letters(row)) == row


@given(st.integers(0, 701), st.integers(1, 999))
def test_every_position_is_read_back(row: int, column: int) -> None:
    assert parse_well(str(WellName(row, column))) == WellName(row, column)


def test_wells_sort_in_plate_order() -> None:
    wells = [parse_well(text) for text in ("AA1", "B1", "A10", "A2", "Z1")]
    assert [str(well) for well in sorted(filter(None, wells))] == [
        "A02",
        "A10",
        "B01",
        "Z01",
        "AA01",
    ]


@given(st.text())
def test_foreign_text_becomes_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()
    assert one_line(one_line(text)) == one_line(text)


def test_printable_text_stays() -> None:
    assert one_line("  Hoechst  33342\tµm ") == "Hoechst 33342 µm"
    assert one_line("a\nb\x00c") == "a b_c"


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["ch10", "A/2/0", "ch2", "ch002b", "A/10/0", "B", "ch", "9" * 5000, "10", "2"]
    assert sorted(names, key=natural_key) == [
        "2", "10", "9" * 5000, "A/2/0", "A/10/0", "B", "ch", "ch2", "ch002b", "ch10",
    ]  # fmt: skip
