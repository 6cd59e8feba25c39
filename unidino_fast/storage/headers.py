"""What the headers of an answer say of its body, and whether it is the span that was asked for.

A server or a proxy that answers with another span would otherwise give other pixels in silence:
codecs without a checksum decode whatever has the right length.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unidino_fast.names import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_TAG = 100
_SPAN = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(?:\d+|\*)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of an answer say.

    Attributes:
        is_span: the body is a span of the object, not the whole.
        length: bytes of the body, where told.
        size: bytes of the whole object, where told.
        tag: which version of the object it is, where told.
        span: first and last byte of the span, where told.
    """

    is_span: bool
    length: int | None
    size: int | None
    tag: str | None
    span: tuple[int, int] | None = None


def head_of(status: int, headers: Mapping[str, str]) -> Head:
    """What an answer's headers say (names in lower case, or case does not matter).

    The tag is the ETag; where there is none, the time of the last change and the size.
    """
    is_span = status == 206
    is_encoded = headers.get("content-encoding", "identity") not in ("", "identity")
    length = None if is_encoded else _number(headers.get("content-length"))
    place = headers.get("content-range", "").strip() if is_span else ""
    size = _number(place.rpartition("/")[2]) if is_span else length
    found = _SPAN.fullmatch(place)
    span = (int(found[1]), int(found[2])) if found else None
    if etag := headers.get("etag", "").strip().removeprefix("W/"):
        return Head(is_span, length, size, short_tag(f"ETag {etag}"), span)
    modified = headers.get("last-modified")
    facts = [f"modified {modified}"] if modified else []
    facts += [] if size is None else [f"{size} bytes"]
    return Head(is_span, length, size, short_tag(", ".join(facts)) if facts else None, span)


def range_header(start: int | None, stop: int | None) -> dict[str, str]:
    """The header that asks for the span `[start:stop]`; none for the whole object."""
    if start is None:
        return {}
    if start < 0:
        return {"Range": f"bytes={start}"}
    return {"Range": f"bytes={start}-{'' if stop is None else max(stop - 1, start)}"}


def check_span(head: Head, start: int | None, stop: int | None) -> None:
    """Compares the span that a server sent with the one that was asked for, `[start:stop]`.

    One that reaches beyond the object's end is sent up to there (RFC 9110, 14.1.2). A span whose
    place is not told is taken for the right one only if it is told to be no longer than that.

    Raises:
        OSError: it is another.
    """
    if not head.is_span:
        return
    most = asked_bytes(start, stop)
    if head.span is None:
        if start is None or head.length is None or (most is not None and head.length > most):
            told = "a part" if head.length is None else f"{head.length} bytes"
            raise OSError(f"the server sent {told} of unknown place where {_words(start, stop)}")
        return
    first, last = head.span
    n_bytes = last - first + 1
    if head.size is not None:
        fits = head.span == _expected(start, stop, head.size)
    elif start is not None and start < 0:
        fits = n_bytes <= -start  # the size alone would tell where that begins
    else:
        fits = first == (start or 0) and (most is None or n_bytes <= most)
    if not fits:
        raise OSError(f"the server sent bytes {first}-{last} where {_words(start, stop)}")
    if head.length is not None and head.length != n_bytes:
        raise OSError(f"the server sent {head.length} bytes as bytes {first}-{last}")


def asked_bytes(start: int | None, stop: int | None) -> int | None:
    """Bytes that the answer to `range_header` has at most; None where it may have any number."""
    if start is not None and start < 0:
        return -start
    return None if start is None or stop is None else max(stop - start, 1)


def _expected(start: int | None, stop: int | None, size: int) -> tuple[int, int]:
    """First and last byte that a span of an object of this size has."""
    if start is None:
        return 0, size - 1
    if start < 0:
        return max(size + start, 0), size - 1
    return start, (size if stop is None else min(max(stop, start + 1), size)) - 1


def _words(start: int | None, stop: int | None) -> str:
    if start is None:
        return "all of it was asked for"
    if start < 0:
        return f"the last {-start} were asked for"
    end = "" if stop is None else max(stop - 1, start)
    return f"{start}-{end} were asked for"


def _number(text: str | None) -> int | None:
    """Of a header; None where it is no decent number."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def short_tag(tag: str) -> str:
    """A server's words, fit for messages and of bounded length."""
    if len(tag) <= _LONGEST_TAG:
        return one_line(tag)
    return f"{one_line(tag[:20])}... {hashlib.sha256(tag.encode(errors='replace')).hexdigest()}"
