"""DINO (Caron et al. 2021) as a method of the loop: student, teacher, centre."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unidino_fast.training.augment import dino_views
from unidino_fast.training.head import DinoHead
from unidino_fast.training.loss import Centre, dino_loss, teacher_targets
from unidino_fast.training.method import Outcome
from unidino_fast.training.networks import (
    Projected,
    compiled,
    follow,
    new_student,
    new_teacher,
    vit_shape,
)
from unidino_fast.training.schedules import cosine, ramp

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock


class Dino:
    """The student learns to give the teacher's answer to another view of the same image.

    The teacher is a running mean of the student; its answers are centred and sharpened, which
    together keep both from one constant answer.

    Args:
        config: of the run.
        clock: of the run.
        device: where the networks go; they are drawn on the CPU, the same for every device.
    """

    def __init__(self, config: TrainConfig, clock: Clock, device: torch.device) -> None:
        self._settings = settings = config.dino
        self._clock = clock
        self.groups = dino_views(config.views)
        student = new_student(vit_shape(config), config.model.drop_path)
        head = DinoHead(
            config.model.dim, settings.hidden_dim, settings.bottleneck_dim, settings.out_dim
        )
        self.trained: nn.Module = Projected(student, head).to(device)
        self._last_layer = head.last_layer
        self.teacher = new_teacher(self.trained)
        self.networks: tuple[nn.Module, ...] = (self.trained, self.teacher)
        self._answer = compiled(self.teacher) if config.machine.compile else self.teacher
        self.centre = Centre(settings.out_dim, settings.centre_momentum).to(device)

    def losses(self, trained: nn.Module, batch: Batch, step: int) -> Outcome:
        """Cross-entropy of the teacher's answers to global views with the student's to all."""
        views = batch.views()
        with torch.no_grad():
            features, answers = self._answer(views[:1])
        targets = teacher_targets(answers, self.centre.value, self._teacher_temperature(step))
        self.centre.add(answers)
        _, outputs = trained(views)
        return Outcome(
            losses=dino_loss(targets, outputs, self._settings.student_temperature),
            features=features.flatten(0, 1),
            probabilities=targets.flatten(0, 1),
        )

    def before_update(self, step: int) -> None:
        """In the first epochs the last layer stays as it is."""
        if self._clock.epoch(step) < self._settings.freeze_last_layer_epochs:
            self._last_layer.weight.grad = None

    def after_update(self, step: int, processes: Processes) -> None:
        """The teacher follows the student, and the centre the teacher's answers."""
        follow(self.teacher, self.trained, self._teacher_momentum(step))
        self.centre.update(processes)

    def settings(self, step: int) -> dict[str, float]:
        """Temperature and momentum of the teacher."""
        return {
            "teacher_temperature": self._teacher_temperature(step),
            "teacher_momentum": self._teacher_momentum(step),
        }

    def signs(self) -> dict[str, float]:
        """Root mean square of the centre: outputs are cosines, so that it is at most 1."""
        return {"centre_norm": float(self.centre.value.square().mean().sqrt())}

    def exported(self) -> nn.Module:
        """The teacher's backbone."""
        return self.teacher.get_submodule("backbone")

    def state_dict(self) -> dict[str, Any]:
        """Student, teacher and centre."""
        return {
            "student": self.trained.state_dict(),
            "teacher": self.teacher.state_dict(),
            "centre": self.centre.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them over."""
        self.trained.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.centre.load_state_dict(state["centre"])

    def _teacher_temperature(self, step: int) -> float:
        settings = self._settings
        return ramp(
            self._clock.epoch(step),
            settings.teacher_temperature_start,
            settings.teacher_temperature,
            settings.teacher_temperature_epochs,
        )

    def _teacher_momentum(self, step: int) -> float:
        return cosine(step, self._settings.teacher_momentum, 1.0, self._clock.total)
