"""Workers give what one process gives, whichever of them dies."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Worker, WorkerPlugin
from result_files import tables_of

import unidino_fast as uf
from unidino_fast import plate_run
from unidino_fast.cluster import job
from unidino_fast.cluster.session import _session
from unidino_fast.config import EmbedOptions
from unidino_fast.engines.spec import ModelSpec
from unidino_fast.errors import PixelError, UsageError
from unidino_fast.names import QUALITY
from unidino_fast.output import TABLES
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from unidino_fast.cluster.session import Session
    from unidino_fast.planning import WellTask

pytestmark = pytest.mark.filterwarnings(
    # distributed leaves the socket of a worker that dies in its handshake to the garbage
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
OPTIONS = EmbedOptions(tile=32)


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> uf.Plate:
    path = tmp_path_factory.mktemp("plates") / "p.zarr"
    simulate_plate(path, rows=3, columns=4, n_fields=2, size=(70, 100), channels=("DNA", "ER"))
    return uf.open_plate(path)


@pytest.fixture(scope="module")
def expected(
    plate: uf.Plate, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What this process alone writes."""
    out = tmp_path_factory.mktemp("expected")
    uf.embed_to_folder(plate, spec.build(), out, OPTIONS)
    return tables_of(out / plate.name)


def embed(plate: uf.Plate, spec: ModelSpec, workers: Session, out: Path, **changes: Any) -> Any:
    return uf.embed_to_folder(plate, workers.model(spec), out, OPTIONS, workers=workers, **changes)


def test_files_are_byte_equal(
    plate: uf.Plate, spec: ModelSpec, workers: Session, expected: dict[str, bytes], tmp_path: Path
) -> None:
    seen: list[str] = []
    summary = embed(plate, spec, workers, tmp_path, on_well=lambda task: seen.append(task.name))
    assert tables_of(tmp_path / plate.name) == expected
    assert sorted(seen) == sorted(task.name for task in plate.wells)
    assert summary.n_wells == 12
    assert summary.n_resumed == 0
    assert summary.seconds["embed"] > 0
    names = {entry.name for entry in (tmp_path / plate.name).iterdir()}
    assert names == {*TABLES, QUALITY, "manifest.json", "parts"}
    again = embed(plate, spec, workers, tmp_path)
    assert again.n_resumed == 12
    assert tables_of(tmp_path / plate.name) == expected


