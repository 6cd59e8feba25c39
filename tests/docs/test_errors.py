"""The page of errors quotes messages that the code has."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
from docs_pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

GAP = "…"
_QUOTED = re.compile(r"^(`+) ?(.+?) ?\1\n:   ", re.M)


def messages() -> list[str]:
    """What the page quotes, with gaps where names and numbers stand."""
    return [text for _, text in _QUOTED.findall((ROOT / "docs/errors.md").read_text())]


def templates() -> Iterator[str]:
    """Every text in the code, with gaps where something is put in."""
    for top in ("unidino_fast", "training"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else GAP
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def says(template: str, fragments: list[str]) -> bool:
    """Whether a text has the fragments, one after the other."""
    at = 0
    for fragment in fragments:
        at = template.find(fragment, at)
        if at < 0:
            return False
        at += len(fragment)
    return True


@pytest.fixture(scope="module")
def known() -> list[str]:
    """The texts of the code."""
    return list(dict.fromkeys(templates()))


def test_each_message_is_in_the_code(known: list[str]) -> None:
    quoted = messages()
    assert len(quoted) > 60
    assert len(set(quoted)) == len(quoted)
    for message in quoted:
        fragments = message.split(GAP)
        assert max(map(len, fragments)) >= 10, f"{message}: too little to tell it by"
        assert any(says(text, fragments) for text in known), f"no code says: {message}"


def test_a_message_that_nobody_says_is_found(known: list[str]) -> None:
    assert any(says(text, ["tile ", " does not fit field "]) for text in known)
    assert not any(says(text, ["tile ", " does not suit field "]) for text in known)
