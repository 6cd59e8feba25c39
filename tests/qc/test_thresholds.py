"""The file of limits: what ships, what overrides it, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from unidino_fast.errors import TableError, UsageError
from unidino_fast.qc import read_thresholds, shipped_thresholds, thresholds_of

DOCS = Path(__file__).parents[2] / "docs/qc.md"


def test_what_ships_is_understood_and_documented() -> None:
    limits = shipped_thresholds()
    assert thresholds_of(limits.describe(), "x") == limits
    text = DOCS.read_text()
    for section in limits.describe():
        assert f"`{section}" in text or f"[{section}]" in text, section


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('drop = ["empty"]\n[edge]\nchange = 0.5\n')
    found, shipped = read_thresholds(file), shipped_thresholds()
    assert (found.drop, found.edge.change) == (["empty"], 0.5)
    assert found.edge.errors == shipped.edge.errors
    assert found.defocused == shipped.defocused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[edge]\nchnge = 1", r"edge.chnge is no threshold: did you mean change\?"),
        ("[rim]\nchange = 1", "rim is no threshold: use drop, min_wells"),
        ('[edge]\nchange = "much"', "edge.change is 'much', but it should be a valid number"),
        ("[edge]\nchange = -1", "edge.change is -1, but it should be greater than 0"),
        ("[edge]\nchange = nan", "edge.change is nan, but it should be a finite number"),
        ("[saturated]\nshare = 2", "saturated.share is 2, but it should be less than or equal"),
        ('drop = ["blurred"]', "drop.0 is 'blurred', but it should be 'defocused'"),
        ("min_wells = true", "min_wells is True, but it should be a valid integer"),
        ("edge = 3", "edge is 3, but it should be"),
        ("[edge", "cannot be read as TOML"),
        ('x = "\\u0000"\n[plates]\nmin_plates = 2', "plates.min_plates is 2|x is no threshold"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(TableError, match=said) as caught:
        read_thresholds(file)
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist: give a TOML file"):
        read_thresholds(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TableError, match="cannot be read as TOML"):
        read_thresholds(tmp_path / "a.toml")
    with pytest.raises(TableError, match="cannot be read as TOML"):
        read_thresholds(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(TableError, match="larger than"):
        read_thresholds(tmp_path / "b.toml")
