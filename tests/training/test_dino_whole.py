"""Whole steps of DINO against a trainer written out apart, from the paper and its released code.

Loss by pairs, centre, schedules as arrays over all steps, AdamW by its formulas, clipping, the
frozen last layer and the teacher are this file's own; networks' forward passes and batches are
those of the run.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from unidino_fast.training.augment import dino_views
from unidino_fast.training.data import ViewDataset, open_batches
from unidino_fast.training.loop import train
from unidino_fast.training.prepare import prepare
from unidino_fast.training.processes import Processes
from unidino_fast.training.sources import open_source
from unidino_fast.training.watch import read_log

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ALONE = Processes(torch.device("cpu"))


def cosine_schedule(first: float, last: float, n_epochs: int, n_steps: int, warmup: int) -> Any:
    """DINO's `cosine_scheduler`: one value a step."""
    rising = np.linspace(0, first, warmup * n_steps) if warmup else np.array([])
    n_left = n_epochs * n_steps - len(rising)
    places = np.arange(n_left)
    falling = last + 0.5 * (first - last) * (1 + np.cos(np.pi * places / n_left))
    return np.concatenate([rising, falling])


def pair_losses(teacher: Tensor, student: Tensor, centre: Tensor, sharp: float) -> Tensor:
    pairs = [(t, v) for t in range(2) for v in range(len(student)) if v != t]
    targets = [torch.softmax((answers - centre) / sharp, dim=-1) for answers in teacher]
    terms = [-(targets[t] * torch.log_softmax(student[v] / 0.1, dim=-1)).sum(-1) for t, v in pairs]
    return torch.stack(terms).mean()


class Adam:
    """Loshchilov and Hutter's AdamW with torch's defaults, a parameter at a time."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.counts = dict.fromkeys(parameters, 0)

    @torch.no_grad()
    def step(self, parameters: dict[str, Tensor], lr: float, decay: float) -> None:
        for name, p in parameters.items():
            if p.grad is None:
                continue
            self.counts[name] += 1
            n = self.counts[name]
            if p.ndim > 1:  # neither biases nor norms
                p.mul_(1 - lr * decay)
            self.first[name].mul_(0.9).add_(0.1 * p.grad)
            self.second[name].mul_(0.999).add_(0.001 * p.grad**2)
            mean = self.first[name] / (1 - 0.9**n)
            p.sub_(lr * mean / ((self.second[name] / (1 - 0.999**n)).sqrt() + 1e-8))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_run_is_dino(clip: float | None, make_config: Any, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if clip is None else {"optim__clip_norm": clip}
    config = make_config(
        model__drop_path=0.0, optim__epochs=4, optim__lr=0.01, optim__warmup_epochs=2,
        dino__teacher_temperature_epochs=3, **changes,
    )  # fmt: skip
    run = prepare(config, tmp_path / "start", ALONE, lambda line: None)
    student = copy.deepcopy(run.method.trained)
    teacher = copy.deepcopy(student)
    n_steps = run.clock.steps_per_epoch
    assert (n_steps, run.clock.epochs) == (3, 4)
    train(config, tmp_path / "run")

    sources = [open_source(one, smallest=32, cache_bytes=10**6) for one in config.data]
    dataset = ViewDataset(sources, dino_views(config.views), config)
    rates = cosine_schedule(0.01 * 6 / 256, 1e-6, 4, n_steps, 2)
    decays = cosine_schedule(0.04, 0.4, 4, n_steps, 0)
    momenta = cosine_schedule(0.9, 1.0, 4, n_steps, 0)
    temperatures = [*np.linspace(0.01, 0.04, 3), 0.04]
    centre = torch.zeros(32)
    parameters = dict(student.named_parameters())
    adam = Adam(parameters)
    wanted = []
    for step, batch in enumerate(open_batches(dataset, config, run.clock, ALONE, 0)):
        views = batch.views()
        with torch.no_grad():
            answers = teacher(views[:1])[1]
        outputs = student(views)[1]
        loss = pair_losses(answers, outputs, centre, temperatures[step // n_steps])
        student.zero_grad()
        loss.backward()
        if step < n_steps:  # the last layer stands still for the first epoch
            parameters["head.last_layer.weight"].grad = None
        norm = math.sqrt(
            sum(float((p.grad**2).sum()) for p in parameters.values() if p.grad is not None)
        )
        if clip is not None and norm > clip:
            for p in parameters.values():
                if p.grad is not None:
                    p.grad *= clip / norm
        adam.step(parameters, rates[step], decays[step])
        with torch.no_grad():
            for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
                own.copy_(momenta[step] * own + (1 - momenta[step]) * other)
        centre = 0.9 * centre + 0.1 * answers.mean((0, 1))
        row = [loss.item(), rates[step], decays[step], norm, momenta[step]]
        wanted.append([*row, temperatures[step // n_steps], float(centre.square().mean().sqrt())])

    names = ("loss", "lr", "weight_decay", "grad_norm", "teacher_momentum", "teacher_temperature")
    rows = read_log(tmp_path / "run" / "log.csv")
    assert len(rows) == len(wanted) == 12
    found = [[float(row[name]) for name in names] for row in rows]
    # float32, in another order of sums, over twelve steps
    np.testing.assert_allclose(found, [row[:-1] for row in wanted], rtol=2e-3)
    np.testing.assert_allclose(found[0], wanted[0][:-1], rtol=1e-5)
    for row, values in zip(rows, wanted, strict=True):
        if row["centre_norm"]:
            assert float(row["centre_norm"]) == pytest.approx(values[-1], rel=1e-3)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    method = torch.load(newest, weights_only=True)["parts"]["method"]
    torch.testing.assert_close(method["centre"]["value"], centre, rtol=1e-3, atol=1e-5)
    for held, own in ((method["student"], student), (method["teacher"], teacher)):
        for name, tensor in own.state_dict().items():
            torch.testing.assert_close(held[name], tensor, rtol=1e-3, atol=1e-4)
