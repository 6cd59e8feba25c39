"""`doctor`: what it finds, what it says of what is missing, and its exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from unidino_fast import doctor
from unidino_fast.doctor import Finding
from unidino_fast.errors import EngineError

if TYPE_CHECKING:
    from tests.cli.conftest import Run


@pytest.fixture
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are not built, which takes time."""

    def engine(name: str) -> Finding:
        return Finding(f"engine {name}", "ok", "fine")

    monkeypatch.setattr(doctor, "_engine", engine)


@pytest.mark.usefixtures("no_engines")
def test_this_machine_is_sound(run: Run) -> None:
    told = run("doctor")
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert [line[7:].split("  ")[0] for line in lines] == [
        *("software", "packages", "machine", "device", "default weights"),
        *("engine eager", "engine compile", "engine fused", "engine onnx", "engine tensorrt"),
        "optional parts",
    ]
    assert all(line.startswith(("ok", "note")) for line in lines)
    found = json.loads(run("doctor", "--json").out)
    assert found["sound"] is True
    assert [one["subject"] for one in found["findings"]][:2] == ["software", "packages"]


@pytest.mark.usefixtures("no_engines")
def test_missing_and_old_packages_are_faults(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        *("numpy>=999", "polars", "no-such-thing>=1; python_version >= '3'"),
        *("neither-this; extra == 's3'", "nor-this; python_version < '3'"),
    ]
    monkeypatch.setattr(doctor, "requires", lambda _: needed)
    told = run("doctor")
    assert told.code == 1
    [line] = [line for line in told.out.splitlines() if line.startswith("fault")]
    assert "numpy is " in line
    assert "not >=999, no-such-thing is not installed" in line
    assert line.endswith("pip install 'numpy>=999' 'no-such-thing>=1'")
    assert "s3" in told.out.splitlines()[-1].partition("; not:")[2]


@pytest.mark.parametrize("name", ["eager", "onnx"])
def test_engines_are_held_against_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor._engine(name)
    assert found.state == "ok", found
    assert float(found.found.rpartition(" ")[2]) > 0.99999

    def wrong(_: object) -> float:
        raise EngineError(f"engine {name} is wrong here: use another")

    monkeypatch.setattr(doctor, "_cosine", wrong)
    found = doctor._engine(name)
    assert found.state == ("fault" if name == "eager" else "note")
    assert "is wrong here" in found.found
    assert found.remedy
