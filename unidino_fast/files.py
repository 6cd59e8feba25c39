"""Atomic writes: a file is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unidino_fast.errors import OutputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TEMPORARY = ".*.tmp"
"""Pattern of the names that files have while they are written."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it there on success, removes it otherwise.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # whoever removes the folder takes the temporary file first: both look alike from here
        if isinstance(error, FileNotFoundError) or not path.parent.exists():
            raise OutputError(
                f"{path} cannot be written: its folder is not there, or is being removed: run the"
                " same command again, or choose another --out"
            ) from error
        raise OutputError(
            f"{path} cannot be written ({reason_of(error)}): free the disk or choose another --out"
        ) from error


def reason_of(error: OSError) -> str:
    """Why the system refused, without number and path: `No space left on device`."""
    return error.strerror or re.sub(r" \(os error \d+\)$", "", first_line(error))


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Writes a JSON object, indented.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic(path) as temporary:
        text = json.dumps(document, indent=2, ensure_ascii=False)
        # a lone surrogate, which JSON can hold and UTF-8 not, becomes its escape again
        temporary.write_bytes(f"{text}\n".encode(errors="backslashreplace"))
