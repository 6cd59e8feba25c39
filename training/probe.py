"""The probe: how well the network of this moment tells the wells of a labelled plate apart.

It goes the way that a user's plate goes (`embed`, `aggregate`, MAD per plate, `evaluate`), on a
copy of the network, and leaves the training's random numbers as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unidino_fast.columns import find_column, find_columns
from unidino_fast.engines import Embedder
from unidino_fast.errors import TrainingError, UnidinoError, UsageError
from unidino_fast.evaluation.nearest_neighbour import evaluate
from unidino_fast.evaluation.table import labelled
from unidino_fast.pipeline import embed_plate
from unidino_fast.plate import open_plate
from unidino_fast.platemap import join_platemap, read_platemap
from unidino_fast.profiles import aggregate, normalize
from unidino_fast.training.wells import wells_table

if TYPE_CHECKING:
    from unidino_fast.backbones import Backbone
    from unidino_fast.choices import Intensity
    from unidino_fast.training.config_labels import ProbeConfig

COLUMNS = ("probe_accuracy", "probe_chance")


class Probe:
    """The plate, opened and its labels checked.

    Args:
        config: with its paths.
        device: that the network is tried on.
        intensity: where the settings name none.

    Raises:
        TrainingError: the plate or its platemap cannot be used: one line that begins with `probe`.
    """

    def __init__(self, config: ProbeConfig, device: torch.device, intensity: Intensity) -> None:
        self._config = config
        self._intensity = config.intensity or intensity
        self._device = device
        try:
            self._plate = open_plate(config.plate or "")
            self._platemap = read_platemap(config.platemap or "")
            wells = wells_table(self._plate, self._platemap)
            labelled(wells, find_column(wells, config.label))
            find_columns(wells, config.not_same)
        except UsageError:
            raise
        except UnidinoError as error:
            raise TrainingError(f"probe: {error}") from error

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """The 1-NN accuracy (cosine) of a backbone's profiles, and what chance would give.

        Raises:
            TrainingError: the plate cannot be embedded, or no well has another to be compared with.
        """
        here = [self._device.index or 0] if self._device.type == "cuda" else []
        model = Embedder(backbone, "eager", self._device, "fp32")
        try:
            with torch.random.fork_rng(devices=here):
                fields = embed_plate(
                    self._plate,
                    model,
                    intensity=self._intensity,
                    channels=self._config.channels,
                )
            profiles = normalize(aggregate(fields))
            joined, _ = join_platemap(profiles, self._platemap)
            found = evaluate(joined, self._config.label, self._config.not_same, bootstrap=0)
        except UnidinoError as error:
            raise TrainingError(f"probe: {error}") from error
        if found.n_without_candidate == found.n_queries:
            raise TrainingError(
                f"probe: no well has another that it may match: take columns out of probe.not_same"
                f" ({', '.join(found.not_same)})"
            )
        return dict(zip(COLUMNS, (found.accuracy, found.chance), strict=True))
