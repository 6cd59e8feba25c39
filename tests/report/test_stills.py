"""Figures that do not move: drawn of the right numbers, and there where no script runs."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest
from report_tables import made_up, table

from unidino_fast.figures.plates import draw_plate_maps
from unidino_fast.figures.style import new_figure, style
from unidino_fast.names import WellName
from unidino_fast.report import ReportOptions, write_reports

if TYPE_CHECKING:
    from pathlib import Path

PNG = re.compile(r'<img class="still" alt="([^"]+)" src="data:image/png;base64,([\w+/=]+)"')


def test_a_map_shows_each_well_at_its_place():
    rng = np.random.default_rng(0)
    wells = [WellName(row, column) for row in (1, 2, 4) for column in (3, 5)]  # B, C, E; 3 and 5
    values = rng.normal(size=len(wells))
    with style():
        figure = new_figure(60)
        [first, second] = draw_plate_maps(
            figure, wells, [("one", values, "unit"), ("$two_<b>", -values, "unit")]
        )
        figure.canvas.draw()
    drawn = np.ma.filled(first.images[0].get_array(), np.nan)
    assert drawn.shape == (4, 3)
    for row in range(4):
        for column in range(3):
            well = WellName(row + 1, column + 3)
            if well in wells:
                assert drawn[row, column] == values[wells.index(well)]
            else:
                assert np.isnan(drawn[row, column])
    assert [label.get_text() for label in first.get_yticklabels()] == ["B", "C", "D", "E"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["3", "4", "5"]
    assert second.get_title() == "$two_<b>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a plate of 96 wells, no pixels."""
    folder = tmp_path_factory.mktemp("stills")
    names = [f"compound {i % 16}" if i % 5 else "DMSO" for i in range(96)]
    frame = table(
        rows=8,
        columns=12,
        Metadata_Compound=names,
        Metadata_MoA=[None if n == "DMSO" else f"mechanism {len(n)} {n[-1]}" for n in names],
        Metadata_QC_Intensity_DNA=np.linspace(100, 900, 96).tolist(),
    )
    return write_reports(made_up(folder / "out" / "P1", frame), None, ReportOptions())[0]


def test_they_are_pictures_of_some_size_in_little_room(page: Path) -> None:
    found = PNG.findall(page.read_text(encoding="utf-8"))
    assert [alt.split(" ")[0] for alt, _ in found] == [
        *("Plate", "UMAP", "Clustered", "Clustered", "Important")
    ]
    for _, source in found:
        data = base64.b64decode(source)
        pixels = matplotlib.image.imread(io.BytesIO(data))
        assert pixels.shape[1] == pytest.approx(180 / 25.4 * 120, abs=1)
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50  # not blank
    assert sum(len(source) for _, source in found) < 600_000


def test_a_browser_without_scripts_shows_them(page: Path, chromium: Any) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 800}, java_script_enabled=False
    )
    view = context.new_page()
    view.goto(page.as_uri())
    stills = view.locator("img.still")
    assert stills.count() == 5
    for place in range(5):
        box = stills.nth(place).bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100  # of pixels that were decoded: a broken image has none
        assert box["x"] + box["width"] <= 390
    assert view.locator(".plot").first.is_hidden()
    assert view.locator("#unusual table tbody tr").count() == 40  # said in words all the same
    view.screenshot(path=page.with_suffix(".png"), full_page=True)
    context.close()


def test_a_browser_with_scripts_shows_charts_instead(page: Path, visit: Any) -> None:
    view = visit(page).page
    assert view.locator("img.still").count() == 0
    assert view.locator(".plot svg").first.is_visible()
