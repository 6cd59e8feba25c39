from __future__ import annotations

import subprocess
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from unidino_fast.benchmarks.environment import (
    ROOT,
    commit_of,
    describe_environment,
    source_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from unidino_fast.benchmarks.environment import Environment


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    call = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def test_says_what_is_here(environment: Environment) -> None:
    assert environment.torch == torch.__version__
    assert environment.cores >= 1
    assert environment.threads == torch.get_num_threads()
    assert environment.device
    assert environment.date.endswith("+00:00")
    assert len(environment.source) == 12
    again = asdict(describe_environment(torch.device("cpu")))
    assert {**again, "date": environment.date} == asdict(environment)


def test_commit_of_a_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert commit_of(tmp_path) == commit
    (tmp_path / "rows.csv").touch()  # results do not change the code
    assert commit_of(tmp_path) == commit
    (tmp_path / "a.py").write_text("2\n")
    assert commit_of(tmp_path) == f"{commit}+dirty"
    (tmp_path / "venv").mkdir()  # an installed package in somebody's project
    assert commit_of(tmp_path / "venv") == "unknown"


def test_no_checkout_is_unknown(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "none") == "unknown"


def test_source_digest_covers_linked_folders(tmp_path: Path) -> None:
    (tmp_path / "unidino_fast").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / "unidino_fast/kernels").symlink_to("../kernels")
    (tmp_path / "kernels/op.py").write_text("1\n")
    first = source_digest(tmp_path)
    (tmp_path / "notes.md").touch()
    assert source_digest(tmp_path) == first
    (tmp_path / "kernels/op.py").write_text("2\n")
    assert source_digest(tmp_path) != first
    assert source_digest(ROOT) == source_digest(ROOT / "unidino_fast")  # as installed
