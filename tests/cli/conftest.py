"""The command line run in this process, with what it printed and its exit code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from unidino_fast import cli

if TYPE_CHECKING:
    import polars as pl


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *arguments: str | Path) -> Outcome: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command line and gives back what a user sees."""

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["unidino-fast", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


class Refuse(Protocol):
    def __call__(self, *arguments: str | Path, code: int, said: str) -> str: ...


@pytest.fixture
def refuse(run: Run) -> Refuse:
    """A call that must fail: the error is the last thing said, one line, without a traceback."""

    def check(*arguments: str | Path, code: int, said: str) -> str:
        outcome = run(*arguments)
        assert outcome.code == code, outcome.err
        assert outcome.out == ""
        lines = [line for line in outcome.err.splitlines() if not line.startswith("note: ")]
        errors = [line for line in lines if line.startswith("unidino-fast: ")]
        assert len(errors) == 1, outcome.err
        assert errors[0] == lines[-1]
        assert said in errors[0]
        assert "Traceback" not in outcome.err
        return errors[0]

    return check


@pytest.fixture
def plate_path(small_plate: tuple[Path, pl.DataFrame], tmp_path: Path) -> Path:
    """A copy of the small plate that a test may break."""
    return Path(shutil.copytree(small_plate[0], tmp_path / "small.zarr"))
