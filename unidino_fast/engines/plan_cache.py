"""Built TensorRT engines kept on disk: building takes minutes, loading a second.

An entry is one file: a line of format, a line with the SHA-256 of the rest, then TensorRT's plan.
The sum is checked before TensorRT sees the bytes, for it may crash on damaged ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidino_fast.errors import OutputError
from unidino_fast.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMAT = b"unidino_fast plan 1\n"

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/unidino_fast`; below `~/.cache` where that is unset or not absolute."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if named and Path(named).is_absolute() else Path.home() / ".cache"
    return home / "unidino_fast"


def plan_path(folder: Path, model: bytes, options: Mapping[str, Any]) -> Path:
    """Where the plan of a model lies: named by everything that decides it.

    Args:
        folder: of the cache.
        model: the ONNX file's bytes, hence weights, precision and graph.
        options: whatever else TensorRT was given, and on what.
    """
    digest = hashlib.sha256(model)
    digest.update(json.dumps(dict(options), sort_keys=True).encode())
    return folder / f"{digest.hexdigest()}.plan"


def read_plan(path: Path) -> memoryview | None:
    """A plan, if it is there and whole; says so where it is damaged."""
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read (%s): building the engine again", path, error.strerror)
        return None
    start = len(_FORMAT) + 2 * hashlib.sha256().digest_size + 1
    plan = content[start:]
    if content[:start] != _header(plan):
        _log.warning("%s is damaged: building the engine again", path)
        return None
    return plan


def write_plan(path: Path, plan: memoryview) -> None:
    """Keeps a plan; where the disk does not take it, says so and goes on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            file.write(_header(plan))
            file.write(plan)
    except OSError as error:  # OutputError is one
        reason = error if isinstance(error, OutputError) else error.strerror
        _log.warning("the engine is not kept for the next run: %s (%s)", path, reason)


def _header(plan: memoryview) -> bytes:
    return _FORMAT + hashlib.sha256(plan).hexdigest().encode() + b"\n"
