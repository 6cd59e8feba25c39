"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of real images and tables; tests that need it skip where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNIDINO_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder} (set UNIDINO_DATA)")
    return folder
