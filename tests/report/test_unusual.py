"""Section of unusual wells: the numbers of `find_unusual`, its clusters, and their pictures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from report_tables import CHANNELS, DIM, made_up, on_pixels, table

import unidino_fast as uf
from unidino_fast.report import ReportOptions, build, unusual, write_reports
from unidino_fast.report.gather import read_results
from unidino_fast.report.labels import find_labels
from unidino_fast.report.page import render_page
from unidino_fast.report.unusual import unusual_section
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Visit

DMSO = 'Metadata_Compound == "DMSO"'


def planted(n_controls: int = 32) -> pl.DataFrame:
    """64 wells: controls, six wells of each of two known mechanisms, the rest one unknown look."""
    rng = np.random.default_rng(3)
    looks = rng.normal(size=(3, len(CHANNELS) * DIM)) * 6
    n_unknown = 64 - n_controls - 12
    kinds = np.repeat([0, 1, 2, 3], [n_controls, 6, 6, n_unknown])
    rng.shuffle(kinds)
    values = rng.normal(size=(64, len(CHANNELS) * DIM))
    values[kinds > 0] += looks[kinds[kinds > 0] - 1]
    return table(
        rows=8,
        columns=8,
        features=values,
        Metadata_Compound=[["DMSO", "one", "two", f"new {i % 4}"][k] for i, k in enumerate(kinds)],
        Metadata_MoA=[[None, "first", "second", None][k] for k in kinds],
    )


def section_of(folder: Path, frame: pl.DataFrame):
    results = read_results(made_up(folder / "out" / "P1", frame) / "P1")
    return unusual_section(results, find_labels(results.profiles))


def test_the_unlabelled_look_is_the_candidate(tmp_path):
    frame = planted()
    section = section_of(tmp_path, frame)
    unknown = frame.filter(pl.col("Metadata_Compound").str.starts_with("new"))["Metadata_Well"]
    candidates = [card for card in section.values["cards"] if not card["explained"]]
    assert [{well["name"] for well in card["wells"]} for card in candidates] == [set(unknown)]
    explained = [card["label"] for card in section.values["cards"] if card["explained"]]
    assert sorted(explained) == ["first", "second"]
    assert (
        section.values["cards"][0] is candidates[0] or not section.values["cards"][0]["explained"]
    )
    nearest = [near["holds"] for near in candidates[0]["nearest"]]
    assert sorted(nearest) == [["first", "one"], ["second", "two"]]
    names = dict.fromkeys(("title", "campaign", "name", "lead", "version"), "")
    page = render_page("page.html", [section], {"data": {}}, **names)
    # each word apart: one from right to left would turn what stands beside it
    assert "<bdi>first</bdi>, <bdi>one</bdi> (cosine" in page
    [finding] = section.findings
    assert finding.value == "32 of 32 wells"
    assert "1 cluster that no MoA explains" in finding.detail


def test_distances_and_p_values_are_those_of_find_unusual(tmp_path):
    frame = planted()
    section = section_of(tmp_path, frame)
    found = uf.find_unusual(uf.normalize(frame), DMSO, by=())
    for field, column in (("a", "mahalanobis"), ("ap", "mahalanobis_p"), ("aq", "mahalanobis_q")):
        expected = found.wells[column].to_list()
        shown = section.columns[field]
        assert [value is None for value in shown] == [value is None for value in expected]
        known = [value for value in shown if value is not None]
        assert known == pytest.approx([v for v in expected if v is not None], rel=1e-3)
    groups = ["(none)" if c is None else f"cluster {c}" for c in found.wells["cluster"]]
    alone = (found.wells["unusual"] & found.wells["cluster"].is_null()).to_list()
    assert section.columns["ac"] == [
        "unusual, in none" if own else group for own, group in zip(alone, groups, strict=True)
    ]
    assert section.values["counted"]
    assert section.values["least_p"] == pytest.approx(1 / 33)
    far = section.values["rows"][0]
    assert far["distance"] == found.wells.filter(~pl.col("control"))["mahalanobis"].max()


def test_few_controls_are_said_and_make_a_ranking(tmp_path):
    section = section_of(tmp_path, planted(n_controls=8))
    assert not section.values["counted"]
    assert section.values["n_unusual"] > 0


def test_without_controls_there_is_no_section_and_two_are_too_few(tmp_path):
    frame = planted()
    none = frame.with_columns(pl.col("Metadata_Compound").replace("DMSO", "something"))
    assert section_of(tmp_path / "none", none) is None
    first = frame["Metadata_Compound"].to_list().index("DMSO")
    names = ["other" if name == "DMSO" and i != first else name for i, name in enumerate(
        frame["Metadata_Compound"])]  # fmt: skip
    one = section_of(tmp_path / "one", frame.with_columns(pl.Series("Metadata_Compound", names)))
    assert "unusual wells were not looked for" in one.values["note"]
    assert one.charts == ()


def test_wells_to_look_at_are_the_most_typical(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 5)) + 2
    members = np.array([7, 1, 4, 8])
    units = [row / np.sqrt((row**2).sum()) for row in values[members]]
    mean = sum(units) / 4
    cosines = [float((unit * mean).sum() / np.sqrt((mean**2).sum())) for unit in units]
    assert list(unusual._typical(values, members)) == sorted(range(4), key=lambda i: -cosines[i])


def test_cards_and_rows_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(unusual, "_MOST_CARDS", 2)
    monkeypatch.setattr(unusual, "_MOST_WELLS", 5)
    section = section_of(tmp_path, planted())
    assert len(section.values["cards"]) == 2
    assert section.values["n_more_cards"] == 1
    assert not section.values["cards"][0]["explained"]  # candidates are kept first
    assert len(section.values["rows"]) == 5
    assert all(len(card["thumbnails"]) <= 4 for card in section.values["cards"])


def test_thumbnails_open_their_wells(
    tmp_path: Path, visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PARTS", build.PARTS[-2:-1])
    plate = tmp_path / "P1.zarr"
    simulate_plate(plate, rows=8, columns=8, size=(48, 48), channels=CHANNELS)
    folder = on_pixels(tmp_path / "out" / "P1", plate, planted())
    seen = visit(write_reports(folder, None, ReportOptions())[0])
    page = seen.page
    fills = (
        "[...new Set([...document.querySelectorAll('#chart-map-unusual g[class*=layer_1] path')]"
        ".map(node => node.getAttribute('fill')))].length"
    )
    assert page.evaluate(fills) > 10
    page.select_option("#unusual select[data-choice]", label="Clusters of unusual wells")
    page.wait_for_function(f"{fills} === 4")  # three clusters, and none
    assert "cluster 2" in page.inner_text("#chart-map-unusual")
    cards = page.locator("#unusual .card")
    assert cards.count() == 3
    rows = cards.first.locator("button.thumb")
    assert rows.count() == 1 + 4
    assert "control" in rows.first.inner_text()
    assert rows.nth(1).locator("img").count() == len(CHANNELS)
    assert page.evaluate(
        "Promise.all([...document.querySelectorAll('.thumb img')].map(image => image.decode()))"
        ".then(() => [...document.querySelectorAll('.thumb img')].every(i => i.naturalWidth > 40))"
    )
    name = rows.nth(1).get_attribute("data-open")
    assert re.fullmatch(r"[A-H]\d\d", name)
    rows.nth(1).click()
    assert page.inner_text("#well-title") == f"Well {name}"
    assert "p of this distance" in page.inner_text("#well-body")
    page.select_option("#well select.gain", "4")
    filtered = page.evaluate("getComputedStyle(document.querySelector('.thumb img')).filter")
    assert filtered == "brightness(4)"
    assert page.input_value("#unusual select.gain") == "4"
    page.keyboard.press("Escape")
    page.locator("#unusual table button").first.click()
    assert page.inner_text("#well-title").startswith("Well ")
    assert (seen.complaints, seen.requests) == ([], [])
