"""Engines run a backbone on tiles; `Embedder` is what callers hold."""

from unidino_fast.engines.embedder import Embedder, load_backbone

__all__ = ["Embedder", "load_backbone"]
