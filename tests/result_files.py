"""Finished files, for tests that compare them; light, since workers import it with their tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unidino_fast.names import QUALITY
from unidino_fast.output import TABLES

if TYPE_CHECKING:
    from pathlib import Path


def tables_of(folder: Path) -> dict[str, bytes]:
    """The finished tables of a plate and what is said of their quality, byte by byte."""
    return {name: (folder / name).read_bytes() for name in (*TABLES, QUALITY)}
