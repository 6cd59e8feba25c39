"""Fluorescence-microscopy plates in, normalised well profiles out.

    import unidino_fast as uf

    plate = uf.open_plate("plate.zarr")
    model = uf.load_backbone("unidino.pth")
    fields = uf.embed_plate(plate, model)
    profiles = uf.normalize(uf.aggregate(fields))

Importing this package is cheap: each name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from unidino_fast._version import __version__

_NAMES = {
    "convert": "convert_plate",
    "engines": "Embedder load_backbone",
    "errors": "UnidinoError",
    "evaluation": "batch_effects evaluate mean_average_precision"
    " percent_matching percent_replicating search",
    "novelty": "find_unusual",
    "pipeline": "embed_plate embed_to_folder",
    "plate": "Plate open_plate",
    "platemap": "join_platemap read_platemap",
    "profiles": "aggregate consensus normalize select_features",
    "qc": "flag_wells plate_qc",
    "results": "feature_columns",
    "simulate": "simulate_plate",
}
"""What each module offers; `__init__.pyi` tells type checkers the same."""
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unidino_fast' has no attribute {name!r}")
    return getattr(import_module(f"unidino_fast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
