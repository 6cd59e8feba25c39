"""Makes `profile_tables.py` importable for the tests beside it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NAME = "unidino_profile_tables"

if NAME not in sys.modules:
    path = Path(__file__).parent / "profile_tables.py"
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
