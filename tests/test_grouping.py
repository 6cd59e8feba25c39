"""Channels whose tiles are cut in one step, as on a GPU: the same as one by one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import unidino_fast as uf
from unidino_fast import cores, embedding
from unidino_fast.benchmarks import command
from unidino_fast.engines import choose
from unidino_fast.errors import PixelError
from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ["DNA", "ER", "Mito", "AGP", "RNA"]


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Two fields, in which some tiles of the first channel are empty."""
    rng = np.random.default_rng(0)
    with PlateWriter(tmp_path / "p.zarr", name="p", channels=CHANNELS) as writer:
        for field in range(2):
            pixels = rng.poisson(900, (5, 70, 100)).astype(np.uint16)
            pixels[0, :32, : 32 * (field + 1)] = 0
            writer.add_field("B03", str(field), pixels)
    return tmp_path / "p.zarr"


@pytest.mark.parametrize("together", [2, 3, 9])
@pytest.mark.parametrize("channels", [None, ["ER"], ["Mito", "DNA"], ["RNA", "AGP", "Mito"]])
@pytest.mark.parametrize("intensity", ["dtype", "percentile"])
@pytest.mark.parametrize("keep_empty", [False, True])
def test_groups_of_channels(
    together: int,
    channels: list[str] | None,
    intensity: Any,
    keep_empty: bool,
    plate: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = uf.load_backbone(tiny_weights, device="cpu")
    given: Any = {"intensity": intensity, "channels": channels, "keep_empty": keep_empty}
    one_by_one = uf.embed_plate(uf.open_plate(plate), model, **given)
    everything = uf.embed_plate(uf.open_plate(plate), model, **given | {"channels": None})
    own = uf.feature_columns(one_by_one)
    assert one_by_one.select(own).equals(everything.select(own))
    assert len(own) == 64 * len(channels or CHANNELS)
    monkeypatch.setattr(embedding, "_together", lambda *_: together)
    found = uf.embed_plate(uf.open_plate(plate), model, **given)
    assert found.equals(one_by_one)
    assert found.height > 0


@pytest.mark.parametrize("together", [1, 5])
def test_a_field_whose_channels_stand_in_another_order(
    together: int, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_together", lambda *_: together)
    model = uf.load_backbone(tiny_weights, device="cpu")
    pixels = np.random.default_rng(0).poisson(900, (2, 5, 40, 70)).astype(np.uint16)
    found = []
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        path = tmp_path / f"{order[0]}.zarr"
        with PlateWriter(path, name="p", channels=CHANNELS) as writer:
            writer.add_field("B03", "0", pixels[0])
            writer.add_field("B03", "1", pixels[1][order])
        attributes = path / "B/3/1/.zattrs"
        document = json.loads(attributes.read_text())
        channels = document["omero"]["channels"]
        document["omero"]["channels"] = [channels[place] for place in order]
        attributes.write_text(json.dumps(document))
        found.append(uf.embed_plate(uf.open_plate(path), model))
    own = uf.feature_columns(found[0])
    assert found[1].select(own).equals(found[0].select(own))


def test_a_faulty_channel_of_a_group_is_named(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).random((5, 40, 40)).astype(np.float32)
    with PlateWriter(tmp_path / "p.zarr", name="p", channels=CHANNELS) as writer:
        writer.add_field("B03", "0", pixels)
    array: Any = zarr.open_array(tmp_path / "p.zarr/B/3/0/0")
    array[3, 5, 5] = np.nan
    monkeypatch.setattr(embedding, "_together", lambda *_: 5)
    model = uf.load_backbone(tiny_weights, device="cpu")
    with pytest.raises(PixelError, match=r"^field B03/0, channel AGP: .* are NaN or infinite"):
        uf.embed_plate(uf.open_plate(tmp_path / "p.zarr"), model)


@pytest.mark.parametrize(
    ("share", "n_cores", "expected"),
    [(None, 16, 16), (4, 16, 8), (12, 16, 12), (1, 2, 2), (64, 16, 16)],
)
def test_a_worker_reads_with_its_share_of_the_cores(
    share: int | None, n_cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_share", None)
    monkeypatch.setattr(cores, "usable_cores", lambda: n_cores)
    if share is not None:
        cores.take_share(share)
    assert cores.reading_cores() == expected


def test_what_auto_chooses_is_measured() -> None:
    for (device, _), engine in choose._FAST.items():
        assert engine in command._ENGINES[device]
