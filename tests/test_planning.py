import dataclasses

import pytest

from unidino_fast.config import EmbedOptions
from unidino_fast.errors import PlateError, UsageError
from unidino_fast.planning import TileGrid, plan_plate
from unidino_fast.plate import open_plate
from unidino_fast.simulate import simulate_plate


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """2 x 2 wells of 2 fields, 60 x 44 px, channels DNA, ER, Mito."""
    path = tmp_path_factory.mktemp("planning") / "tiny.zarr"
    simulate_plate(
        path, rows=2, columns=2, n_fields=2, size=(60, 44), channels=("DNA", "ER", "Mito")
    )
    return open_plate(path)


def changed(plate, well, site, **changes):
    """The plate with one field changed; `shape` and `channels` of it may differ."""
    wells = []
    for one in plate.wells:
        fields = []
        for field in one.fields:
            if (one.name, field.site) == (well, site):
                shape = changes.pop("shape", field.array.shape)
                array = dataclasses.replace(field.array, shape=shape)
                field = dataclasses.replace(field, array=array, **changes)
            fields.append(field)
        wells.append(dataclasses.replace(one, fields=tuple(fields)))
    return dataclasses.replace(plate, wells=tuple(wells))


def options(**values):
    return EmbedOptions(**{"tile": 16, **values})


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_grid_counts_what_a_loop_finds(tile, stride):
    grid = TileGrid(tile, stride)
    for length in range(20):
        wanted = len([start for start in range(0, length, stride) if start + tile <= length])
        assert grid.count(length) == wanted
        assert grid.n_tiles(length, 11) == wanted * grid.count(11)


@pytest.mark.parametrize(
    ("size", "n_tiles"), [((1080, 1080), 16), ((1024, 1280), 20), ((224, 447), 1), ((223, 999), 0)]
)
def test_grid_of_the_paper(size, n_tiles):
    assert TileGrid(224, 224).n_tiles(*size) == n_tiles


def test_a_plate(plate):
    plan = plan_plate(plate, options())
    assert [task.name for task in plan.wells] == ["A01", "A02", "B01", "B02"]
    assert plan.channels == ("DNA", "ER", "Mito")
    assert not plan.has_time
    assert plan.n_fields == 8
    assert plan.n_tiles == 8 * 3 * (3 * 2)
    for well in plan.wells:
        assert well.n_tiles == 2 * 3 * 6
        for task, field in zip(well.fields, well.well.fields, strict=True):
            assert task.field is field
            assert (task.time, task.channels, task.labels) == (0, (0, 1, 2), ("DNA", "ER", "Mito"))
            assert task.n_tiles == 6


@pytest.mark.parametrize(("stride", "n_tiles"), [(None, 6), (16, 6), (8, 6 * 4), (60, 1)])
def test_stride(plate, stride, n_tiles):
    assert plan_plate(plate, options(stride=stride)).wells[0].fields[0].n_tiles == n_tiles


@pytest.mark.parametrize("chosen", [("Mito",), ("Mito", "DNA"), ("ER", "Mito", "DNA")])
def test_channels_in_the_order_of_the_plate(plate, chosen):
    plan = plan_plate(plate, options(channels=chosen))
    assert plan.channels == tuple(label for label in ("DNA", "ER", "Mito") if label in chosen)
    task = plan.wells[0].fields[0]
    assert task.labels == plan.channels
    assert task.channels == tuple(("DNA", "ER", "Mito").index(label) for label in plan.channels)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            ("dNA",),
            r"^channel 'dNA' is not in plate tiny \(did you mean DNA\?\): choose among DNA, ER",
        ),
        (("Mitto", "DNA"), r"did you mean Mito\?"),
        (("Golgi-9",), r"^channel 'Golgi-9' is not in plate tiny: choose among DNA, ER, Mito$"),
        (("DNA", "DNA"), "^channels DNA,DNA are empty or repeat: choose each once"),
        ((), r"^channels \(none\) are empty or repeat"),
    ],
)
def test_channels_that_are_not_there(plate, chosen, message):
    with pytest.raises(UsageError, match=message):
        plan_plate(plate, options(channels=chosen))


