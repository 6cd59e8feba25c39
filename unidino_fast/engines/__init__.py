"""Engines run a backbone on tiles; `Embedder` is what callers hold."""

from unidino_fast.engines.embedder import Embedder
from unidino_fast.engines.spec import load_backbone

__all__ = ["Embedder", "load_backbone"]
