"""The notebook runs from top to bottom, and its hit list holds what was planted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from unidino_fast.simulate import MECHANISMS

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "first_plate.ipynb"
ACTING = ("Microtubule destabilizer", "DNA damage", "ER stress")
RUN = """
import sys
import nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=600, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def test_it_is_committed_without_outputs() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["metadata"] == {"language_info": {"name": "python"}}
    for cell in document["cells"]:
        assert cell["metadata"] == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Cells by their names, with what they put out."""
    folder = tmp_path_factory.mktemp("notebook")
    call = [sys.executable, "-c", RUN, str(NOTEBOOK), str(folder / "executed.ipynb")]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return {cell["id"]: cell for cell in cells(folder / "executed.ipynb")}


def texts(cell: dict[str, Any]) -> Iterator[str]:
    for output in cell["outputs"]:
        yield from output.get("text", []) or output.get("data", {}).get("text/plain", [])


@pytest.mark.slow
def test_the_planted_compounds_lead_the_list(executed: dict[str, dict[str, Any]]) -> None:
    rows = [json.loads(line) for line in "".join(texts(executed["result"])).splitlines()]
    planted = {c.name for m in MECHANISMS if m.name in ACTING for c in m.compounds}
    assert {row["compound"] for row in rows[: len(planted)]} == planted
    assert [row["hit"] for row in rows] == [True] * 6 + [False] * 6
    # all three wells beyond all twelve controls: one of the ways to choose 3 of 15
    assert [row["p"] for row in rows[:6]] == [pytest.approx(1 / math.comb(15, 3), abs=1e-5)] * 6
    assert all(row["p"] > 0.05 for row in rows[6:])


@pytest.mark.slow
def test_the_blurred_well_alone_is_left_out(executed: dict[str, dict[str, Any]]) -> None:
    said = "".join(texts(executed["qc"]))
    assert "1 well is out of focus: B01" in said
    assert "".join(texts(executed["drop"])) == "47 of 48 wells go on\n"


@pytest.mark.slow
def test_nothing_complains_and_figures_are_drawn(executed: dict[str, dict[str, Any]]) -> None:
    outputs = [out for cell in executed.values() for out in cell.get("outputs", [])]
    assert [out for out in outputs if out.get("name") == "stderr"] == []
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
