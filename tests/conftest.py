"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plate_factory
import pytest
import timm
import torch
from plate_server import Server

import unidino_fast as uf
from unidino_fast.backbones import open_backbone, save_backbone
from unidino_fast.simulate import simulate_plate
from unidino_fast.storage import remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import polars as pl


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    """Networks here are tiny: threads that wait for each other would only slow them down.

    In each file anew: large jobs take all cores, and other files compare bits.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def heeds_ctrl_c() -> None:
    """A shell that starts the tests in its background has them, and all they start, ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder of real images and tables; tests that need it skip where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNIDINO_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder} (set UNIDINO_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone file small enough for whole-plate tests: 32 px tiles, 64 features."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    module = timm.create_model(
        "vit_small_patch16_224",
        in_chans=1,
        img_size=32,
        embed_dim=64,
        depth=2,
        num_heads=1,
        num_classes=0,
    )
    torch.save(module.state_dict(), folder / "flat.pth")
    save_backbone(open_backbone(folder / "flat.pth"), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture(scope="session")
def small_plate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """A simulated plate of 2 x 3 wells, 2 fields of 70 x 100 px, 3 channels; and its platemap."""
    path = tmp_path_factory.mktemp("plates") / "small.zarr"
    platemap = simulate_plate(
        path, rows=2, columns=3, n_fields=2, size=(70, 100), channels=("DNA", "ER", "Mito")
    )
    return path, platemap


@pytest.fixture
def plate_path(small_plate: tuple[Path, pl.DataFrame], tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return Path(shutil.copytree(small_plate[0], tmp_path / "small.zarr"))


@pytest.fixture(scope="session")
def model(tiny_weights: Path) -> uf.Embedder:
    """The small backbone, in this process."""
    return uf.load_backbone(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a window; tests that need it skip where it is absent.

    It ends with its file: as long as Playwright runs, so does its event loop in this thread, and
    code that begins one of its own fails.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def plates() -> ModuleType:
    """The module that writes plates, `plate_factory`."""
    return plate_factory


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves `tmp_path` by HTTP; what fails is asked for again almost at once."""
    monkeypatch.setattr(remote, "_PAUSES_S", (0.01, 0.02))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    gc.collect()  # sessions end with their plates, while the server is there
    server.wakes.set()
    server.shutdown()
    server.server_close()
    thread.join()
