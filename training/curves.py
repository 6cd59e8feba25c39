"""Learning curves of a run's `log.csv` as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unidino_fast.errors import OutputError, TrainingError, UsageError
from unidino_fast.training.watch import read_log

if TYPE_CHECKING:
    from pathlib import Path

_PANELS = (
    ("loss", "loss"),
    ("lr", "learning rate"),
    ("grad_norm", "gradient norm"),
    ("feature_rank", "effective rank of features"),
    ("teacher_entropy", "teacher entropy / log K"),
    ("teacher_spread", "teacher spread (nats)"),
    ("centre_norm", "centre (rms)"),
    ("patch_centre_norm", "centre of patches (rms)"),
    ("class_loss", "loss of the class token"),
    ("patch_loss", "loss of hidden patches"),
    ("positive_cosine", "mean cosine of positives"),
    ("negative_cosine", "mean cosine of negatives"),
    ("teacher_temperature", "teacher temperature"),
    ("crop_accuracy", "crops told right"),
    ("probe_accuracy", "1-NN accuracy of the probe (dashed: chance)"),
)
_BLUE, _PALE = "#0072B2", "#A6CDE3"
_SMOOTH = 0.95


def plot_curves(log: Path, path: Path) -> None:
    """Draws the columns of a `log.csv` over the step, the loss with its running mean, as a PNG.

    Raises:
        UsageError: matplotlib is not installed.
        TrainingError: the log holds no step.
        OutputError: the picture cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "matplotlib is not installed, no curves are drawn: pip install matplotlib"
        ) from error
    rows = read_log(log)
    if not rows:
        raise TrainingError(f"{log} holds no step: train first")
    panels = [(name, title) for name, title in _PANELS if any(row.get(name) for row in rows)]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 2.6 * -(-len(panels) // 2)), layout="constrained")
        grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).flat
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, title) in zip(grid, panels, strict=False):
            points = [(int(row["step"]) + 1, float(row[name])) for row in rows if row.get(name)]
            steps, values = zip(*points, strict=True)
            smooth = name == "loss"
            axes.plot(steps, values, color=_PALE if smooth else _BLUE, linewidth=1.2)
            if smooth:
                axes.plot(steps, _smoothed(values), color=_BLUE, linewidth=1.6)
            if name == "probe_accuracy":
                chance = [float(row["probe_chance"]) for row in rows if row.get("probe_chance")]
                axes.plot(steps, chance, color="0.5", linewidth=1.0, linestyle="--")
            axes.set_title(title, loc="left")
            axes.set_xlabel("step")
        try:
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): choose another place"
            ) from error


def _smoothed(values: tuple[float, ...]) -> list[float]:
    """Running mean that forgets, without its bias towards the start."""
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean = _SMOOTH * mean + (1 - _SMOOTH) * value
        weight = _SMOOTH * weight + (1 - _SMOOTH)
        out.append(mean / weight)
    return out
