"""Fields -> wells -> normalised, selected, joined profiles.

Open `recipe` first: a table is taken apart into metadata and a matrix (`table`), goes through
steps (`normalize` and the methods that it names, `selection`, `consensus`) and becomes a table
again. `streaming` does so for files that do not fit into memory.
"""

from unidino_fast.profiles.aggregate import aggregate
from unidino_fast.profiles.consensus import consensus, replicate_correlation
from unidino_fast.profiles.normalize import METHODS, normalize, normalize_with_report
from unidino_fast.profiles.recipe import Recipe, read_recipe, run_recipe
from unidino_fast.profiles.scaling import MAD_TO_SD
from unidino_fast.profiles.selection import (
    BLOCKLIST,
    OPERATIONS,
    select_features,
    select_features_with_report,
)
from unidino_fast.profiles.table import Dropped, Neutralised, Report, describe_neutralised

__all__ = [
    "BLOCKLIST",
    "MAD_TO_SD",
    "METHODS",
    "OPERATIONS",
    "Dropped",
    "Neutralised",
    "Recipe",
    "Report",
    "aggregate",
    "consensus",
    "describe_neutralised",
    "normalize",
    "normalize_with_report",
    "read_recipe",
    "replicate_correlation",
    "run_recipe",
    "select_features",
    "select_features_with_report",
]