def test_without_shared_storage_rows_come_back(
    plate: uf.Plate,
    spec: ModelSpec,
    workers: Session,
    expected: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """Workers that do not see the folder (its marker is gone) send features instead."""
    real = job.PlateJob.__init__

    def unseen(self: Any, **values: Any) -> None:
        real(self, **{**values, "marker": "nowhere"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.PlateJob, "__init__", unseen)
        embed(plate, spec, workers, tmp_path)
    assert tables_of(tmp_path / plate.name) == expected


class Deadly(WorkerPlugin):
    """Ends the worker process when it embeds a certain well, for the first so many times."""

    name = "deadly"

    def __init__(self, well: str, log: Path, most: int) -> None:
        self.well, self.log, self.most = well, log, most

    def setup(self, worker: Worker) -> None:
        real = job.embed_wells

        def deadly(tasks: tuple[WellTask, ...], *args: Any, **options: Any) -> Any:
            if self.well in [task.name for task in tasks]:
                deaths = self.log.read_text() if self.log.exists() else ""
                if deaths.count("\n") < self.most:
                    self.log.write_text(deaths + f"{os.getpid()}\n")
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(tasks, *args, **options)

        job.embed_wells = deadly
        self.real = real

    def teardown(self, worker: Worker) -> None:
        job.embed_wells = self.real


@pytest.fixture
def deadly(workers: Session, tmp_path: Path) -> Iterator[Any]:
    def register(well: str, most: int) -> Path:
        log = tmp_path / "deaths"
        workers.client.register_plugin(Deadly(well, log, most))
        return log

    yield register
    workers.client.unregister_worker_plugin("deadly")


def test_a_worker_that_dies_mid_well_loses_nothing(
    plate: uf.Plate,
    spec: ModelSpec,
    workers: Session,
    expected: dict[str, bytes],
    tmp_path: Path,
    deadly: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []  # dask sets the handlers of pytest to CRITICAL
    logger = logging.getLogger("unidino_fast.cluster.dispatch")
    monkeypatch.setattr(logger, "warning", lambda text, *facts: told.append(text % facts))
    log = deadly("B02", 1)
    embed(plate, spec, workers, tmp_path / "out")
    assert len(log.read_text().split()) == 1
    assert tables_of(tmp_path / "out" / plate.name) == expected
    said = r"a worker died with well \w+ of (.+?)(, and \d+ more)? in hand: trying again"
    deaths = [found[1] for line in told if (found := re.fullmatch(said, line))]
    assert deaths == [plate.name], told


@pytest.mark.parametrize("on_error", ["skip", "fail"])
def test_a_poisoned_well_is_named(
    plate: uf.Plate, spec: ModelSpec, workers: Session, tmp_path: Path, deadly: Any, on_error: Any
) -> None:
    """It kills three workers, the last one with nothing beside it; the others are embedded."""
    log = deadly("B02", 99)
    said = "embedding B02 ended 3 worker processes"
    if on_error == "fail":
        with pytest.raises(PixelError, match=said) as caught:
            embed(plate, spec, workers, tmp_path / "out")
        assert "\n" not in str(caught.value)
    else:
        summary = embed(plate, spec, workers, tmp_path / "out", on_error="skip")
        assert list(summary.left_out) == ["B02"]
        assert said in summary.left_out["B02"]
        assert summary.n_wells == 11
    assert len(log.read_text().split()) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ended_from_outside(
    plate: uf.Plate,
    spec: ModelSpec,
    workers: Session,
    expected: dict[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    pids = workers.client.run(os.getpid)

    def kill(task: WellTask) -> None:
        if pids:
            os.kill(pids.popitem()[1], number)
            pids.clear()
            time.sleep(0.2)

    embed(plate, spec, workers, tmp_path, on_well=kill)
    assert tables_of(tmp_path / plate.name) == expected


def test_faulty_pixels_are_named_by_workers_too(
    small_plate: tuple[Path, pl.DataFrame], spec: ModelSpec, workers: Session, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(small_plate[0], tmp_path / "p.zarr"))
    chunk = next(
        path for path in (path / "A/2").rglob("*") if path.is_file() and "." not in path.name
    )
    chunk.write_bytes(chunk.read_bytes()[:20])
    plate = uf.open_plate(path)
    summary = embed(plate, spec, workers, tmp_path / "out", on_error="skip")
    assert list(summary.left_out) == ["A02"]
    assert "cannot be read" in summary.left_out["A02"]
    with pytest.raises(PixelError, match=r"chunk A/2.* cannot be read"):
        embed(plate, spec, workers, tmp_path / "other")


def test_chunks_that_vanish_before_workers_read_them_are_said(
    plate: uf.Plate,
    spec: ModelSpec,
    workers: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = shutil.copytree(plate.storage.location, tmp_path / "p.zarr")
    [chunk] = [path for path in place.glob("B/2/1/0/1/*/*") if path.is_file()]
    real = plate_run.stamps_before

    def stamps_before(*args: Any) -> Any:
        found = real(*args)
        if any(task.name == "B02" for task in args[1]):
            chunk.unlink()
        return found

    monkeypatch.setattr(plate_run, "stamps_before", stamps_before)
    summary = embed(uf.open_plate(place), spec, workers, tmp_path / "out")
    assert len(summary.warnings) == 1
    assert summary.warnings[0].startswith(
        "1 of the plate's 48 chunks is absent and reads as the fill value, the first in B/2/1/0: is"
    )


def test_two_runs_on_one_scheduler_keep_to_their_own_weights(
    plate: uf.Plate, spec: ModelSpec, workers: Session, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """The second one begins, with other weights, before the first has handed out a well."""
    other = ModelSpec.load(
        "random:5", engine="eager", device="cpu", precision="fp32", tile=32, batch_size=None
    )
    with _session(workers.client, other, 1) as second:
        embed(plate, spec, workers, tmp_path / "first")
        embed(plate, other, second, tmp_path / "second")
        plugins = workers.client.run(lambda dask_worker: sorted(dask_worker.plugins))
        assert all(second.plugin in found for found in plugins.values())
    assert tables_of(tmp_path / "first" / plate.name) == expected
    alone = other.build()
    uf.embed_to_folder(plate, alone, tmp_path / "alone", OPTIONS)
    found = tables_of(tmp_path / "second" / plate.name)
    assert found == tables_of(tmp_path / "alone" / plate.name)
    plugins = workers.client.run(lambda dask_worker: sorted(dask_worker.plugins))
    assert not any(second.plugin in found for found in plugins.values())


def test_a_file_that_is_replaced_between_runs_is_read_anew(
    spec: ModelSpec, workers: Session, tmp_path: Path
) -> None:
    """Workers outlive runs: one must not keep an old zip open."""
    means = []
    for well_seed in (0, 1):
        folder = tmp_path / f"{well_seed}" / "p.zarr"
        simulate_plate(folder, rows=1, columns=2, n_fields=1, size=(70, 70), seed=well_seed)
        archive = tmp_path / "p.zip"
        archive.unlink(missing_ok=True)
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    file.write(path, path.relative_to(folder))
        out = tmp_path / f"out{well_seed}"
        embed(uf.open_plate(archive), spec, workers, out)
        uf.embed_to_folder(uf.open_plate(archive), spec.build(), out / "alone", OPTIONS)
        found = next(out.glob("p*/fields.parquet")).read_bytes()
        assert found == next((out / "alone").glob("p*/fields.parquet")).read_bytes()
        means.append(found)
    assert means[0] != means[1]


def test_a_device_that_workers_lack(spec: ModelSpec, workers: Session) -> None:
    lacking = replace(spec, device="cuda:7")
    with (
        pytest.raises(UsageError, match="device cuda:7 is not here"),
        _session(workers.client, lacking, 1),
    ):
        pass


def test_workers_import_what_embedding_needs(
    plate: uf.Plate, spec: ModelSpec, workers: Session, tmp_path: Path
) -> None:
    """Each of these takes a worker seconds, or memory, that no well has any use for."""
    embed(plate, spec, workers, tmp_path)
    needless = ("timm", "torchvision", "sympy", "sklearn", "scipy", "matplotlib", "rich", "onnx")
    loaded = workers.client.run(lambda: [name for name in needless if name in sys.modules])
    assert set(map(tuple, loaded.values())) == {()}
