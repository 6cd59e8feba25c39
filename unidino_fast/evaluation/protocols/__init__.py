"""Whole protocols as recipes: which rows, at which level, by which metrics, beside which numbers.

`recipe` reads and checks a TOML file, `prepare` makes its table, `runner` asks its questions. The
recipes that ship lie beside, one for each dataset of Morelli et al. 2025.
"""

from __future__ import annotations

from unidino_fast.evaluation.protocols.recipe import Recipe, load_recipe, shipped_recipes
from unidino_fast.evaluation.protocols.runner import ProtocolResult, run_recipe

__all__ = ["ProtocolResult", "Recipe", "load_recipe", "run_recipe", "shipped_recipes"]
