import contextlib
import json
import signal
import threading
import time

import numpy as np
import pytest
import zarr

from unidino_fast.errors import OutputError, UsageError
from unidino_fast.writing import PlateWriter


def halves(pixels, levels):
    """Naive pyramid: the rounded mean of each block of 2 x 2, odd edges dropped."""
    found = [pixels]
    for _ in range(levels - 1):
        last = found[-1]
        *lead, y, x = last.shape
        level = np.zeros((*lead, y // 2, x // 2), last.dtype)
        for place in np.ndindex(*lead, y // 2, x // 2):
            j, i = place[-2:]
            block = last[place[:-2]][2 * j : 2 * j + 2, 2 * i : 2 * i + 2].astype("float64")
            level[place] = np.rint(block.mean()) if last.dtype.kind in "iu" else block.mean()
        found.append(level)
    return found


def load(path, level=0):
    return np.asarray(zarr.open_array(str(path / str(level)), mode="r")[...])


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("cyx", (2, 9, 14)),
        ("czyx", (2, 3, 8, 8)),
        ("tcyx", (3, 2, 5, 7)),
        ("tczyx", (2, 2, 3, 4, 6)),
    ],
)
def test_levels_and_axes(tmp_path, ngff, dtype, axes, shape):
    pixels = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    out = tmp_path / "p.zarr"
    with PlateWriter(out, name="p", channels=["a", "b"], ngff=ngff, levels=2) as writer:
        writer.add_field("B3", "0", pixels, axes=axes)
    for level, wanted in enumerate(halves(pixels, 2)):
        found = load(out / "B/3/0", level)
        np.testing.assert_array_equal(found, wanted)
        array = zarr.open_array(str(out / "B/3/0" / str(level)), mode="r")
        assert array.chunks == (1,) * (len(shape) - 2) + wanted.shape[-2:]
        assert array.metadata.zarr_format == (2 if ngff == "0.4" else 3)
    attributes = dict(zarr.open_group(str(out / "B/3/0"), mode="r").attrs)
    image = attributes.get("ome", attributes)["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == list(axes)
    scales = [d["coordinateTransformations"][0]["scale"] for d in image["datasets"]]
    lead = [1.0] * (len(axes) - 2)
    assert scales == [[*lead, 1.0, 1.0], [*lead, 2.0, 2.0]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 50), (1, 3, 2), (1, 2, 2)])
def test_tiny_images_have_fewer_levels(tmp_path, shape):
    pixels = np.arange(np.prod(shape), dtype="uint16").reshape(shape)
    with PlateWriter(tmp_path / "p.zarr", name="p", channels=["a"], levels=4) as writer:
        writer.add_field("A1", "0", pixels)
    attributes = json.loads((tmp_path / "p.zarr/A/1/0/.zattrs").read_text())
    datasets = attributes["multiscales"][0]["datasets"]
    assert len(datasets) == (2 if min(shape[1:]) >= 2 else 1)
    for level in range(len(datasets)):
        np.testing.assert_array_equal(
            load(tmp_path / "p.zarr/A/1/0", level), halves(pixels, 4)[level]
        )


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("size", [None, 0.65])
def test_the_strict_validator_accepts_the_plate(tmp_path, ngff, size):
    if ngff == "0.4":
        from ome_zarr_models.v04 import HCS
    else:
        from ome_zarr_models.v05 import HCS
    out = tmp_path / "p.zarr"
    with PlateWriter(
        out, name="p", channels=["a", "b"], ngff=ngff, pixel_size_um=size, levels=2
    ) as writer:
        for well in ("P24", "A1", "A02"):
            for field in ("0", "1"):
                writer.add_field(well, field, np.zeros((1, 2, 3, 8, 8), "uint8"), axes="tczyx")
    plate = HCS.from_zarr(zarr.open_group(str(out), mode="r"))
    found = (plate.ome_attributes if ngff == "0.5" else plate.attributes).plate
    assert [well.path for well in found.wells] == ["A/1", "A/2", "P/24"]
    assert [well.rowIndex for well in found.wells] == [0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("A0", "0", np.zeros((1, 4, 4))), "'A0' is no well name"),
        (("A1", "0", np.zeros((2, 4, 4))), "has 2 channels and the plate 1"),
        (("A1", "0", np.zeros((4, 4))), "have not the axes cyx"),
        (("A1", "0", np.zeros((1, 0, 4))), "have not the axes cyx"),
        (("A1", "../../x", np.zeros((1, 4, 4))), "field name '../../x'"),
        (("A1", "s_1", np.zeros((1, 4, 4))), "field name 's_1' is not written: use letters and"),
        (("A01", "9", np.zeros((1, 4, 4))), "A/1/9 is written already"),
    ],
)
def test_fields_that_do_not_fit(tmp_path, arguments, message):
    with PlateWriter(tmp_path / "p.zarr", name="p", channels=["a"]) as writer:
        writer.add_field("A1", "9", np.zeros((1, 4, 4)))
        with pytest.raises(UsageError, match=message):
            writer.add_field(*arguments)
    arrays = [path.parent for path in tmp_path.rglob(".zarray")]
    assert arrays == [tmp_path / "p.zarr/A/1/9/0"]


