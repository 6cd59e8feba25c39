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
from typing import TYPE_CHECKING, Any

from unidino_fast._version import __version__

if TYPE_CHECKING:
    from unidino_fast.convert import convert_plate as convert_plate
    from unidino_fast.engines import Embedder as Embedder
    from unidino_fast.engines import load_backbone as load_backbone
    from unidino_fast.errors import UnidinoError as UnidinoError
    from unidino_fast.evaluation import batch_effects as batch_effects
    from unidino_fast.evaluation import evaluate as evaluate
    from unidino_fast.evaluation import mean_average_precision as mean_average_precision
    from unidino_fast.evaluation import percent_matching as percent_matching
    from unidino_fast.evaluation import percent_replicating as percent_replicating
    from unidino_fast.evaluation import search as search
    from unidino_fast.novelty import find_unusual as find_unusual
    from unidino_fast.pipeline import embed_plate as embed_plate
    from unidino_fast.pipeline import embed_to_folder as embed_to_folder
    from unidino_fast.plate import Plate as Plate
    from unidino_fast.plate import open_plate as open_plate
    from unidino_fast.platemap import join_platemap as join_platemap
    from unidino_fast.platemap import read_platemap as read_platemap
    from unidino_fast.profiles import aggregate as aggregate
    from unidino_fast.profiles import consensus as consensus
    from unidino_fast.profiles import normalize as normalize
    from unidino_fast.profiles import select_features as select_features
    from unidino_fast.qc import flag_wells as flag_wells
    from unidino_fast.qc import plate_qc as plate_qc
    from unidino_fast.results import feature_columns as feature_columns
    from unidino_fast.simulate import simulate_plate as simulate_plate

_HOMES = {
    "Embedder": "engines",
    "Plate": "plate",
    "UnidinoError": "errors",
    "aggregate": "profiles",
    "batch_effects": "evaluation",
    "consensus": "profiles",
    "convert_plate": "convert",
    "embed_plate": "pipeline",
    "embed_to_folder": "pipeline",
    "evaluate": "evaluation",
    "feature_columns": "results",
    "find_unusual": "novelty",
    "flag_wells": "qc",
    "join_platemap": "platemap",
    "load_backbone": "engines",
    "mean_average_precision": "evaluation",
    "normalize": "profiles",
    "open_plate": "plate",
    "percent_matching": "evaluation",
    "percent_replicating": "evaluation",
    "plate_qc": "qc",
    "read_platemap": "platemap",
    "search": "evaluation",
    "select_features": "profiles",
    "simulate_plate": "simulate",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unidino_fast' has no attribute {name!r}")
    return getattr(import_module(f"unidino_fast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
