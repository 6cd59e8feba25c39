"""Command lines in the documentation are ones that the commands take."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest
import typer.main
from docs_pages import ROOT

from unidino_fast.cli import app

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def lines_of(text: str) -> list[str]:
    """The calls of unidino-fast in the shell blocks of a page."""
    blocks = re.findall(r"^ *```(?:sh|bash)\n(.*?)```", text, re.M | re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.split("\n") if line.strip().startswith("unidino-fast")]


def parse(line: str) -> None:
    """Raises what the command would say of its arguments, and runs nothing."""
    _, name, *arguments = shlex.split(line, comments=True)
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_command_lines(page: Path) -> None:
    for line in lines_of(page.read_text()):
        parse(line)


def test_examples_in_help_texts() -> None:
    found = []
    for command in COMMANDS.values():
        for paragraph in command.help.split("\n\n"):
            _, called, arguments = " ".join(paragraph.split()).partition("unidino-fast ")
            found += [called + arguments] if called else []
    assert len(found) > 8
    for line in found:
        parse(line)


def test_there_are_many() -> None:
    assert sum(len(lines_of(page.read_text())) for page in PAGES) > 80


def test_a_line_that_no_command_takes_is_found() -> None:
    with pytest.raises(Exception, match="--colour"):
        parse("unidino-fast embed plate.zarr --out results --colour red")
