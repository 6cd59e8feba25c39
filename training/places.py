"""Where a run's data lie: paths of the TOML file, or those typed as `--data NAME=PATH`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidino_fast.errors import UsageError

if TYPE_CHECKING:
    from unidino_fast.training.config import TrainConfig

PROBE = ("probe", "probe.platemap")
"""What `--data` calls the probe's plate and its platemap."""


def with_paths(config: TrainConfig, file: Path, given: dict[str, str]) -> TrainConfig:
    """The configuration of `file` with the paths that were given, else its own, relative to it.

    Raises:
        UsageError: a name that the file does not have, or data without a path.
    """
    names = [source.name for source in config.data]
    tables = {source.name: f"{source.name}.platemap" for source in config.data if source.label}
    known = [*names, *tables.values(), *(PROBE if config.probe else ())]
    for name in given:
        if name not in known:
            raise UsageError(f"--data {name} names no dataset of {file}: use {', '.join(known)}")
    placed = []
    for source in config.data:
        what = f"dataset {source.name}"
        path = _place(source.path, given.get(source.name), file, what, source.name)
        table = source.platemap
        if source.label is not None:
            key = tables[source.name]
            table = _place(table, given.get(key), file, f"the platemap of {what}", key)
        placed.append(source.model_copy(update={"path": path, "platemap": table}))
    found: dict[str, Any] = {"data": tuple(placed)}
    if config.probe is not None:
        plate, table = PROBE
        found["probe"] = config.probe.model_copy(
            update={
                "plate": _place(config.probe.plate, given.get(plate), file, "the probe", plate),
                "platemap": _place(
                    config.probe.platemap, given.get(table), file, "the probe's platemap", table
                ),
            }
        )
    if config.init is not None:
        found["init"] = _weights(config.init, file)
    return config.model_copy(update=found)


def _place(own: str | None, given: str | None, file: Path, what: str, name: str) -> str:
    """A path: the one that was typed, else the file's own, which is relative to it."""
    if given is not None:
        return str(Path(given).expanduser()) if given.startswith("~") else given
    if own is None:
        raise UsageError(f"{what} of {file} has no path: add --data {name}=PATH")
    return own if "://" in own else str(file.parent / Path(own).expanduser())


def _weights(text: str, file: Path) -> str:
    """Weights as `--weights` takes them; a file is looked for beside the configuration first."""
    beside = file.parent / Path(text).expanduser()
    return str(beside) if beside.is_file() else text
