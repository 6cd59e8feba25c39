"""Labels of images, and the order that brings replicates together."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import tifffile
import torch

from unidino_fast.errors import TrainingError, UsageError
from unidino_fast.training.config import SourceConfig, parse_config
from unidino_fast.training.data import ViewDataset, collate, micro_batches
from unidino_fast.training.labels import Replicates, read_labels, replicates
from unidino_fast.training.processes import Processes
from unidino_fast.training.schedules import Clock
from unidino_fast.training.sections import SupconConfig
from unidino_fast.training.sources import Place, open_source
from unidino_fast.training.supcon import Supcon

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

ALONE = Processes(torch.device("cpu"))


def opened(config: SourceConfig) -> Any:
    return open_source(config, smallest=16, cache_bytes=10**6)


def labels_of(config: SourceConfig) -> tuple[list[str | None], list[str]]:
    [labels], complaints = read_labels([config], [opened(config)])
    return labels, complaints


@pytest.fixture
def plate(plates: ModuleType, tmp_path: Path) -> SourceConfig:
    """Wells A01 (2 fields), A02 and B01 of 3 channels, with a platemap."""
    fields = {"A/1": ["0", "1"], "A/2": ["0"], "B/1": ["0"]}
    plates.write_plate(tmp_path / "p", fields)
    rows = {"Well": ["A01", "A2", "B01"], "drug": ["x", None, "y"], "dose": [1.0, None, 2.5]}
    pl.DataFrame(rows).write_csv(tmp_path / "map.csv")
    return SourceConfig(
        name="d", path=str(tmp_path / "p"), platemap=str(tmp_path / "map.csv"), label="drug"
    )


def test_labels_of_a_plate(plate: SourceConfig) -> None:
    labels, complaints = labels_of(plate)
    assert labels == ["x"] * 6 + [None] * 3 + ["y"] * 3
    [line] = complaints
    assert line.startswith("dataset d: 3 of 12 images have no label in column drug of")
    source = opened(plate)
    places = [source.place(index) for index in range(12)]
    assert [place.well for place in places] == ["A01"] * 6 + ["A02"] * 3 + ["B01"] * 3
    assert len({place.channel for place in places[:3]}) == 3
    assert {place.plate for place in places} == {"plate one"}


def test_numbers_are_text(plate: SourceConfig) -> None:
    labels, _ = labels_of(plate.model_copy(update={"label": "Metadata_dose"}))
    assert labels == ["1"] * 6 + [None] * 3 + ["2.5"] * 3  # polars holds 1.0 for a missing cell


def test_platemaps_of_several_plates(plate: SourceConfig, tmp_path: Path) -> None:
    rows = [("plate one", "A01", "x"), ("other", "A01", "z"), ("other", "B01", "z")]
    table = pl.DataFrame(rows, schema=["Plate", "Well", "drug"], orient="row")
    table.write_parquet(tmp_path / "map.parquet")
    both = plate.model_copy(update={"platemap": str(tmp_path / "map.parquet")})
    assert labels_of(both)[0] == ["x"] * 6 + [None] * 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "dug"}, "dataset d: .* has no column dug: set label to one of Well, drug, dose"),
        ({"platemap": "/none.csv"}, "dataset d: .*none.csv does not exist"),
        ({"label": "empty"}, r"dataset d has no label: none of its 12 images, such as A/1/0"),
    ],
)
def test_faults_of_platemaps(
    change: dict[str, str], said: str, plate: SourceConfig, tmp_path: Path
) -> None:
    table = pl.read_csv(tmp_path / "map.csv").with_columns(empty=pl.lit(None, pl.String))
    table.write_csv(tmp_path / "map.csv")
    with pytest.raises(TrainingError, match=said) as caught:
        labels_of(plate.model_copy(update=change))
    assert "\n" not in str(caught.value)


def test_two_labels_for_a_well(plate: SourceConfig, tmp_path: Path) -> None:
    pl.DataFrame({"Well": ["A01", "A1"], "drug": ["x", "y"]}).write_csv(tmp_path / "map.csv")
    with pytest.raises(TrainingError, match="has two labels for well A01: keep one"):
        labels_of(plate)


def test_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "P7").mkdir()
    for name in ("b3_w1_tax", "B04_w2_dmso"):
        image = np.arange(400, dtype=np.uint16).reshape(20, 20)
        tifffile.imwrite(tmp_path / "P7" / f"{name}.tif", image)
    pattern = r"(?P<plate>P\d)/(?P<well>\w\d+)_w(?P<channel>\d)_(?P<label>\w+)\.tif"
    config = SourceConfig(name="d", path=str(tmp_path), pattern=pattern)
    source = opened(config)
    places = [source.place(index) for index in range(2)]
    assert places == [Place("P7", "B04", "2", "dmso"), Place("P7", "B03", "1", "tax")]
    assert labels_of(config) == (["dmso", "tax"], [])
    by_map = config.model_copy(update={"platemap": str(tmp_path / "m.csv"), "label": "drug"})
    pl.DataFrame({"Well": ["B03", "B04"], "drug": ["u", "v"]}).write_csv(tmp_path / "m.csv")
    assert labels_of(by_map)[0] == ["v", "u"]
    bare = config.model_copy(update={"pattern": "(?P<well>Z)"})
    with pytest.raises(TrainingError, match=r"dataset d: pattern .* finds no well in P7/B04_w2"):
        opened(bare).place(0)


def test_channels_of_one_file_are_told_apart(tmp_path: Path) -> None:
    pixels = np.arange(3 * 400, dtype=np.uint16).reshape(3, 20, 20)
    tifffile.imwrite(tmp_path / "A01.tif", pixels, imagej=True, metadata={"axes": "CYX"})
    source = opened(SourceConfig(name="d", path=str(tmp_path), pattern=r"(?P<well>A\d+)"))
    assert [source.place(index).channel for index in range(3)] == ["#0", "#1", "#2"]


# label, channel, plate, well
ONE = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 2], [1, 0, 0, 3], [1, 0, 0, 4],
       [2, 0, 0, 5], [-1, 0, 0, 6], [0, 1, 0, 0], [0, 1, 0, 1]]  # fmt: skip
TWO = [[0, 0, 1, 7], [2, 0, 1, 8], [1, 0, 2, 9]]


def order_of(positives: str = "other-well", size: int = 2, seed: int = 0) -> Replicates:
    settings = SupconConfig(positives=positives, replicates=size)  # type: ignore[arg-type]
    return Replicates(["one", "two"], [np.array(ONE), np.array(TWO)], settings, seed)


@pytest.mark.parametrize(("positives", "place"), [("other-well", 3), ("other-plate", 2)])
@pytest.mark.parametrize("size", [2, 3])
def test_groups_are_replicates(positives: str, place: int, size: int) -> None:
    order = order_of(positives, size)
    firsts: list[tuple[int, tuple[int, int]]] = []
    for group in range(200):
        picked = [order.pick(0, group * size + member) for member in range(size)]
        found = [order.identity(*pick) for pick in picked]
        assert found == [tuple([ONE, TWO][dataset][plane]) for dataset, plane in picked]
        assert len({identity[:2] for identity in found}) == 1
        assert found[0][0] >= 0
        everywhere = {tuple(row)[place] for row in [*ONE, *TWO] if tuple(row[:2]) == found[0][:2]}
        assert len({identity[place] for identity in found}) == min(size, len(everywhere))
        assert picked[0][0] == group % 2  # datasets begin in turn
        if positives == "other-well" and found[0][:2] != (0, 1):
            assert found[1][2] != found[0][2]  # another plate, where there is one
        firsts.append((picked[0][0], found[0][:2]))
    for dataset in (0, 1):
        begun = Counter(key for where, key in firsts if where == dataset)
        wanted = {(0, 0), (1, 0), (2, 0)} | ({(0, 1)} if dataset == 0 else set())
        if positives == "other-plate":
            wanted -= {(0, 1)}  # its two wells are on one plate
        assert set(begun) == wanted
        assert max(begun.values()) - min(begun.values()) <= 1  # none twice before all once


def test_picks_depend_on_nothing_but_seed_epoch_and_index() -> None:
    order, other = order_of(), pickle.loads(pickle.dumps(order_of()))
    forwards = [order.pick(epoch, index) for epoch in (0, 1) for index in range(60)]
    backwards = [other.pick(epoch, index) for epoch in (1, 0) for index in reversed(range(60))]
    assert forwards == backwards[::-1]
    assert forwards[:60] != forwards[60:]
    assert forwards[:60] != [order_of(seed=1).pick(0, index) for index in range(60)]
    assert {pick for pick in forwards if pick[0] == 0} == {
        (0, plane) for plane, row in enumerate(ONE) if row[0] >= 0
    }
    assert order.epoch_length == 2 * 9


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], "dataset d has no positives: no label of it"),
        ([[0, 0, 0, 0], [0, 1, 0, 1]], "dataset d has no positives"),
        ([[0, 0, 0, 0], [0, 0, 0, 1]], "all images that have positives have the same label"),
    ],
)
def test_datasets_without_pairs(one: list[list[int]], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Replicates(["d"], [np.array(one)], SupconConfig(), 0)


def test_every_image_of_a_batch_has_a_positive(make_labelled: Any) -> None:
    config = make_labelled(optim__batch=8)
    sources = [opened(one) for one in config.data]
    order, _, complaints = replicates(config.data, sources, config.supcon, config.seed)
    assert complaints == []
    method = Supcon(config, Clock(1, 1), ALONE)
    dataset = ViewDataset(sources, method.groups, config, order)
    clock = Clock(steps_per_epoch=3, epochs=2)
    for keys in micro_batches(0, clock, batch=8, accumulate=1, rank=0, count=1):
        batch = collate([dataset[key] for key in keys])
        positive, _ = method.pairs(batch)  # type: ignore[arg-type]
        assert positive.shape == (16, 16)
        assert bool(positive.any(1).all())


def test_controls(make_labelled: Any) -> None:
    def labels(**changes: Any) -> set[int]:
        config = make_labelled(**changes)
        sources = [opened(one) for one in config.data]
        order, _, _ = replicates(config.data, sources, config.supcon, 0)
        return {order.identity(*order.pick(0, index))[0] for index in range(60)}

    assert labels() == {0, 1, 2}  # a, b, dmso
    assert labels(supcon__controls=["dmso"]) == {0, 1}
    assert labels(supcon__controls=["dmso"], supcon__use_controls="as-class") == {0, 1, 2}
    with pytest.raises(TrainingError, match=r"supcon.controls DMS is nobody's label: the labels"):
        labels(supcon__controls=["DMS"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "dataset a has no labels, which method supcon needs: give it platemap and label"),
        ({"platemap": "x.csv"}, "platemap needs label"),
        ({"pattern": "(?P<label>x)"}, "has no group (?P<well>...): add it"),
        ({"pattern": "(?P<well>"}, "is no regular expression"),
    ],
)
def test_a_dataset_without_labels_is_one_line(change: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config({"method": "supcon", "data": [{"name": "a", "path": "x", **change}]})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
