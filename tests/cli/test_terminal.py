"""What reaches the terminal: one line an error, nothing that steers it, streams of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from unidino_fast import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]
    Refuse = Callable[..., str]

EVIL = "\x1b[2J\x07\r\x9b1m"


def clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["embed", "p", "--out", "o", "--colour", "red"], "no such option: --colour"),
        (["embed", "p"], "missing option '--out': see unidino-fast embed --help"),
        (["embed", "p", "--out", "o", "--tile", "big"], "invalid value for '--tile': "),
        (["convert", "s", "--out", "o", "--ngff", "9"], "'9' is not one of '0.4', '0.5': see"),
        (["info", "p", "q"], "got unexpected extra argument"),
        (["frobnicate"], "no such command 'frobnicate': see unidino-fast --help"),
        (["info", "p", f"--x{EVIL}"], "no such option: --x"),
    ],
)
def test_usage_errors_are_one_line(refuse: Refuse, run: Run, arguments: Any, said: str) -> None:
    assert refuse(*arguments, code=2, said=said).endswith(" --help")
    shown = run(*arguments).err
    assert (len(shown.splitlines()), clean(shown)) == (1, True)


def test_no_command_shows_the_help(run: Run) -> None:
    shown = run()
    assert shown.code == 2
    assert "embed" in shown.out


@pytest.fixture
def evil_plate(plate_path: Path) -> Path:
    """Control characters in the names of plate, channels and a well that is not there."""
    root = json.loads((plate_path / ".zattrs").read_text())
    root["plate"]["name"] = f"p{EVIL}\nq"
    root["plate"]["wells"].append({"path": f"B/{EVIL}\n", "rowIndex": 1, "columnIndex": 9})
    (plate_path / ".zattrs").write_text(json.dumps(root))
    for file in plate_path.glob("*/*/*/.zattrs"):
        image = json.loads(file.read_text())
        image["omero"]["channels"][0]["label"] = f"D{EVIL}\nNA"
        file.write_text(json.dumps(image))
    return plate_path


def test_names_in_a_plate_never_steer_the_terminal(
    run: Run, evil_plate: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    shown = run("info", evil_plate)
    assert (shown.code, clean(shown.out + shown.err)) == (0, True)
    assert "D_[2J_ _1m NA" in shown.out
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--tile", "32")
    for arguments in (["--dry-run"], ["--channels", "x"], ["--on-error", "skip"]):
        shown = run("embed", evil_plate, *options, *arguments)
        assert clean(shown.out + shown.err)
    assert shown.code == 3, shown.err
    assert "p_[2J_ _1m q: 6 wells" in shown.out


def test_cells_of_a_table_never_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    evil = f"c{EVIL}\nd"
    plain = {"Metadata_Plate": ["p"] * 4, "Metadata_Well": ["A01", "A02", "A03", "A04"]}
    table = pl.DataFrame(
        {**plain, f"Metadata_{evil}": [evil, evil, "x", "x"], f"{evil}_000": [1.0, 1.0, 2.0, 3.0]}
    )
    table.write_parquet(tmp_path / "t.parquet")
    by = f"Metadata_{evil}"
    calls = [
        ("profile", tmp_path / "t.parquet", "--out", tmp_path / "o.parquet", "--by", by),
        ("profile", tmp_path / "t.parquet", "--out", tmp_path / "o.parquet", "--by", f"q{evil}"),
        ("evaluate", tmp_path / "t.parquet", "--label", evil),
        ("evaluate", tmp_path / "t.parquet", "--label", evil, "--json"),
        ("evaluate", tmp_path / "t.parquet", "--label", "MoA"),
        ("evaluate", tmp_path / "t.parquet", "--label", evil, "--not-same", "Well"),
    ]
    codes = []
    for call in calls:
        shown = run(*call)
        codes.append(shown.code)
        assert clean(shown.out + shown.err)
        assert (len(shown.err.splitlines()) == 1) == (shown.code != 0 or call is calls[0])
    assert codes == [0, 1, 0, 0, 1, 0]


def test_file_names_never_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    import numpy as np
    import tifffile

    (tmp_path / "in").mkdir()
    for channel in ("D\x1b[1m", "E\x07"):
        tifffile.imwrite(tmp_path / f"in/A01_{channel}.tif", np.ones((8, 9), np.uint8))
    pattern = r"(?P<well>A\d+)_(?P<channel>[^.]+)\.tif"
    done = run("convert", tmp_path / "in", "--out", tmp_path / "p.zarr", "--pattern", pattern)
    assert (done.code, clean(done.out + done.err)) == (0, True)
    assert "(D_[1m, E_)" in done.out
    (tmp_path / "in/A01_D\x1b[1m.tif").write_bytes(b"rubbish")
    bad = run("convert", tmp_path / "in", "--out", tmp_path / "q.zarr", "--pattern", pattern)
    assert (bad.code, clean(bad.err), len(bad.err.splitlines())) == (1, True, 1)


def test_many_warnings_are_abridged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.say_some("warning", [f"well {n}" for n in range(200_000)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: well 0"
    assert lines[-1] == "warning: and 199980 more (all in manifest.json)"
    assert len(lines) == 21
    terminal.say_some("left out", ["one"] * 20)
    assert capsys.readouterr().err.splitlines() == ["left out: one"] * 20


class TestStreams:
    """In processes of their own, where the streams are real."""

    @staticmethod
    def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        call = f"{sys.executable} -m unidino_fast {command}"
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {call}"],
            capture_output=True, text=True, check=False, env=os.environ | environment,
        )  # fmt: skip

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
    def test_a_full_output(self, plate_path: Path) -> None:
        done = self.run(f"info {plate_path} > /dev/full")
        assert done.returncode == 1
        assert done.stderr == (
            "unidino-fast: standard output cannot be written (No space left on device): send it"
            " elsewhere\n"
        )

    @pytest.mark.parametrize("arguments", ["--help", "info {}"])
    def test_a_closed_pipe_is_quiet(self, plate_path: Path, arguments: str) -> None:
        done = self.run(f"{arguments.format(plate_path)} | true")
        assert (done.returncode, done.stderr) == (1, "")

    @pytest.mark.parametrize(("closed", "left"), [("2>&-", "out"), (">&-", "err")])
    def test_closed_streams(self, plate_path: Path, tmp_path: Path, closed: str, left: str) -> None:
        done = self.run(f"info {plate_path} {closed}")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("plate ") == (left == "out")
        bad = self.run(f"info {tmp_path / 'no'} {closed}")
        assert bad.returncode == 1
        assert bad.stdout == ""

    def test_a_closed_error_stream_does_not_stop_the_work(
        self, plate_path: Path, tiny_weights: Path, tmp_path: Path
    ) -> None:
        shutil.rmtree(plate_path / "B")  # so that there is something to warn of
        options = f"--out {tmp_path}/out --weights {tiny_weights} --tile 32"
        done = self.run(f"embed {plate_path} {options} --on-error skip 2>&-")
        assert done.returncode in (0, 3)
        assert (tmp_path / "out/small/profiles.parquet").exists()

    def test_an_output_without_the_letters_of_a_name(self, plate_path: Path) -> None:
        root = json.loads((plate_path / ".zattrs").read_text())
        root["plate"]["name"] = "Größe板"
        (plate_path / ".zattrs").write_text(json.dumps(root))
        done = self.run(f"info {plate_path}", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert "Gr\\xf6\\xdfe\\u677f" in done.stdout


DROPPED = """
import os, signal, sys
from unidino_fast import terminal
from unidino_fast.console import WellProgress

class Last:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(1000):
            str(_)

class Another:
    def __del__(self):
        raise ValueError("another")

with terminal._careful_streams():
    terminal.heed_interruption()
    Last()
    Another()
    print("goes on")
    try:
        WellProgress().well(None)
    except KeyboardInterrupt as error:
        print(type(error).__name__)
terminal.heed_interruption()
"""


@pytest.mark.parametrize(
    ("number", "raised"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")]
)
def test_an_interruption_that_python_drops_is_heeded_later(number: str, raised: str) -> None:
    """One that arrives in a finalizer."""
    call = [sys.executable, "-c", DROPPED, number]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.count("Exception ignored") == 1  # the other's
    assert "ValueError: another" in done.stderr
    assert done.stdout.split("\n") == ["goes on", raised, ""]
