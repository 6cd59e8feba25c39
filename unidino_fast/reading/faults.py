"""What is said of a chunk that cannot be read."""

from __future__ import annotations

from unidino_fast.errors import PixelError, first_line
from unidino_fast.names import one_line
from unidino_fast.storage import ServerError

_PAGE_BEGINS = (b"<!doctype html", b"<html")
_PAGE_ENDS = b"</html>"


def refuse_page(found: memoryview, *, is_remote: bool) -> None:
    """Raises where a chunk that is none is a web page, or one's end, as servers send to log in.

    Raises:
        PermissionError: a server has sent it.
        ValueError: it was kept, by whatever copied the plate.
    """
    begins = bytes(found[:64]).lstrip().lower().startswith(_PAGE_BEGINS)
    if begins or bytes(found[-64:]).rstrip().lower().endswith(_PAGE_ENDS):
        fault = PermissionError if is_remote else ValueError
        raise fault("a web page is in its place")


def chunk_error(key: str, reason: BaseException | str) -> PixelError:
    """The error that names a stored object and why it cannot be read."""
    why = reason if isinstance(reason, str) else first_line(reason)
    remedy = "restore it from its source"
    if isinstance(reason, ServerError):
        remedy = "run the same command again later"
    elif isinstance(reason, PermissionError):
        remedy = "check your access to it"
    return PixelError(f"chunk {key} cannot be read ({one_line(why)}): {remedy}")