def test_a_field_without_some_channels(plate):
    odd = changed(plate, "A02", "1", channels=("Mito", "DNA"))
    plan = plan_plate(odd, options())
    assert plan.wells[1].fields[1].labels == ("DNA", "Mito")
    assert plan.wells[1].fields[1].channels == (1, 0)
    assert plan.n_tiles == (8 * 3 - 1) * 6


def test_a_field_without_any_chosen_channel_is_left_out(plate):
    odd = changed(plate, "A02", "1", channels=("Mito", "DNA"), shape=(2, 5, 5))
    plan = plan_plate(odd, options(channels=("ER",)))  # though its size would not fit
    assert [len(task.fields) for task in plan.wells] == [2, 1, 2, 2]
    odd = changed(odd, "A02", "0", channels=("Mito", "DNA"))
    plan = plan_plate(odd, options(channels=("ER",)))
    assert [task.name for task in plan.wells] == ["A01", "B01", "B02"]


@pytest.mark.parametrize(
    ("tile", "patch", "message"),
    [
        (
            224,
            16,
            r"^tile 224 does not fit field A01/0 of 60 x 44 px: use --tile 32 or smaller$",
        ),
        (45, 1, "use --tile 44 or smaller"),
        (61, 14, "use --tile 42 or smaller"),
        (224, 64, "the backbone needs at least 64 px"),
    ],
)
def test_a_tile_that_does_not_fit(plate, tile, patch, message):
    with pytest.raises(UsageError, match=message):
        plan_plate(plate, options(tile=tile), patch=patch)


def test_a_tile_that_does_not_fit_one_field(plate):
    odd = changed(plate, "B01", "1", shape=(3, 180, 15))
    message = "^tile 16 does not fit field B01/1 of 180 x 15 px: use --tile 8 or smaller$"
    with pytest.raises(UsageError, match=message):
        plan_plate(odd, options(), patch=8)


def test_a_tile_of_just_the_field(plate):
    assert plan_plate(plate, options(tile=44)).wells[0].fields[0].n_tiles == 1


def test_planes(plate):
    deep = changed(plate, "A01", "0", axes="czyx", shape=(3, 5, 60, 44))
    for z in ("max", "mean", 0):
        assert plan_plate(deep, options(z=z)).n_fields == 8
    with pytest.raises(UsageError, match="z plane 5 is not in field A01/0: it has planes 0 to 4"):
        plan_plate(deep, options(z=5))
    with pytest.raises(UsageError, match="z plane 4 is not in field A01/1: it has planes 0 to 0"):
        plan_plate(deep, options(z=4))


def test_times(plate):
    film = changed(plate, "A02", "0", axes="tcyx", shape=(3, 3, 60, 44))
    plan = plan_plate(film, options())
    assert plan.has_time
    assert plan.n_fields == 10
    found = [(task.field.site, task.time) for task in plan.wells[1].fields]
    assert found == [("0", 0), ("0", 1), ("0", 2), ("1", 0)]


def test_a_channel_that_would_be_metadata(plate):
    odd = changed(plate, "A01", "0", channels=("DNA", "ER", "Metadata_x"))
    odd = dataclasses.replace(odd, channels=("DNA", "ER", "Metadata_x"))
    with pytest.raises(
        PlateError, match="channel 'Metadata_x' of plate tiny starts with Metadata_"
    ):
        plan_plate(odd, options())
    assert plan_plate(odd, options(channels=("DNA",))).channels == ("DNA",)


def test_a_plate_without_wells(plate):
    plan = plan_plate(dataclasses.replace(plate, wells=()), options())
    assert (plan.n_fields, plan.n_tiles, plan.wells) == (0, 0, ())
