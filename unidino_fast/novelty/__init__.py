"""What is unlike the controls, and what of it no known label explains.

`space` brings rows into one space and learns the controls' spread there, `scoring` turns distances
into p-values by controls that were left out, `clusters` looks for phenotypes among what is unusual.
"""

from __future__ import annotations

from unidino_fast.novelty.result import Unusual
from unidino_fast.novelty.unusual import find_unusual

__all__ = ["Unusual", "find_unusual"]
