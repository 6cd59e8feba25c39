"""Results to report on, and a browser to look at the pages with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from report_tables import made_up

import unidino_fast as uf
from unidino_fast.config import EmbedOptions
from unidino_fast.convert import convert_plate
from unidino_fast.pipeline import embed_to_folder
from unidino_fast.platemap import Platemap, read_platemap
from unidino_fast.report import ReportOptions, write_reports
from unidino_fast.simulate import simulate_plate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SBS = r"Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif"


@dataclass
class Visit:
    """A page in a browser, and what it complained of or asked the network for.

    Attributes:
        page: of Playwright.
        complaints: messages of the console other than plain talk, and errors.
        requests: URLs beside the file itself and what it holds.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a file at a width and in a colour scheme; waits until its charts are drawn."""
    contexts = []

    def open_file(path: Path, *, width: int = 1280, height: int = 800, dark: bool = False) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        seen = Visit(context.new_page())
        seen.page.set_default_timeout(8_000)
        seen.page.on(
            "console", lambda m: m.type in ("error", "warning") and seen.complaints.append(m.text)
        )
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on(
            "request",
            lambda request: (
                request.url != path.as_uri()
                and not request.url.startswith(("data:", "blob:"))
                and seen.requests.append(request.url)
            ),
        )
        seen.page.goto(path.as_uri())
        seen.page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        return seen

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def demo_page(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """The page of the demo's plate, its fields smaller, embedded by a small network."""
    folder = tmp_path_factory.mktemp("demo")
    platemap = simulate_plate(folder / "plate.zarr", rows=6, columns=8, size=(96, 96))
    platemap.write_csv(folder / "platemap.csv")
    return _page(folder, folder / "plate.zarr", folder / "platemap.csv", tiny_weights, 32)


@pytest.fixture(scope="session")
def sbs_page(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, real_data_dir: Path
) -> Path:
    """The page of a real plate with a dose series."""
    folder = tmp_path_factory.mktemp("sbs")
    source = real_data_dir / "sbs_plate"
    convert_plate(source / "images", folder / "sbs.zarr", layout="regex", pattern=SBS)
    [labels] = source.glob("*_Metadata.csv")
    return _page(folder, folder / "sbs.zarr", labels, tiny_weights, 304)


def _page(folder: Path, plate: Path, platemap: Path, weights: Path, stride: int) -> Path:
    embed_to_folder(
        uf.open_plate(plate),
        uf.load_backbone(weights, device="cpu"),
        folder / "results",
        EmbedOptions(tile=32, stride=stride, keep_empty=True),
        platemap=Platemap(platemap.name, read_platemap(platemap)),
    )
    torch.set_num_threads(1)  # large jobs take all cores, and other tests compare bits
    [page] = write_reports(folder / "results", None, ReportOptions())
    return page


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Tables of a made-up plate of 48 wells in `tmp_path/results/P1`, without pixels."""
    return made_up(tmp_path / "results" / "P1")


@pytest.fixture
def remote() -> re.Pattern[str]:
    """Anything in a page that would fetch something."""
    return re.compile(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//""")
