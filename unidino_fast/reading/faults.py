"""What is said of a chunk that cannot be read."""

from __future__ import annotations

from unidino_fast.errors import PixelError, first_line
from unidino_fast.names import one_line
from unidino_fast.storage import ServerError


def chunk_error(key: str, reason: BaseException | str) -> PixelError:
    """The error that names a stored object and why it cannot be read."""
    why = reason if isinstance(reason, str) else first_line(reason)
    remedy = "restore it from its source"
    if isinstance(reason, ServerError):
        remedy = "run the same command again later"
    elif isinstance(reason, PermissionError):
        remedy = "check your access to it"
    return PixelError(f"chunk {key} cannot be read ({one_line(why)}): {remedy}")
