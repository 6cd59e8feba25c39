"""The site is whole: pages, links, equations, and nothing that needs a network."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import typer.main
from docs_pages import ROOT, Site
from typer.testing import CliRunner

import unidino_fast as uf
from unidino_fast.cli import app

COMMANDS = typer.main.get_command(app).commands
ANCHORED = ("errors", "outputs", "method", "evaluation", "commands/embed", "library")


def test_every_page_is_there_and_can_be_reached(site: Site) -> None:
    written = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    wanted = written | {f"commands/{name}" for name in COMMANDS}
    wanted |= {"changelog", "contributing", "kernel-floors", "measurements"}
    assert set(site.pages) == wanted | {"404"}
    reached = {site.pages["index"].path}
    begun = [site.pages["index"]]
    by_path = {page.path: page for page in site.pages.values()}
    while begun:
        page = begun.pop()
        found = {page.target(link)[0] for link in page.links if not urlsplit(link).scheme}
        fresh = (found & set(by_path)) - reached
        reached |= fresh
        begun += [by_path[path] for path in fresh]
    assert {by_path[path].path.stem for path in set(by_path) - reached} == {"404"}


def test_links_lead_somewhere(site: Site) -> None:
    anchors = {page.path: page.ids for page in site.pages.values()}
    n_checked = 0
    for name, page in site.pages.items():
        for link in page.links if name != "404" else ():
            if urlsplit(link).scheme in ("http", "https", "mailto"):
                continue
            path, anchor = page.target(link)
            assert path.is_file(), f"{name}: {link}"
            assert not anchor or anchor in anchors[path] | {"__skip"}, f"{name}: {link}"
            n_checked += 1
    assert n_checked > 1000


def test_nothing_is_fetched_from_elsewhere(site: Site) -> None:
    for name, page in site.pages.items():
        if name == "404":  # has addresses from the root of a server, which no page links to
            continue
        assert page.fetched
        for link in page.fetched:
            assert not urlsplit(link).scheme, f"{name}: {link}"
            assert not link.startswith("/"), f"{name}: {link}"
            assert page.target(link)[0].is_file(), f"{name}: {link}"
    for style in site.folder.rglob("*.css"):
        found = re.findall(r"(?:@import|url\()\s*['\"]?([^'\")\s]+)", style.read_text())
        assert [url for url in found if not url.startswith("data:")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_page_says_what_its_help_says(site: Site, name: str) -> None:
    page, command = site.pages[f"commands/{name}"], COMMANDS[name]
    shown = CliRunner().invoke(app, [name, "--help"]).stdout
    options = set(re.findall(r"^  --([a-z][a-z-]*)", shown, re.M)) - {"help"}
    assert options <= page.ids
    assert len(options) == sum(one.param_type_name == "option" for one in command.params)
    texts = [one.help for one in command.params]
    for text in [*texts, *command.help.split("Example:")[0].split("\n\n")]:
        said = " ".join(text.replace("`", "").split()).partition("unidino-fast ")[0]
        assert said.strip() in page.text
    for choices in re.findall(r"<([a-z0-9._-]+(?:\|[a-z0-9._-]+)+)>", shown):
        assert choices.replace("|", " | ") in page.text
    assert f"unidino-fast {name} " in page.text.partition("Examples")[2]
    assert "Exit codes" in page.text


def test_the_library_is_complete(site: Site) -> None:
    page = site.pages["library"]
    assert {f"unidino_fast.{name}" for name in uf.__all__} - page.ids == {
        "unidino_fast.__version__"
    }
    assert "Where the plate" not in page.text
    assert "(N, 224, 224)" in page.text or "(N, " in page.text


def test_equations_are_mathml(site: Site) -> None:
    source = (ROOT / "docs/method.md").read_text()
    n_blocks, rest = source.count("$$") // 2, re.sub(r"\$\$.*?\$\$", "", source, flags=re.S)
    html = site.pages["method"].path.read_text()
    assert html.count('<div class="equation">') == n_blocks > 15
    found = re.findall(r"<math.*?</math>", html, re.S)
    assert len(found) == n_blocks + len(re.findall(r"\$[^$]+\$", rest))
    for equation in found:
        tree = ElementTree.fromstring(equation)
        words = "".join(tree.itertext())
        assert "\\" not in words, words  # a command that was not understood
    assert 'class="arithmatex"' not in html


def test_no_markup_is_left_over(site: Site) -> None:
    """A list or table that Markdown did not take for one shows as text."""
    for name, page in site.pages.items():
        for text in re.findall(r"<p>(.*?)</p>", page.path.read_text(), re.S):
            plain = re.sub(r"<[^>]+>", "", text)
            assert not re.search(r"(^|\n)\s*(- |\d+\. |\||```)|\]\(", plain), f"{name}: {plain}"
    assert not list(site.folder.rglob("hooks"))


def test_quick_start_says_what_comes_out(site: Site) -> None:
    text = site.pages["quickstart"].text
    assert "accuracy 0.972" in text
    assert "profiles.parquet" in text


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_it_opens_from_disk(site: Site, chromium: Any, width: int, dark: bool) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
    )
    page, complaints, elsewhere = context.new_page(), [], []
    page.set_default_timeout(10_000)
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:", "blob:")) or elsewhere.append(request.url)
        ),
    )
    for name in ANCHORED:
        page.goto(site.pages[name].path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    scheme = page.evaluate("document.body.dataset.mdColorScheme")
    assert scheme == ("slate" if dark else "default")
    search(page, "drop-qc", "/commands/profile.html", width)
    assert (complaints, elsewhere) == ([], [])
    context.close()


def search(page: Any, words: str, found: str, width: int) -> None:
    """Types into the search, and waits until it names a section of a page."""
    if width < 960:
        page.click("label.md-header__button[for=__search]")
    page.locator("input.md-search__input").press_sequentially(words)
    link = f".md-search-result__link[href*='{found}'][href$='#{words}']"
    page.wait_for_selector(link, state="attached")