def test_two_writers_at_once_do_not_meet(tmp_path):
    out = tmp_path / "p.zarr"

    def write(number, meanwhile=None):
        with PlateWriter(out, name=f"p{number}", channels=["a"]) as writer:
            if meanwhile is not None:
                meanwhile()
            writer.add_field(f"A{number}", "0", np.full((1, 4, 4), number))

    with pytest.raises(OutputError, match=r"p\.zarr exists: use --overwrite"):
        write(1, meanwhile=lambda: write(2))
    assert [path.name for path in tmp_path.iterdir()] == ["p.zarr"]
    assert not (out / "A/1").exists()
    np.testing.assert_array_equal(load(out / "A/2/0"), np.full((1, 4, 4), 2))


def test_an_interruption_waits_for_the_chunks_that_are_on_their_way(tmp_path, monkeypatch):
    written = []

    def slow_write(self, path, pixels, axes):
        while not interrupted.wait(0.001):
            pass
        (self._partial / path).mkdir(parents=True)
        written.append(path)

    def interrupt(*_):
        interrupted.set()
        raise KeyboardInterrupt

    interrupted = threading.Event()
    monkeypatch.setattr(PlateWriter, "_write_array", slow_write)
    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            PlateWriter(tmp_path / "p.zarr", name="p", channels=["a"]) as writer,
        ):
            writer.add_field("A1", "0", np.zeros((1, 4, 4)))
    finally:
        signal.signal(signal.SIGALRM, old)
    assert written == ["A/1/0/0"]
    assert list(tmp_path.iterdir()) == []


def test_no_thread_begins_where_an_interruption_could_lose_it(tmp_path, monkeypatch):
    """An executor that is interrupted while it starts a thread waits for none at its end."""

    def slow_write(self, path, pixels, axes):
        time.sleep(0.2)
        (self._partial / path).mkdir(parents=True)
        written.set()

    def start(thread):
        begin(thread)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    begin, written = threading.Thread.start, threading.Event()
    monkeypatch.setattr(PlateWriter, "_write_array", slow_write)
    writer = PlateWriter(tmp_path / "p.zarr", name="p", channels=["a"])
    with contextlib.suppress(KeyboardInterrupt), writer:
        monkeypatch.setattr(threading.Thread, "start", start)
        writer.add_field("A1", "0", np.zeros((1, 4, 4)))
        raise KeyboardInterrupt
    assert written.wait(10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError, OSError])
def test_a_fault_in_the_last_step_leaves_nothing(tmp_path, monkeypatch, fault):
    def fail(self):
        raise fault

    monkeypatch.setattr(PlateWriter, "_write_plate_metadata", fail)
    with (
        pytest.raises(OutputError if fault is OSError else fault),
        PlateWriter(tmp_path / "new/p.zarr", name="p", channels=["a"]) as writer,
    ):
        writer.add_field("A1", "0", np.zeros((1, 4, 4)))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr, "create_array", full)
    with (
        pytest.raises(OutputError, match=r"p\.zarr cannot be written \(No space left on device"),
        PlateWriter(tmp_path / "p.zarr", name="p", channels=["a"]) as writer,
    ):
        writer.add_field("A1", "0", np.zeros((1, 4, 4)))
    assert list(tmp_path.iterdir()) == []
