"""iBOT (Zhou et al. 2022) as a method of the loop: DINO, and the same of hidden patches.

G global views (2), V views, B images, T patches of a global view, M hidden patches of all global
views, K prototypes, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unidino_fast.training.augment import ViewGroup
from unidino_fast.training.head import DinoHead
from unidino_fast.training.loss import Centre, dino_loss, teacher_targets
from unidino_fast.training.masks import BlockMasks
from unidino_fast.training.method import Outcome
from unidino_fast.training.networks import compiled, follow, new_student, new_teacher, vit_shape
from unidino_fast.training.schedules import cosine, ramp
from unidino_fast.training.tokens import encode, patch_tokens, positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.training.config import TrainConfig
    from unidino_fast.training.data import Batch
    from unidino_fast.training.processes import Processes
    from unidino_fast.training.schedules import Clock


class Ibot:
    """The student, to whom patches are hidden, gives the answers of the teacher, who sees them all.

    For the class token as in DINO, of other views; for a hidden patch, of that patch in the same
    view. One head serves both, with a centre each.

    Args:
        config: of the run.
        clock: of the run.
        processes: of the run.
    """

    def __init__(self, config: TrainConfig, clock: Clock, processes: Processes) -> None:
        self._settings = settings = config.ibot
        self._clock = clock
        views = config.views
        masks = BlockMasks(
            grid=views.global_size // config.model.patch,
            probability=settings.mask_probability,
            share=settings.mask_share,
            spread=settings.mask_spread,
        )
        local = (ViewGroup(views.n_local, views.local_size),) if views.n_local else ()
        self.groups = (ViewGroup(2, views.global_size, masks), *local)
        student = new_student(vit_shape(config), config.model.drop_path)
        head = DinoHead(
            config.model.dim, settings.hidden_dim, settings.bottleneck_dim, settings.out_dim
        )
        self._last_layer = head.last_layer
        self.trained: nn.Module = Student(student, head).to(processes.device)
        self.teacher = new_teacher(Teacher(student, head).to(processes.device))
        self._answer = compiled(self.teacher) if config.machine.compile else self.teacher
        self.centre = Centre(settings.out_dim, settings.centre_momentum).to(processes.device)
        self.patch_centre = Centre(settings.out_dim, settings.patch_centre_momentum)
        self.patch_centre.to(processes.device)
        self._parts = torch.full((2,), torch.nan)  # mean losses of class token and patches

    def losses(self, trained: nn.Module, batch: Batch, step: int) -> Outcome:
        """DINO's loss of the class token, and that of the hidden patches."""
        settings, views = self._settings, batch.views()
        hidden = batch.masks[0].transpose(0, 1)  # (G, B, T)
        with torch.no_grad():
            features, answers, patch_answers, patch_means = self._answer(views[0], hidden)
        class_temperature, patch_temperature = self._temperatures(step)
        targets = teacher_targets(answers, self.centre.value, class_temperature)
        patch_targets = teacher_targets(patch_answers, self.patch_centre.value, patch_temperature)
        self.centre.add(answers)
        self.patch_centre.add(patch_means)
        outputs, patch_outputs = trained(views, hidden)
        of_class = dino_loss(targets, outputs, settings.student_temperature)
        of_patches = patch_loss(patch_targets, patch_outputs, hidden, settings.student_temperature)
        self._parts = torch.stack([of_class.detach().mean(), of_patches.detach().mean()])
        return Outcome(
            losses=of_class + settings.patch_weight * of_patches,
            features=features.flatten(0, 1),
            probabilities=targets.flatten(0, 1),
        )

    def before_update(self, step: int) -> None:
        """In the first epochs the last layer stays as it is."""
        if self._clock.epoch(step) < self._settings.freeze_last_layer_epochs:
            self._last_layer.weight.grad = None

    def after_update(self, step: int, processes: Processes) -> None:
        """The teacher follows the student, and the centres the teacher's answers."""
        momentum = self._teacher_momentum(step)
        for name in ("backbone", "head"):
            own, other = (network.get_submodule(name) for network in (self.teacher, self.trained))
            follow(own, other, momentum)
        self.centre.update(processes)
        self.patch_centre.update(processes)

    def settings(self, step: int) -> dict[str, float]:
        """Temperatures and momentum of the teacher."""
        temperature, patch_temperature = self._temperatures(step)
        return {
            "teacher_temperature": temperature,
            "patch_temperature": patch_temperature,
            "teacher_momentum": self._teacher_momentum(step),
        }

    def signs(self) -> dict[str, float]:
        """Root mean squares of the centres, and both losses in the newest part of this process."""
        centres = {"centre_norm": self.centre, "patch_centre_norm": self.patch_centre}
        norms = {name: float(c.value.square().mean().sqrt()) for name, c in centres.items()}
        of_class, of_patches = self._parts.tolist()
        return {**norms, "class_loss": of_class, "patch_loss": of_patches}

    def exported(self) -> nn.Module:
        """The teacher's backbone."""
        return self.teacher.get_submodule("backbone")

    def state_dict(self) -> dict[str, Any]:
        """Student, teacher and centres."""
        return {name: part.state_dict() for name, part in self._networks().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them over."""
        for name, part in self._networks().items():
            part.load_state_dict(state[name])

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "student": self.trained,
            "teacher": self.teacher,
            "centre": self.centre,
            "patch_centre": self.patch_centre,
        }

    def _temperatures(self, step: int) -> tuple[float, float]:
        """The teacher's, for the class token and for patches."""
        settings, epoch = self._settings, self._clock.epoch(step)
        starts = settings.teacher_temperature_start, settings.patch_temperature_start
        ends = settings.teacher_temperature, settings.patch_temperature
        first, second = (
            ramp(epoch, start, end, settings.teacher_temperature_epochs)
            for start, end in zip(starts, ends, strict=True)
        )
        return first, second

    def _teacher_momentum(self, step: int) -> float:
        return cosine(step, self._settings.teacher_momentum, 1.0, self._clock.total)


class Student(nn.Module):
    """A backbone to which patches are hidden, and its head."""

    def __init__(self, backbone: Any, head: DinoHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.mask_token = nn.Parameter(
            torch.zeros(backbone.embed_dim)
        )  # zero at first, as released

    def forward(self, groups: Sequence[Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs for the class tokens of all views, and for the hidden patches.

        Args:
            groups: (V_i, B, s_i, s_i), the global views first.
            hidden: (G, B, T) bool, patches of the global views.

        Returns:
            (V, B, K), and (M, K) in the order of `hidden`.
        """
        tokens = patch_tokens(self.backbone, groups[0].flatten(0, 1)[:, None])
        mask = hidden.flatten(0, 1)  # (G * B, T)
        tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        encoded = encode(self.backbone, tokens + positions(self.backbone))
        others = [self.backbone(views.flatten(0, 1)[:, None]) for views in groups[1:]]
        outputs = self.head(torch.cat([encoded[:, 0], *others]))
        n_images = groups[0].shape[1]
        by_view = outputs.reshape(-1, n_images, outputs.shape[-1])
        return by_view, self.head(encoded[:, 1:][mask])


class Teacher(nn.Module):
    """A backbone that sees everything, and its head."""

    def __init__(self, backbone: Any, head: DinoHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answers to global views (G, B, s, s).

        The mean over patches is taken before the last layer, which is linear: the answers to all
        patches would be the largest tensor of a run.

        Returns:
            Features (G, B, D), outputs for the class tokens (G, B, K), outputs for the patches that
            are hidden to the student (M, K), and the mean of the outputs for all patches of each
            view (G, B, K).
        """
        encoded = self.backbone.forward_features(views.flatten(0, 1)[:, None])
        by_view = encoded.unflatten(0, views.shape[:2])  # (G, B, 1 + T, D)
        features, patches = by_view[:, :, 0], by_view[:, :, 1:]
        bottleneck = self.head.bottleneck(patches)  # (G, B, T, bottleneck)
        last = self.head.last_layer
        return features, self.head(features), last(bottleneck[hidden]), last(bottleneck.mean(2))


def patch_loss(targets: Tensor, outputs: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the teacher's answers to hidden patches with the student's.

    Args:
        targets: (M, K) probabilities.
        outputs: (M, K) of the student.
        hidden: (G, B, T) bool, in whose order the M patches come.
        temperature: the student's.

    Returns:
        (B,) float32: each image's mean over its views of the mean over the view's hidden patches;
        a view without any counts as 0, as released.
    """
    logits = outputs.float() / temperature
    losses = logits.logsumexp(-1) - (targets * logits).sum(-1)  # (M,)
    spread = torch.zeros(hidden.shape, device=losses.device)
    spread = spread.masked_scatter(hidden, losses)
    return (spread.sum(-1) / hidden.sum(-1).clamp_min(1)).mean(0)
