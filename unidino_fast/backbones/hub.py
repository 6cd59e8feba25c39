"""Weights over the network: timm's models and files in Hugging Face repositories."""

from __future__ import annotations

import difflib
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unidino_fast.backbones.checkpoint import shown
from unidino_fast.errors import UsageError, WeightsError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_CANDIDATES = ("model.safetensors", "pytorch_model.bin")
_SPEC = re.compile(r"(?P<repo>[^@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<file>\S+))?")
_NETWORK_ERRORS = (
    "EntryNotFoundError",
    "HfHubHTTPError",
    "HFValidationError",
    "HTTPError",  # httpx's, whose base is no OSError
    "RevisionResolutionError",
    "XetDownloadError",
)


@dataclass(frozen=True)
class HubFile:
    """A downloaded file and the repository it is from."""

    path: Path
    repository: str


def create_timm(name: str, label: str) -> Any:
    """A pretrained model of timm's, without its classifier.

    Raises:
        UsageError: the name is missing.
        WeightsError: timm has no such model, or its weights cannot be had.
    """
    import timm

    if not name:
        raise UsageError(f"{label} is malformed: write timm:MODEL")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_pretrained("vit_*"), n=3)
        hint = f"did you mean {', '.join(near)}" if near else "see timm.list_pretrained()"
        raise WeightsError(f"{label}: timm has no model {shown(name)!r}: {hint}")
    try:
        with torch.random.fork_rng(devices=[]), _quiet_hub():
            return timm.create_model(name, pretrained=True, num_classes=0)
    except _hub_errors(RuntimeError) as error:
        if isinstance(error, RuntimeError):  # no such tag, no weights: timm says it in a line
            remedy = "choose one of timm.list_pretrained()"
        else:
            remedy = (
                f"download huggingface.co/timm/{name} on a machine with a connection "
                "and pass its model.safetensors"
            )
        reason = shown(first_line(error), 160)
        raise WeightsError(f"{label} cannot be fetched ({reason}): {remedy}") from error


def fetch(spec: str, label: str) -> HubFile:
    """The weights file of `REPO[@REVISION][:FILENAME]`, downloaded or from the cache.

    Without a file name: model.safetensors, pytorch_model.bin, or the one *.pth of the repository.
    Its config.json comes along, to lie beside it, where there is one.

    Raises:
        UsageError: malformed.
        WeightsError: unknown, or not to be had.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        raise UsageError(f"{label} is malformed: write hf:REPO[@REVISION][:FILENAME]")
    repository, revision = parts["repo"], parts["revision"]
    try:
        with _quiet_hub():
            path = _weights(repository, revision, parts["file"], label)
            _config(repository, revision)
    except _hub_errors() as error:
        raise WeightsError(
            f"{label} cannot be fetched ({shown(first_line(error), 160)}): check the name and the "
            f"connection, or download {repository} elsewhere and pass the file"
        ) from error
    return HubFile(path, repository)


def _weights(repository: str, revision: str | None, file: str | None, label: str) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    unreachable: Exception | None = None
    for candidate in (file,) if file else _CANDIDATES:
        try:
            # Once unreachable only the cache is asked: each trial would wait for the network.
            return _download(repository, candidate, revision, cached=unreachable is not None)
        except LocalEntryNotFoundError as error:
            unreachable = unreachable or error
        except EntryNotFoundError as error:
            if file:
                raise WeightsError(
                    f"{label}: {repository} has no file {file}: see its list of files"
                ) from error
    if unreachable is not None:
        raise unreachable
    return _download(repository, _only_pth(repository, revision, label), revision)


def _only_pth(repository: str, revision: str | None, label: str) -> str:
    from huggingface_hub import list_repo_files

    files = [name for name in list_repo_files(repository, revision=revision) if _is_pth(name)]
    if len(files) != 1:
        found = f"has {', '.join(files[:8])}" if files else "has no weights file known here"
        raise WeightsError(f"{label}: {repository} {found}: name one, hf:{repository}:FILENAME")
    return files[0]


def _is_pth(name: str) -> bool:
    return name.endswith(".pth")


def _download(repository: str, file: str, revision: str | None, *, cached: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(repository, filename=file, revision=revision, local_files_only=cached)
    )


def _config(repository: str, revision: str | None) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        _download(repository, "config.json", revision)
    except EntryNotFoundError:  # none there, or none in the cache: both mean doing without
        return


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's client warns of every trial; ours is one line, at the end of them."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _hub_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What the hub's client raises; the list differs between its versions."""
    from huggingface_hub import errors

    found = (getattr(errors, name, None) for name in _NETWORK_ERRORS)
    return (OSError, *more, *(error for error in found if error is not None))
