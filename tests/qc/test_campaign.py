"""Plates against each other: what is swapped on a whole plate, or unlike the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from quality_tables import brighten, names, plate

import unidino_fast as uf
from unidino_fast.qc import compare_folder, compare_plates

if TYPE_CHECKING:
    from pathlib import Path


def statistics(n_plates: int = 5, spread: float = 0.2) -> dict[str, dict[str, Any]]:
    return {
        f"p{seed}": dict(uf.plate_qc(plate(seed=seed, spread=spread, name=f"p{seed}")).statistics)
        for seed in range(n_plates)
    }


def test_plates_alike() -> None:
    assert compare_plates(statistics()) == []


@pytest.mark.parametrize(("one", "other"), [("DNA", "ER"), ("ER", "a_b")])
def test_channels_swapped_on_a_whole_plate(one: str, other: str) -> None:
    """No well of it is unlike its neighbours."""
    of = statistics()
    of["p2"] = {**of["p2"], one: of["p2"][other], other: of["p2"][one]}
    found = compare_plates(of)
    assert {(u.plate, u.channel, u.other, u.check) for u in found} == {
        ("p2", one, other, "swap"),
        ("p2", other, one, "swap"),
    }


def test_a_channel_unlike_the_others() -> None:
    of = statistics()
    bright = brighten(plate(seed=9), dict.fromkeys(names(8, 12), 6.0), ["ER"])
    of["p3"] = dict(uf.plate_qc(bright).statistics)
    (found,) = compare_plates(of)
    assert (found.plate, found.channel, found.check, found.other) == ("p3", "ER", "unlike", None)


def test_few_plates_and_other_channels_are_not_compared() -> None:
    of = statistics(2)
    of["p1"] = {**of["p1"], "DNA": of["p1"]["ER"], "ER": of["p1"]["DNA"]}
    assert compare_plates(of) == []
    other = {f"q{name}": {"x": channels["DNA"]} for name, channels in statistics(2).items()}
    assert compare_plates({**of, **other}) == []


def test_a_folder_of_plates(tmp_path: Path) -> None:
    assert compare_folder(tmp_path) is None
    for seed in range(4):
        frame = plate(seed=seed, name=f"p{seed}")
        if seed == 2:
            frame = brighten(frame, dict.fromkeys(names(8, 12), 8.0), ["ER"])
        (tmp_path / f"p{seed}").mkdir()
        document = uf.plate_qc(frame).to_dict()
        (tmp_path / f"p{seed}/qc.json").write_text(json.dumps(document))
    found = compare_folder(tmp_path)
    assert found is not None
    document = json.loads((tmp_path / "qc.json").read_text())
    assert document == found.to_dict()
    assert document["plates"] == ["p0", "p1", "p2", "p3"]
    (line,) = document["warnings"]
    assert line.startswith("qc: plate p2: channel ER is unlike that of the other plates")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"statistics": 3}', '{"statistics": {"a": {}}}'])
def test_what_is_no_file_of_ours_is_said(tmp_path: Path, text: str) -> None:
    for seed in range(3):
        (tmp_path / f"p{seed}").mkdir()
        document = uf.plate_qc(plate(seed=seed)).to_dict()
        (tmp_path / f"p{seed}/qc.json").write_text(json.dumps(document))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/qc.json").write_text(text)
    found = compare_folder(tmp_path)
    assert found is not None
    assert found.warnings == [
        "qc: broken/qc.json cannot be read and takes no part in the comparison of plates: embed it"
        " again"
    ]
