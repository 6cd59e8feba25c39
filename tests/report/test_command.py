"""`unidino-fast report`: what it takes, what it writes, and what it says where it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import polars as pl
import pytest
from report_tables import made_up, table

from unidino_fast import demo
from unidino_fast.errors import OutputError, TableError
from unidino_fast.report import ReportOptions, build, page, write_reports
from unidino_fast.report.gather import read_results

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = ReportOptions(pictures=False)


@pytest.fixture
def without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without projections, which take the most time and are tested elsewhere."""
    kept = tuple(part for i, part in enumerate(build.PARTS) if i != 2)
    monkeypatch.setattr(build, "PARTS", kept)


def document(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    [held] = re.findall(r'id="document">(.*?)</script>', text, re.S)
    return json.loads(held)


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "unidino_fast", "report", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_nothing_to_report_on_is_one_line_with_the_remedy(tmp_path):
    done = cli(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "holds no results" in done.stderr
    assert "unidino-fast embed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.rmdir(), "is no folder"),
        (lambda folder: _file(folder / "P" / "parts" / "A01.parquet"), "unfinished run"),
        (lambda folder: _file(folder / "P" / "shards" / "1-of-2.json"), "unidino-fast merge"),
        (lambda folder: _file(folder / "P" / "profiles.parquet"), "wells.parquet is missing"),
        (
            lambda folder: [_file(folder / "P" / f"{t}.parquet") for t in ("wells", "profiles")],
            "cannot be read as a table",
        ),
    ],
)
def test_other_folders_say_what_to_run(tmp_path, make, message):
    folder = tmp_path / "out"
    folder.mkdir()
    make(folder)
    with pytest.raises((OutputError, TableError), match=message) as caught:
        write_reports(folder, None, PLAIN)
    assert "\n" not in str(caught.value)


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no parquet")


def test_a_column_that_is_not_there_is_said(results, without_umap):
    with pytest.raises(TableError, match="Metadata_Kompound"):
        write_reports(results, None, ReportOptions(compound="Kompound"))


@pytest.mark.usefixtures("without_umap")
def test_one_plate_becomes_one_file(results, tmp_path, remote):
    for folder in (results, results / "P1"):
        assert write_reports(folder, None, PLAIN) == [results / "P1" / "report.html"]
    out = tmp_path / "new" / "page.html"
    assert write_reports(results, out, PLAIN) == [out]
    text = out.read_text(encoding="utf-8")
    assert text == (results / "P1" / "report.html").read_text(encoding="utf-8")  # the same again
    assert not remote.search(text)


@pytest.mark.usefixtures("without_umap")
def test_several_plates_get_a_page_over_them(tmp_path):
    folder = tmp_path / "out"
    for seed, name in enumerate(("P 1", "P2")):
        made_up(folder / name, table(seed=seed, plate=name))
    written = write_reports(folder, None, PLAIN)
    assert written == [folder / "report.html", *(folder / p / "report.html" for p in ("P 1", "P2"))]
    text = written[0].read_text(encoding="utf-8")
    assert 'href="P%201/report.html"' in text
    assert 'href="P2/report.html"' in text
    assert 'href="../report.html"' in written[1].read_text(encoding="utf-8")
    assert "Nearest profile is of the same plate" in text
    beside = write_reports(folder, tmp_path / "all.html", PLAIN)
    assert [path.name for path in beside] == ["all.html", "all-P 1.html", "all-P2.html"]
    assert 'href="all-P2.html"' in beside[0].read_text(encoding="utf-8")


@pytest.mark.usefixtures("without_umap")
def test_quality_control_is_shown_where_it_ran(tmp_path):
    frame = table()
    plain = write_reports(made_up(tmp_path / "old" / "P"), None, PLAIN)[0]
    assert "Quality control did not run" in plain.read_text(encoding="utf-8")
    focus = [0.1 * i for i in range(len(frame))]
    frame = frame.with_columns(
        pl.Series("Metadata_QC_Focus_DNA", focus, pl.Float32),
        pl.Series("Metadata_QC_GradientX_ER", [-0.5, *focus[1:]], pl.Float32),
        pl.Series("Metadata_QC_Flags", ["defocused:DNA;empty:ER", *[""] * (len(frame) - 1)]),
    )
    folder = made_up(tmp_path / "new" / "P", frame)
    quality = {"n_flagged": 1, "counts": {"defocused": 1, "empty": 1, "saturated": 0}}
    (folder / "P" / "qc.json").write_text(json.dumps({**quality, "warnings": ["A01 is blurred"]}))
    path = write_reports(folder, None, PLAIN)[0]
    text = path.read_text(encoding="utf-8")
    assert "did not run" not in text
    assert "1 defocused, 1 empty" in text
    assert "A01 is blurred" in text
    wells = document(path)["data"]["wells"]
    assert [row["q_Focus_0"] for row in wells[:3]] == [0, 0.1, 0.2]
    assert wells[0]["q"] == "defocused:DNA, empty:ER"
    labels = re.findall(r'<option value="\d+">(.*?)</option>', text)
    assert labels[:3] == [
        "Focus (higher is sharper)",
        "Light, right minus left edge",
        "Profile distance to negative controls",
    ]


