"""Pages in Chromium: pointed at, clicked, switched; nothing complains, nothing is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from report_tables import made_up, table

from unidino_fast.report import ReportOptions, build, write_reports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Visit

CELLS = "#chart-map-distance g[class*=layer_1_marks] path"


def fills(page: Any) -> list[str]:
    """The colours of the points of the projection, in order."""
    found: list[str] = page.eval_on_selector_all(
        "#chart-projection g.mark-symbol.role-mark path",
        "nodes => nodes.map(node => node.getAttribute('fill') || node.style.fill)",
    )
    return found


def use_it(seen: Visit, well: str, colour: str) -> None:
    """What a reader does, and that it does something."""
    page = seen.page
    cells = page.locator(CELLS)
    assert cells.count() > 40
    cells.nth(1).hover()  # scrolls there, which closes any tip
    cells.first.hover()
    page.wait_for_selector("#tip:visible")
    assert well in page.inner_text("#tip")
    assert "robust SD per feature" in page.inner_text("#tip")
    assert page.is_hidden("#well")
    cells.first.click()
    page.wait_for_selector("#well:visible")
    assert page.inner_text("#well-title") == f"Well {well}"
    images = page.locator("#well img")
    assert images.count() >= 2
    assert page.evaluate(
        "Promise.all([...document.querySelectorAll('#well img')].map(image => image.decode()))"
        ".then(() => [...document.querySelectorAll('#well img')].every(i => i.naturalWidth > 40))"
    )
    assert page.locator("#well svg rect").count() > 0  # the tiles
    page.keyboard.press("Escape")
    assert page.is_hidden("#well")
    before = fills(page)
    page.select_option("select[data-choice=colour]", label=colour)
    page.wait_for_function(
        "old => [...document.querySelectorAll('#chart-projection g.mark-symbol.role-mark path')]"
        ".map(node => node.getAttribute('fill') || node.style.fill).join() !== old.join()",
        arg=before,
    )
    assert len(fills(page)) == len(before)
    page.select_option("select[data-choice=way]", label="PCA")
    page.wait_for_function(
        "document.querySelector('#chart-projection').textContent.includes('of variance')"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_the_demo_plate(demo_page: Path, visit: Callable[..., Visit], dark: bool) -> None:
    seen = visit(demo_page, dark=dark)
    use_it(seen, "A01", "Compound")
    assert (seen.complaints, seen.requests) == ([], [])


@pytest.mark.real_data
def test_a_real_plate_of_doses(sbs_page: Path, visit: Callable[..., Visit]) -> None:
    seen = visit(sbs_page)
    page = seen.page
    assert page.locator("select[data-choice=colour] option").first.inner_text() == "SBS_Doses"
    assert "SBS_Controls is -1" in page.inner_text("#plate")
    use_it(seen, "A01", "SBS_Controls")
    assert (seen.complaints, seen.requests) == ([], [])


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(
    demo_page: Path, visit: Callable[..., Visit], width: int
) -> None:
    seen = visit(demo_page, width=width)
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.eval_on_selector_all(
        ".plot svg",
        "nodes => nodes.filter(n => { const a = n.getBoundingClientRect(),"
        " b = n.closest('.chart').getBoundingClientRect();"
        " return a.right > b.right + 1 || a.left < b.left - 1; }).length",
    )
    assert outside == 0
    cut = page.eval_on_selector_all(
        ".plot svg text",
        "nodes => nodes.filter(n => { const a = n.getBoundingClientRect(),"
        " b = n.closest('svg').getBoundingClientRect();"
        " return a.width && (a.right > b.right + 2 || a.left < b.left - 2); })"
        ".map(n => n.textContent)",
    )
    assert cut == []


def test_text_of_charts_does_not_overlap(demo_page: Path, visit: Callable[..., Visit]) -> None:
    """Labels of axes and legends keep clear of each other, on a desk and on a phone."""
    for width in (1280, 390):
        page = visit(demo_page, width=width).page
        clashes = page.evaluate(
            """() => [...document.querySelectorAll('.plot svg')].flatMap(svg => {
              const boxes = [...svg.querySelectorAll('text')]
                .filter(t => t.textContent && getComputedStyle(t).opacity !== '0'
                  && !(t.getAttribute('transform') || '').includes('rotate(300'))
                .map(t => [t.textContent, t.getBoundingClientRect()]);
              const found = [];
              boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
                if (p.left < q.right - 2 && q.left < p.right - 2
                    && p.top < q.bottom - 3 && q.top < p.bottom - 3) found.push(a + ' / ' + b);
              }));
              return found;
            })"""
        )
        assert clashes == []


def test_every_chart_has_words_and_axes_have_titles(
    demo_page: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(demo_page).page
    charts = page.locator(".plot")
    assert charts.count() >= 8
    for index in range(charts.count()):
        label = charts.nth(index).locator("[role=graphics-document]").get_attribute("aria-label")
        assert label
        assert len(label) > 15
    assert page.locator("table th[scope=col]").count() > 5
    assert page.locator("table caption").count() == page.locator("table").count()


def test_the_keyboard_reaches_a_well(demo_page: Path, visit: Callable[..., Visit]) -> None:
    page = visit(demo_page).page
    page.focus("select[data-well]")
    page.select_option("select[data-well]", "B03")
    assert page.inner_text("#well-title") == "Well B03"
    page.select_option("#well select", "4")
    shown = page.evaluate("getComputedStyle(document.querySelector('#well img')).filter")
    assert shown == "brightness(4)"
    page.click("#well-close")
    assert page.is_hidden("#well")


def test_the_keyboard_walks_over_a_plate_map(demo_page: Path, visit: Callable[..., Visit]) -> None:
    """One stop a map; arrows lead from well to well up to the rim; Enter opens."""
    seen = visit(demo_page)
    page = seen.page
    stops = page.locator("#chart-map-distance [tabindex='0']:is(path)")
    assert stops.count() == 1
    page.locator("#plate select").first.focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.plot path')"):
            break
    label = "document.activeElement.getAttribute('aria-label') || ''"
    first = page.evaluate(label)
    assert first.startswith("Well A01; ")
    assert "Compound " in first
    for key, well in (
        ("ArrowUp", "A01"), ("ArrowRight", "A02"), ("ArrowDown", "B02"), ("ArrowLeft", "B01"),
        ("ArrowLeft", "B01"), *((("ArrowDown"), f"{row}01") for row in "CDEFF"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert page.evaluate(label).startswith(f"Well {well}; ")
        page.wait_for_selector("#tip:visible")
        assert f"Well {well}" in page.inner_text("#tip")
    page.keyboard.press("Enter")
    assert page.inner_text("#well-title") == "Well F01"
    through = page.evaluate(
        """() => {
          const panel = document.getElementById('well');
          const rim = panel.getBoundingClientRect();
          return [...document.querySelectorAll('.vega-embed summary')].filter(menu => {
            const box = menu.getBoundingClientRect();
            const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
            const behind = x > rim.left && x < rim.right && y > rim.top && y < rim.bottom;
            return behind && !panel.contains(document.elementFromPoint(x, y));
          }).length;
        }"""
    )
    assert through == 0  # menus of charts stay behind it
    page.keyboard.press("Escape")
    assert page.is_hidden("#well")
    assert page.evaluate(label).startswith("Well F01; ")
    assert (seen.complaints, seen.requests) == ([], [])


def test_it_prints(demo_page: Path, visit: Callable[..., Visit], tmp_path: Path) -> None:
    page = visit(demo_page, dark=True).page
    page.emulate_media(media="print")
    assert page.is_hidden("nav")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(0, 0, 0)"  # on white paper, whatever the screen was
    across = (
        "Math.max(...[...document.querySelectorAll('#chart-projection svg, #chart-position svg,"
        " #chart-importance svg')].map(node => node.getBoundingClientRect().width))"
    )
    wide = page.evaluate(across)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert 500 < page.evaluate(across) < 700 < wide  # its text stays as large as it was
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(across) == pytest.approx(wide, abs=2)
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_plates_are_compared_on_a_phone_without_scrolling(
    tmp_path: Path, visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PARTS", ())
    for place, name in enumerate(("P1", "P2")):
        made_up(tmp_path / "results" / name, table(plate=name, seed=place))
    page = visit(write_reports(tmp_path / "results", None, ReportOptions())[0], width=390).page
    box = page.locator("#batches .scroll")
    assert box.locator("td").count() >= 9
    assert box.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
