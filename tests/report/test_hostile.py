"""A platemap written by somebody who means harm: its text is shown, and does nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from report_tables import made_up, table

from unidino_fast.report import ReportOptions, write_reports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Visit

ATTACKS = [
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=2</script>",
    "<!--<script>window.pwned=3",
    "\"'><img src=x onerror=window.pwned=4>",
    "javascript:window.pwned=5",
    "{{ 7 * 7 }}{% raw %}",
    "${window.pwned=6}`'+(window.pwned=7)+'",
    "datum.x]; window.pwned=8; [",
    '=HYPERLINK("http://evil.example","x")',
    "+cmd|' /C calc'!A0",
    "x" * 10_000,
    "x" * 9_999 + "y",
    "\u202eevil\u202c \u2066isolate",
    "שלום עולם",
    "line\u2028separator\x00\x1b[31m",
    "&lt;b&gt;&amp;",
]


def hostile(folder: Path) -> Path:
    """Results whose every label, column and file text is an attack."""
    frame = table(plate="<b>P</b>")
    names = [ATTACKS[i % len(ATTACKS)] for i in range(len(frame))]
    frame = frame.with_columns(
        pl.Series("Metadata_Compound", names),
        pl.Series("Metadata_MoA", [names[(i * 7) % len(names)] for i in range(len(names))]),
        pl.Series("Metadata_<img src=x onerror=window.pwned=9>", names),
        pl.Series('Metadata_"];window.pwned=10;//', names),
        pl.Series("Metadata_Role", ["negcon" if i % 2 else names[i] for i in range(len(names))]),
        pl.Series("Metadata_QC_Flags", [names[0], *[""] * (len(names) - 1)]),
    )
    metadata = frame.select(pl.selectors.starts_with("Metadata_"))
    features = frame.select(~pl.selectors.starts_with("Metadata_"))
    features = features.rename(lambda name: name.replace("DNA", "<i onclick=x>'\"]"))
    made_up(
        folder / "P",
        pl.concat([metadata, features], how="horizontal"),
        warnings=ATTACKS,
        left_out={ATTACKS[0]: ATTACKS[1]},
        location=ATTACKS[3],
    )
    quality = {"warnings": ATTACKS, "counts": {ATTACKS[0]: 3}, "n_flagged": 3, "checks": ATTACKS}
    (folder / "P" / "qc.json").write_text(json.dumps(quality))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of them."""
    folder = tmp_path_factory.mktemp("hostile")
    return write_reports(hostile(folder / "results"), folder / "page.html", ReportOptions())[0]


class Elements(HTMLParser):
    """Elements and attributes of a page, as a browser would build them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.images += [value or "" for name, value in attrs if tag == "img" and name == "src"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_no_element_comes_from_data(page: Path) -> None:
    found = Elements()
    found.feed(page.read_text(encoding="utf-8"))
    assert found.tags.count("script") == 3  # data, Vega, the page's own
    assert found.handlers == []
    assert not {"i", "b", "iframe", "object", "embed"} & set(found.tags)
    # figures for browsers without scripts, of our own drawing
    assert len(found.images) == found.tags.count("img") == 5
    assert all(re.fullmatch(r"data:image/png;base64,[\w+/=]+", image) for image in found.images)


def test_data_are_one_whole_json_document(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    [held] = re.findall(r'<script type="application/json" id="document">(.*?)</script>', text, re.S)
    assert not set("<>&") & set(held)
    document = json.loads(held)
    shown = {row["m0"] for row in document["data"]["wells"]}
    assert "<script>window.pwned=1</script>" in shown  # as text
    assert "x" * 61 not in held
    assert len({name for name in shown if name.startswith("xxxx")}) == 2  # still two names


def test_long_names_do_not_swell_the_page(page: Path) -> None:
    assert page.stat().st_size < 2_000_000


def test_text_direction_cannot_be_overridden(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    document = text[: text.index("window.vegaEmbed")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\x00\x1b]", document)
    assert "שלום" in text


def test_nothing_runs_in_a_browser(page: Path, visit: Callable[..., Visit]) -> None:
    seen = visit(page)
    browser: Any = seen.page
    choices = browser.locator("select[data-choice]")
    for index in range(choices.count()):
        for option in range(choices.nth(index).locator("option").count()):
            choices.nth(index).select_option(index=option)
    assert browser.locator("#unusual table button").count() > 5
    for place in range(5):
        browser.locator("#unusual table button").nth(place).click()
        browser.keyboard.press("Escape")
    for well in ("A01", "A04", "A11"):
        browser.select_option("select[data-well]", well.replace("A11", "B03"))
    browser.keyboard.press("Escape")
    browser.locator("#chart-map-distance g[class*=layer_1_marks] path").nth(9).hover()
    browser.locator("#chart-map-distance g[class*=layer_1_marks] path").nth(10).hover()
    browser.wait_for_selector("#tip:visible")
    assert browser.evaluate("window.pwned") is None
    assert browser.evaluate("document.querySelectorAll('#tip img, #well img').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1280
    assert (seen.complaints, seen.requests) == ([], [])


def test_the_policy_stops_what_would_slip_through(page: Path, visit: Callable[..., Visit]) -> None:
    browser = visit(page).page
    browser.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        " document.body.append(s);"
        " document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.pwned=2>'); }"
    )
    browser.wait_for_timeout(100)
    assert browser.evaluate("window.pwned") is None
