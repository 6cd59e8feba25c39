"""The exception family: every message is one line that names the thing, the rule and the remedy.

The command line prints the message alone and leaves with `exit_code`: 2 when what was typed is
wrong, 1 when something on disk or in a file is.
"""

from __future__ import annotations


class UnidinoError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(UnidinoError, ValueError):
    """An option or argument that cannot be meant: the caller's fault."""

    exit_code = 2


class PlateError(UnidinoError, ValueError):
    """A plate whose metadata is missing, broken or unsafe."""


class PixelError(UnidinoError, ValueError):
    """Pixels that cannot be read, decoded or embedded."""


class WeightsError(UnidinoError, ValueError):
    """Weights that are missing, unsafe to open, or of another architecture."""


class EngineError(UnidinoError, RuntimeError):
    """An engine that cannot be built or run, or whose embeddings differ from the reference."""


class TableError(UnidinoError, ValueError):
    """A platemap or profile table that lacks what was asked of it."""


class ConvertError(UnidinoError, ValueError):
    """Image files that do not make a plate."""


class OutputError(UnidinoError, OSError):
    """An output folder that cannot be written, or that holds another run's results."""


class TrainingError(UnidinoError, RuntimeError):
    """Images that cannot be trained on, or a training that has failed."""


class ClusterError(UnidinoError, RuntimeError):
    """Workers that do not start, or a scheduler that is gone."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none.

    Libraries' messages run over many lines; ours quote the first.
    """
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
