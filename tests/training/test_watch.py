"""Signs of a collapse on made-up features, and the log."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from unidino_fast.errors import OutputError, TrainingError
from unidino_fast.training.curves import plot_curves
from unidino_fast.training.method import Outcome
from unidino_fast.training.watch import Log, Watch, effective_rank, entropy, read_log

if TYPE_CHECKING:
    from pathlib import Path


def told(features: torch.Tensor, probabilities: torch.Tensor, **more: float) -> list[str]:
    watch = Watch()
    watch.add(Outcome(torch.zeros(1), features, probabilities))
    return watch.judge(watch.measure() | more)


def healthy(n: int = 64, k: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(n, k, generator=generator) * 3
    return torch.randn(n, 24, generator=generator), torch.softmax(answers, -1)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rank_of_equal_singular_values(rank: int) -> None:
    generator = np.random.default_rng(rank)
    left = np.linalg.qr(np.c_[np.ones(40), generator.normal(size=(40, rank))])[0][:, 1:]
    right = np.linalg.qr(generator.normal(size=(20, rank)))[0]
    features = torch.from_numpy(left @ right.T + generator.normal(size=20)).float()
    assert effective_rank(features) == pytest.approx(rank, rel=1e-2)


def test_rank_by_numpy_and_of_a_constant() -> None:
    features, _ = healthy()
    values = np.linalg.svd(features.numpy() - features.numpy().mean(0), compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(features) == pytest.approx(
        float(np.exp(-(shares * np.log(shares)).sum()))
    )
    assert effective_rank(torch.full((9, 4), 3.7)) == 0.0


def test_entropy_and_spread() -> None:
    watch = Watch()
    certain = torch.eye(4)  # four images, four different answers
    watch.add(Outcome(torch.zeros(4), torch.randn(4, 3), certain))
    signs = watch.measure()
    assert signs["teacher_entropy"] == 0.0
    assert signs["teacher_spread"] == pytest.approx(np.log(4))
    assert float(entropy(torch.full((1, 8), 1 / 8))[0]) == pytest.approx(np.log(8))


def test_a_healthy_run_is_left_in_peace() -> None:
    assert told(*healthy(), centre_norm=0.1) == []


def test_each_collapse_is_told_with_a_remedy() -> None:
    features, answers = healthy()
    one_line = features[:, :1] * torch.ones(1, 24)
    assert "collapsed to 1.00 dimensions: lower optim.lr" in told(one_line, answers)[0]
    uniform = torch.full((64, 16), 1 / 16)
    assert "all but uniform" in told(features, uniform)[0]
    alike = answers[:1].expand(64, 16)
    assert "gives all images one answer" in told(features, alike)[0]
    assert "centre has grown to 0.80" in told(features, answers, centre_norm=0.8)[0]


def test_each_kind_is_told_once() -> None:
    watch = Watch()
    watch.add(Outcome(torch.zeros(1), torch.ones(5, 3)))
    signs = watch.measure()
    assert len(watch.judge(signs)) == 1
    assert watch.judge(signs) == []


def test_log_drops_what_is_done_again(tmp_path: Path) -> None:
    columns = ("loss", "rank")
    with Log(tmp_path, columns, 0, tensorboard=False) as log:
        for step in range(5):
            log.write(step, {"loss": 1 / 3 + step, **({"rank": 2.0} if step % 2 == 0 else {})})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("5,0.1")  # killed while writing
    with Log(tmp_path, columns, 3, tensorboard=False) as log:
        log.write(3, {"loss": 30.0})
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == [1 / 3, 1 / 3 + 1, 1 / 3 + 2, 30.0]
    assert rows[1]["rank"] == ""


def test_curves_are_drawn(tmp_path: Path) -> None:
    with Log(tmp_path, ("loss", "feature_rank"), 0, tensorboard=False) as log:
        for step in range(30):
            log.write(step, {"loss": 1 / (step + 1), "feature_rank": float(step)})
    plot_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(OutputError, match=r"none/c\.png cannot be written"):
        plot_curves(tmp_path / "log.csv", tmp_path / "none" / "c.png")
    with pytest.raises(TrainingError, match=r"none\.csv holds no step"):
        plot_curves(tmp_path / "none.csv", tmp_path / "c.png")
    assert len(read_log(tmp_path / "log.csv")) == 30
