"""Plates behind URLs, embedded: interrupted, changed, by workers; the same files as from a disk."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from result_files import tables_of

import unidino_fast as uf
from unidino_fast.config import EmbedOptions
from unidino_fast.errors import OutputError, PixelError
from unidino_fast.storage import remote

if TYPE_CHECKING:
    from pathlib import Path

    from plate_server import Handler, Server

    from unidino_fast.run_summary import RunSummary

OPTIONS = EmbedOptions(tile=32)
N_WELLS, N_FIELDS = 6, 12


@pytest.fixture
def url(server: Server, plate_path: Path) -> str:
    return f"{server.url}/{plate_path.name}"


@pytest.fixture
def expected(plate_path: Path, model: uf.Embedder, tmp_path: Path) -> dict[str, bytes]:
    """What the same plate gives on a disk."""
    uf.embed_to_folder(uf.open_plate(plate_path), model, tmp_path / "expected", OPTIONS)
    return tables_of(tmp_path / "expected/small")


def embed(url: str, model: uf.Embedder, out: Path, *, verify: bool = False) -> RunSummary:
    return uf.embed_to_folder(uf.open_plate(url), model, out, OPTIONS, verify=verify)


def is_chunk(path: str) -> bool:
    return path.rsplit("/", 1)[-1].isdigit()


def tags_in(part: Path) -> dict[str, str]:
    import polars as pl

    from unidino_fast.tables import PROVENANCE_KEY

    tags: dict[str, str] = json.loads(pl.read_parquet_metadata(part)[PROVENANCE_KEY])["pixels"]
    return tags


def test_each_chunk_is_asked_for_once_and_finished_wells_cost_a_byte_a_field(
    server: Server, url: str, model: uf.Embedder, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    embed(url, model, tmp_path / "out")
    chunks = [path for path in server.requests if is_chunk(path)]
    assert len(chunks) == len(set(chunks)) == N_FIELDS * 3
    assert tables_of(tmp_path / "out/small") == expected
    server.requests.clear()
    assert embed(url, model, tmp_path / "out").n_resumed == N_WELLS
    assert sum(map(is_chunk, server.requests)) == N_FIELDS
    assert tables_of(tmp_path / "out/small") == expected


@pytest.mark.parametrize("tells", ["etag", "modified"])
def test_pixels_that_changed_between_two_runs_are_an_error(
    tells: str,
    server: Server,
    url: str,
    plate_path: Path,
    model: uf.Embedder,
    tmp_path: Path,
    expected: dict[str, bytes],
) -> None:
    server.tells = tells
    out = tmp_path / "out"
    embed(url, model, out)
    part = out / "small/parts/B02.parquet"
    key, tag = next(iter(tags_in(part).items()))
    chunk = plate_path / key
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) + b"longer")
    with pytest.raises(OutputError) as caught:
        embed(url, model, out)
    message = str(caught.value)
    assert message.startswith(f"chunk {key} of well B02 changed (it was: {tag}; now: ")
    assert f"since {part} was written: if only a copy changed that, add --verify" in message
    assert message.isprintable()
    assert tables_of(out / "small") == expected
    chunk.write_bytes(content)
    if tells == "etag":
        embed(url, model, out)  # the same content again
    embed(url, model, out, verify=True)
    server.requests.clear()
    assert embed(url, model, out).n_resumed == N_WELLS


def test_verify_rereads_all_pixels(
    server: Server, url: str, plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """A chunk that is not among those whose tags are compared, or a server that tells none."""
    import zarr

    server.tells, server.tells_size = "nothing", False
    out = tmp_path / "out"
    embed(url, model, out)
    array = zarr.open_array(plate_path / "B/2/1/0", mode="r+")
    array[1, 5, 7] ^= 1
    assert embed(url, model, out).n_resumed == N_WELLS
    with pytest.raises(OutputError, match="pixels of field B02/1 differ"):
        embed(url, model, out, verify=True)


def test_a_run_may_go_on_from_a_copy_on_a_disk(
    url: str, plate_path: Path, model: uf.Embedder, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """What an ETag says and what a file's time says cannot be compared: pixels can."""
    out = tmp_path / "out"
    embed(url, model, out)
    assert embed(str(plate_path), model, out).n_resumed == N_WELLS
    assert embed(str(plate_path), model, out, verify=True).n_resumed == N_WELLS
    assert tables_of(out / "small") == expected


def test_a_server_that_dies_half_way_and_comes_back(
    server: Server,
    url: str,
    model: uf.Embedder,
    tmp_path: Path,
    expected: dict[str, bytes],
) -> None:
    """Wells that were finished before are not read again."""
    out = tmp_path / "out"

    def dead(handler: Handler) -> bool:
        if not handler.path.startswith("/small.zarr/B/"):
            return False
        handler.close_connection = True  # without a word
        return True

    plate = uf.open_plate(url)
    server.first = dead
    with pytest.raises(PixelError, match=r"chunk B/1/.* cannot be read") as caught:
        uf.embed_to_folder(plate, model, out, OPTIONS)
    assert str(caught.value).isprintable()
    finished = {part: part.stat().st_mtime_ns for part in out.glob("small/parts/A*.parquet")}
    assert len(finished) == 3
    server.first = lambda handler: False
    server.requests.clear()
    assert embed(url, model, out).n_resumed == 3
    again = [path for path in server.requests if is_chunk(path) and "/A/" in path]
    assert len(again) == N_FIELDS // 2
    assert {part: part.stat().st_mtime_ns for part in finished} == finished
    assert tables_of(out / "small") == expected


