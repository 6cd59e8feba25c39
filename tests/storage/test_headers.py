"""What headers say: versions of objects, and which span of one has come."""

from __future__ import annotations

import re

import pytest

from unidino_fast.storage.headers import check_span, head_of


@pytest.mark.parametrize(
    ("headers", "tag"),
    [
        ({"etag": '"a"', "last-modified": "x", "content-length": "5"}, 'ETag "a"'),
        ({"etag": 'W/"a"', "content-length": "5"}, 'ETag "a"'),
        ({"etag": '"a\x1b\nb"'}, 'ETag "a_ b"'),
        ({"last-modified": "Sun", "content-length": "5"}, "modified Sun, 5 bytes"),
        ({"last-modified": "Sun", "content-length": "5", "content-encoding": "gzip"},
         "modified Sun"),
        ({"content-length": "5"}, "5 bytes"),
        ({"content-length": "-5"}, None),
        ({"content-length": "²"}, None),
        ({"content-length": "9" * 40}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_tag_of_an_answer(headers: dict[str, str], tag: str | None) -> None:
    assert head_of(200, headers).tag == tag


def test_a_span_has_the_tag_of_its_object() -> None:
    whole = head_of(200, {"last-modified": "Sun", "content-length": "768"})
    span = head_of(
        206,
        {"last-modified": "Sun", "content-length": "1", "content-range": "bytes 0-0/768"},
    )
    assert (span.tag, span.size, span.length) == (whole.tag, 768, 1)
    assert head_of(206, {"content-range": "bytes 0-0/*"}).size is None


def test_long_tags_are_cut_and_stay_apart() -> None:
    tags = [head_of(200, {"etag": "x" * 10_000 + end}).tag for end in "ab"]
    assert tags[0] != tags[1]
    assert all(tag is not None and len(tag) < 120 for tag in tags)


RIGHT = [
    (0, 10, "bytes 0-9/100"), (0, 10, "bytes 0-9/*"), (90, 200, "bytes 90-99/100"),
    (90, 200, "bytes 90-99/*"), (7, None, "bytes 7-99/100"), (7, None, "bytes 7-99/*"),
    (-20, None, "bytes 80-99/100"), (-20, None, "bytes 80-99/*"), (-200, None, "bytes 0-99/100"),
    (5, 5, "bytes 5-5/100"), (None, None, "bytes 0-99/100"), (0, 1, "Bytes 0-0/1"),
]  # fmt: skip
WRONG = [
    (30, 40, "bytes 0-9/100", "the server sent bytes 0-9 where 30-39 were asked for"),
    (30, 40, "bytes 0-9/*", "the server sent bytes 0-9 where 30-39 were asked for"),
    (30, 40, "bytes 30-34/100", "the server sent bytes 30-34 where 30-39 were asked for"),
    (30, 40, "bytes 30-49/*", "the server sent bytes 30-49 where 30-39 were asked for"),
    (7, None, "bytes 7-50/100", "the server sent bytes 7-50 where 7- were asked for"),
    (-20, None, "bytes 0-19/100", "the server sent bytes 0-19 where the last 20 were asked for"),
    (-20, None, "bytes 0-99/*", "the server sent bytes 0-99 where the last 20 were asked for"),
    (None, None, "bytes 0-49/100", "the server sent bytes 0-49 where all of it was asked for"),
    (None, None, "bytes 5-99/*", "the server sent bytes 5-99 where all of it was asked for"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "stop", "told"), RIGHT)
def test_the_span_that_was_asked_for(start: int | None, stop: int | None, told: str) -> None:
    first, last = (int(place) for place in told.split()[1].split("/")[0].split("-"))
    lengths: list[dict[str, str]] = [{}, {"content-length": str(last - first + 1)}]
    for length in lengths:
        check_span(head_of(206, {"content-range": told, **length}), start, stop)


@pytest.mark.parametrize(("start", "stop", "told", "message"), WRONG)
def test_another_span(start: int | None, stop: int | None, told: str, message: str) -> None:
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        check_span(head_of(206, {"content-range": told}), start, stop)


@pytest.mark.parametrize("told", [None, "bytes */100", "lines 3-9/100", "bytes 1-\u00b2/9"])
def test_a_span_of_unknown_place_must_be_told_to_fit(told: str | None) -> None:
    place = {} if told is None else {"content-range": told}
    check_span(head_of(206, {"content-length": "10", **place}), 30, 40)
    check_span(head_of(206, {"content-length": "4", **place}), 30, 40)
    for length, start, sent in (("100", 30, "100 bytes"), (None, 30, "a part"),
                                ("10", None, "10 bytes")):  # fmt: skip
        headers = place if length is None else {"content-length": length, **place}
        with pytest.raises(OSError, match=f"sent {sent} of unknown place where .* asked for"):
            check_span(head_of(206, headers), start, None if start is None else 40)


def test_a_length_that_is_not_that_of_the_span() -> None:
    head = head_of(206, {"content-range": "bytes 30-39/100", "content-length": "100"})
    with pytest.raises(OSError, match="sent 100 bytes as bytes 30-39"):
        check_span(head, 30, 40)


def test_a_whole_object_has_no_span() -> None:
    check_span(head_of(200, {"content-range": "bytes 0-9/100", "content-length": "100"}), 30, 40)
