"""Pages of the documentation, taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
_FETCHING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        if held.get("id"):
            self.ids.add(str(held["id"]))
        if tag == "a" and held.get("href"):
            self.links.append(str(held["href"]))
        if tag in _FETCHING and held.get(_FETCHING[tag]) and held.get("rel") != "canonical":
            self.fetched.append(str(held[_FETCHING[tag]]))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


@dataclass
class HtmlPage:
    """A page of the site.

    Attributes:
        path: of its file.
        links: where its links lead.
        fetched: what a browser fetches for it.
        ids: anchors.
    """

    path: Path
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    text: str = ""

    @classmethod
    def read(cls, path: Path) -> HtmlPage:
        parser = _Parser()
        parser.feed(path.read_text())
        text = " ".join("".join(parser.words).split())
        return cls(path, parser.links, parser.fetched, parser.ids, text)

    def target(self, link: str) -> tuple[Path, str]:
        """File and anchor that a link within the site leads to."""
        parts = urlsplit(link)
        path = self.path.parent / unquote(parts.path) if parts.path else self.path
        return path.resolve(), unquote(parts.fragment)


@dataclass(frozen=True)
class Site:
    """The built site."""

    folder: Path

    @cached_property
    def pages(self) -> dict[str, HtmlPage]:
        """Every page by its path below the folder, without the suffix."""
        return {
            path.relative_to(self.folder).with_suffix("").as_posix(): HtmlPage.read(path.resolve())
            for path in sorted(self.folder.rglob("*.html"))
        }
