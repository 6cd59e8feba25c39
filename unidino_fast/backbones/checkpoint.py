"""Checkpoint files: what a file is by its bytes, and a reading that never runs code in it."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from unidino_fast.errors import WeightsError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Kind = Literal["torch", "safetensors"]

_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit
_LFS = b"version https://git-lfs"
_UNSAFE = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)")
_UNPICKLER = re.compile(r"WeightsUnpickler error: (.+)")

# What torch's reader lets through on damaged bytes: any step of its pickle machine may trip.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class _Unread:
    """Stands in for values that no backbone needs: numpy numbers and paths in training state.

    DINO's optimizer state holds its learning rates as numpy scalars. Instead of letting the file
    call numpy, every such name is this class, which takes anything and does nothing.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_UNREAD_NAMES = (
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
)

# As pairs, so that leaving the context does not take away what a caller had allowed for himself.
_SAFE_GLOBALS: list[Any] = [
    (argparse.Namespace, "argparse.Namespace"),
    *((_Unread, name) for name in _UNREAD_NAMES),
]
_SAFE_GLOBALS_LOCK = threading.Lock()  # torch keeps them in one list for the whole process


@dataclass(frozen=True)
class Checkpoint:
    """A file's content: `entries` as stored, and the metadata of a safetensors file."""

    kind: Kind
    entries: Mapping[str, object]
    metadata: Mapping[str, str]


def read_checkpoint(path: Path, label: str) -> Checkpoint:
    """Reads a torch checkpoint (zip or legacy) or a safetensors file, told apart by their bytes.

    Args:
        path: the file.
        label: how messages name it.

    Raises:
        WeightsError: there is no such file, it is neither format, it is damaged, or loading it
            would need to run code.
    """
    if _sniff(path, label) == "safetensors":
        return _read_safetensors(path, label)
    content = _read_torch(path, label)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise WeightsError(
            f"{label} holds a {type(content).__name__} instead of named tensors: "
            "save a state dict or a training checkpoint"
        )
    return Checkpoint("torch", content, {})


def shown(text: str, limit: int = 80) -> str:
    """Text out of a file, fit for one line of a message."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _sniff(path: Path, label: str) -> Kind:
    try:
        with path.open("rb") as file:
            head = file.read(64)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise WeightsError(f"{label} does not exist: check the path to the weights") from error
    except IsADirectoryError as error:
        raise WeightsError(f"{label} is a folder, not weights: name the file in it") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{label} cannot be read: {first_line(error)}") from error
    if not head:
        raise WeightsError(f"{label} is empty, not weights: download it again")
    if head.startswith(_LFS):
        raise WeightsError(f"{label} is a git-LFS pointer, not weights: run git lfs pull")
    # First, for a header's length may begin with the byte of a pickle.
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header <= _HEADER_LIMIT:
        if 8 + header > size:
            raise WeightsError(
                f"{label} is a truncated safetensors file (its header alone needs {8 + header:,} "
                f"bytes, the file has {size:,}): download or copy it again"
            )
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    start = shown(head[:16].decode("latin-1"))
    raise WeightsError(
        f"{label} is no weights file (it begins with {start!r}): "
        "a torch checkpoint or a safetensors file is needed"
    )


def _read_torch(path: Path, label: str) -> object:
    try:
        # A handle, not the path: torch would go by the file's extension.
        with (
            _SAFE_GLOBALS_LOCK,
            path.open("rb") as file,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_SAFE_GLOBALS),
        ):
            warnings.simplefilter("ignore")  # TorchScript, pickle protocol: errors follow
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(str(error), label)) from error
    except _DAMAGE as error:
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{label} is a TorchScript program, not weights: save its state dict instead"
            ) from error
        raise WeightsError(
            f"{label} is truncated or damaged ({shown(first_line(error), 160)}): "
            "download or copy it again"
        ) from error


def _refusal(message: str, label: str) -> str:
    """The line for what torch's weights-only reader refused to do."""
    if unsafe := _UNSAFE.search(message):
        return (
            f"{label} wants to call {shown(unsafe[1])} while it loads: refused, nothing was run; "
            "use a file that holds tensors alone, such as safetensors"
        )
    detail = _UNPICKLER.search(message)
    reason = shown(detail[1].strip() if detail else "not a pickle of tensors", 160)
    return (
        f"{label} is damaged or holds more than tensors ({reason}): refused, nothing was run; "
        "use a file that holds tensors alone, such as safetensors"
    )


def _read_safetensors(path: Path, label: str) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, *_DAMAGE) as error:
        raise WeightsError(
            f"{label} is a truncated or damaged safetensors file "
            f"({shown(first_line(error), 160)}): download or copy it again"
        ) from error
    return Checkpoint("safetensors", tensors, metadata)