@pytest.mark.usefixtures("without_umap")
@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"provenance": [], "run": 3}', '{"run": {"warnings": 7}}']
)
def test_old_or_broken_manifests_do_no_harm(results, content):
    manifest = results / "P1" / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    [path] = write_reports(results, None, ReportOptions())
    text = path.read_text(encoding="utf-8")
    assert "No pictures: the manifest does not say where the plate lies" in text


@pytest.mark.usefixtures("without_umap")
def test_warnings_of_the_run_stand_in_the_page(tmp_path):
    folder = made_up(
        tmp_path / "out" / "P", warnings=["2 chunks are absent"], left_out={"C07": "broken"}
    )
    text = write_reports(folder, None, PLAIN)[0].read_text(encoding="utf-8")
    assert "2 chunks are absent" in text
    assert "well C07 was left out: broken" in text
    assert "48 of 49" in text


@pytest.mark.usefixtures("without_umap")
def test_time_points_and_lacking_channels_are_said(tmp_path):
    frame = table().with_columns(pl.Series("Metadata_Time", [0, 1] * 24))
    gone = [None] * 2 + frame["ER_000"].to_list()[2:]
    frame = frame.with_columns(pl.Series("ER_000", gone, pl.Float32))
    results = read_results(made_up(tmp_path / "out" / "P", frame) / "P")
    assert len(results.names) == 24
    assert any("2 time points" in note for note in results.notes)
    assert any("1 of 24 wells lack a channel" in note for note in results.notes)


@pytest.mark.usefixtures("without_umap")
def test_few_wells_and_no_labels_still_make_a_page(tmp_path):
    frame = table(rows=1, columns=2).drop("Metadata_Compound", "Metadata_MoA")
    [path] = write_reports(made_up(tmp_path / "out" / "P", frame), None, PLAIN)
    assert "no negative controls are labelled" in path.read_text(encoding="utf-8")


def test_the_script_of_the_page_is_the_one_that_its_policy_names(results, without_umap):
    import base64
    import hashlib

    text = write_reports(results, None, PLAIN)[0].read_text(encoding="utf-8")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"sha256-{digest}" in policy.replace("&#39;", "'").replace("&#43;", "+")
    assert "default-src" in policy


def test_json_in_a_script_cannot_end_it():
    text = page.script_json({"a": "</script><!--&", "b": "\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&", "b": "\u2028"}
    with pytest.raises(ValueError, match="JSON"):
        page.script_json({"a": float("nan")})


def test_embed_refuses_a_report_of_one_shard(tmp_path):
    call = [sys.executable, "-m", "unidino_fast", "embed", "x", "--out", str(tmp_path)]
    done = subprocess.run(
        [*call, "--shard", "1/2", "--report"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unidino-fast report" in done.stderr


def test_embed_makes_the_report_when_asked(plate_path, tiny_weights, tmp_path):
    out = tmp_path / "out"
    call = [sys.executable, "-m", "unidino_fast", "embed", str(plate_path), "--out", str(out)]
    call += ["--weights", str(tiny_weights), "--tile", "32", "--device", "cpu"]
    done = subprocess.run([*call, "--report"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [path] = out.glob("*/report.html")
    assert f"report: {path}" in done.stderr
    assert len(document(path)["pictures"]["wells"]) == 6
    again = subprocess.run([*call, "--overwrite"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert not path.exists()  # it was of the results that were replaced


def test_the_demo_ends_with_a_report(tiny_weights, tmp_path, monkeypatch, capsys, without_umap):
    monkeypatch.setattr(demo, "simulate_plate", partial(demo.simulate_plate, size=(64, 64)))
    monkeypatch.setattr(demo, "log_to_console", lambda: None)  # which would outlive this test
    demo.run_demo(tmp_path / "demo", weights=str(tiny_weights), seed=0)
    path = tmp_path / "demo" / "results" / "plate" / "report.html"
    assert f"report     {path}" in capsys.readouterr().out
    assert len(document(path)["pictures"]["wells"]) == 48