def test_500_then_503_then_slowly_then_well(
    server: Server,
    url: str,
    model: uf.Embedder,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every object of the plate, documents and chunks, in one run: no word of it in the result."""
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01, 0.02, 0.04))
    monkeypatch.setattr(remote, "_STALL_S", 1.0)
    answers: dict[str, list[str]] = {}

    def answer(handler: Handler) -> bool:
        how = answers.setdefault(handler.path, ["500", "503", "never", "slowly"])
        now = how.pop(0) if how else "well"
        if now in ("500", "503"):
            handler.reply(int(now), b"", body=True)
            return True
        server.wakes.wait({"never": 2.0, "slowly": 0.2}.get(now, 0.0))
        return False

    server.first = answer
    summary = embed(url, model, tmp_path / "out")
    assert summary.n_wells == N_WELLS
    assert len([path for path in answers if is_chunk(path)]) == N_FIELDS * 3
    assert not any(answers.values())
    assert tables_of(tmp_path / "out/small") == expected


def test_workers_give_what_one_process_gives(
    server: Server, url: str, plate_path: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """As typed; each chunk is asked for once by one of them, and a second run asks for tags."""
    for chunk in ("A/2/0/0/1/0/0", "B/1/1/0/0/0/0"):
        (plate_path / chunk).unlink()
    model = uf.load_backbone(tiny_weights, device="cpu", engine="eager")
    embed(url, model, tmp_path / "alone")
    server.requests.clear()
    words = ["embed", url, "--weights", str(tiny_weights), "--device", "cpu", "--tile", "32"]
    more = ["--engine", "eager", "--workers", "2", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "unidino_fast", *words, *more],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = "warning: 2 of the chunks that this run read are absent and read as the fill value, the"
    assert f"{said} first A/2/0/0/1/0/0: is" in done.stderr
    chunks = [path for path in server.requests if is_chunk(path)]
    assert len(chunks) == len(set(chunks)) == N_FIELDS * 3
    assert tables_of(tmp_path / "out/small") == tables_of(tmp_path / "alone/small")
    for part in (tmp_path / "alone/small/parts").iterdir():
        assert tags_in(tmp_path / "out/small/parts" / part.name) == tags_in(part)
    server.requests.clear()
    assert embed(url, model, tmp_path / "out").n_resumed == N_WELLS
    asked = [tags_in(part) for part in (tmp_path / "out/small/parts").iterdir()]
    assert sum(map(is_chunk, server.requests)) == sum(map(len, asked)) == N_FIELDS + 1  # absent


def test_chunks_that_a_server_did_not_have_are_missed_no_more(
    server: Server, url: str, plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """They are no chunks that stand for their fields; others of the well are done again too."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    embed(url, model, whole)
    tagged = {key for part in (whole / "small/parts").iterdir() for key in tags_in(part)}
    chunks = sorted(str(path.relative_to(plate_path)) for path in plate_path.glob("A/2/0/0/*/*/*"))
    late = plate_path / next(chunk for chunk in chunks if chunk not in tagged)
    content = late.read_bytes()
    late.unlink()
    assert len(embed(url, model, out).warnings) == 1
    server.requests.clear()
    assert embed(url, model, out).n_resumed == N_WELLS
    assert sum(map(is_chunk, server.requests)) == N_FIELDS + 1
    late.write_bytes(content)
    said = rf"chunk {late.relative_to(plate_path)} of well A02 changed .it was: absent; now: ETag"
    with pytest.raises(OutputError, match=said):
        embed(url, model, out)
    (out / "small/parts/A02.parquet").unlink()
    assert embed(url, model, out).n_resumed == N_WELLS - 1
    assert tables_of(out / "small") == tables_of(whole / "small")


def test_a_chunk_that_has_come_to_be_there_is_not_noted_as_absent(
    url: str, plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """Also where the plate was opened, and read once, before it came."""
    late = plate_path / "A/2/0/0/1/0/0"
    content = late.read_bytes()
    late.unlink()
    plate = uf.open_plate(url)
    for folder, n_absent in (("one", 1), ("two", 0)):
        summary = uf.embed_to_folder(plate, model, tmp_path / folder, OPTIONS)
        assert len(summary.warnings) == n_absent
        noted = tags_in(tmp_path / folder / "small/parts/A02.parquet")
        assert list(noted.values()).count("absent") == n_absent
        late.write_bytes(content)


def test_chunks_that_a_server_does_not_have_are_counted(
    server: Server, url: str, plate_path: Path, model: uf.Embedder, tmp_path: Path
) -> None:
    """Those of wells that are read; of those that were finished before, the wells."""
    for chunk in ("A/2/0/0/1/0/0", "A/2/0/0/2/0/0", "B/1/1/0/0/0/0"):
        (plate_path / chunk).unlink()
    out = tmp_path / "out"
    warning = (
        "3 of the chunks that this run read are absent and read as the fill value, the first"
        " A/2/0/0/1/0/0: is the plate at its URL complete?"
    )
    assert embed(url, model, out).warnings == (warning,)
    assert embed(url, model, out, verify=True).warnings == (warning,)
    before = (
        "chunks of {} that a former run finished are absent and read as the fill value, the first"
        " A/2/0/0/1/0/0: is the plate at its URL complete?"
    )
    assert embed(url, model, out).warnings == (before.format("2 wells"),)
    manifest = json.loads((out / "small/manifest.json").read_text())
    assert manifest["run"]["warnings"] == [before.format("2 wells")]
    (out / "small/parts/B01.parquet").unlink()
    assert embed(url, model, out).warnings == (
        "1 of the chunks that this run read is absent and reads as the fill value, the first"
        " B/1/1/0/0/0/0: is the plate at its URL complete?",
        before.format("1 well"),
    )
    plate = uf.open_plate(url)
    for folder in ("one", "two"):
        summary = uf.embed_to_folder(plate, model, tmp_path / folder, OPTIONS)
        assert summary.warnings == (warning,)
