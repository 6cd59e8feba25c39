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
    with _replacing(path) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Writes a file as `atomic` does, in fewer steps: of small ones each step counts.

    Raises:
        OutputError: the file cannot be written.
    """
    with _replacing(path) as temporary, temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `atomic`, of a file that its writer takes to the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
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
