"""What a run writes down, and the signs by which a collapse shows.

`log.csv` has a line a step; lines of steps after the checkpoint that a run goes on from are
dropped, so that the curve is that of one run. N images, D features, K prototypes.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from typing import TYPE_CHECKING, Any, Self

import torch

from unidino_fast.errors import OutputError, UsageError
from unidino_fast.files import atomic, reason_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor

    from unidino_fast.training.method import Outcome

_FEATURES = 512
"""Features that the rank is estimated on."""
_LOW_RANK = 2.0
_EVEN = 0.999
_ALIKE = 0.01
_LARGE_CENTRE = 0.5
_ALIKE_COSINE = 0.99


class Log:
    """`log.csv` of a run, and TensorBoard files if wanted.

    Args:
        folder: of the run.
        columns: after `step`; a step may leave some out.
        first_step: steps from here on are dropped from what a former run wrote.
        tensorboard: write TensorBoard files too.
    """

    def __init__(
        self, folder: Path, columns: tuple[str, ...], first_step: int, *, tensorboard: bool
    ) -> None:
        self.path = folder / "log.csv"
        self._columns = ("step", *columns)
        rows = [row for row in read_log(self.path) if int(row["step"]) < first_step]
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic(self.path) as temporary:
            temporary.write_text(text.getvalue())
        self._board = _tensorboard(folder, first_step) if tensorboard else None

    def __enter__(self) -> Self:
        self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # lines that a full disk did not take: `write` said so
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a step."""
        # repr: as many digits as tell two floats apart
        try:
            self._writer.writerow({"step": step, **{name: repr(v) for name, v in values.items()}})
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({reason_of(error)}): free the disk, and run the"
                " same command again"
            ) from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def read_log(path: Path) -> list[dict[str, str]]:
    """The lines of a `log.csv`, without one that a killed run left half-written."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]


class Watch:
    """Keeps the newest features and probabilities; measures and judges them when asked.

    Args:
        section: of the settings that its advice is about.
    """

    def __init__(self, section: str = "dino") -> None:
        self._section = section
        self._features: list[Tensor] = []
        self._entropies: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._warned: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """What it has gathered, so that a run that goes on measures the same."""
        return {
            "features": self._features,
            "entropies": self._entropies,
            "mean": self._mean,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it over."""
        self._features = state["features"]
        self._entropies, self._mean = state["entropies"], state["mean"]
        self._warned = set(state["warned"])

    def add(self, outcome: Outcome) -> None:
        """Takes note of a part of a batch; waits for nothing."""
        self._features.append(outcome.features.detach().float())
        while sum(map(len, self._features[1:])) >= _FEATURES:
            del self._features[0]
        if outcome.probabilities is not None:
            p = outcome.probabilities.detach()
            self._entropies.append(entropy(p).mean())
            self._mean.append(p.mean(0))

    def measure(self) -> dict[str, float]:
        """Signs since the last measurement.

        `feature_rank`: effective rank of the newest features. `teacher_entropy`: mean entropy of
        the probabilities, as a share of log K. `teacher_spread`: how much an image's probabilities
        tell it from others, the mean divergence from their mean, in nats.
        """
        signs = {"feature_rank": effective_rank(torch.cat(self._features)[-_FEATURES:])}
        if self._entropies:
            mean = torch.stack(self._mean).mean(0)
            own = float(torch.stack(self._entropies).mean())
            signs["teacher_entropy"] = own / math.log(len(mean))
            signs["teacher_spread"] = float(entropy(mean)) - own
        self._entropies, self._mean = [], []
        return signs

    def judge(self, signs: dict[str, float]) -> list[str]:
        """Warnings, each kind once a run: what is wrong and what to try."""
        found = []
        rank = signs["feature_rank"]
        if rank < _LOW_RANK:
            found.append(
                (
                    "rank",
                    f"features have collapsed to {rank:.2f} dimensions: lower optim.lr, raise"
                    " optim.warmup_epochs, or use larger batches",
                )
            )
        if signs.get("teacher_entropy", 0.0) > _EVEN:
            found.append(
                (
                    "even",
                    "the teacher's answers are all but uniform (entropy"
                    f" {signs['teacher_entropy']:.4f} of its maximum): lower"
                    f" {self._section}.teacher_temperature or {self._section}.teacher_momentum",
                )
            )
        elif signs.get("teacher_spread", 1.0) < _ALIKE:
            found.append(
                (
                    "alike",
                    "the teacher gives all images one answer (spread"
                    f" {signs['teacher_spread']:.4f} nats): lower {self._section}.centre_momentum,"
                    f" raise {self._section}.teacher_temperature_start, or lower optim.lr",
                )
            )
        alike = signs.get("negative_cosine", 0.0)
        if alike > _ALIKE_COSINE:
            found.append(
                (
                    "embeddings",
                    f"embeddings of different images have a cosine of {alike:.3f}: lower optim.lr,"
                    f" raise optim.warmup_epochs or lower {self._section}.temperature",
                )
            )
        centre = max(signs.get("centre_norm", 0.0), signs.get("patch_centre_norm", 0.0))
        if centre > _LARGE_CENTRE:
            found.append(
                (
                    "centre",
                    f"the centre has grown to {centre:.2f} of at most 1, so all images get nearly"
                    " one answer: lower optim.lr or set optim.clip_norm = 3",
                )
            )
        new = [text for kind, text in found if kind not in self._warned]
        self._warned |= {kind for kind, _ in found}
        return new


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy over the last axis, in nats; 0 log 0 is 0."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(-1)


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the singular values' shares, of centred features (N, D).

    RankMe (Garrido et al. 2023), but centred, so that features that are all alike have rank 0.
    """
    values = torch.linalg.svdvals(features - features.mean(0))
    total = values.sum()
    if not bool(total > 1e-6 * features.norm().clamp_min(1e-30)):
        return 0.0
    return float(entropy(values / total).exp())


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "machine.tensorboard is set but tensorboard is not installed: pip install tensorboard,"
            " or set it to false (log.csv has the same numbers)"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
