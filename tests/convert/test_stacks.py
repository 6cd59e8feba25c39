"""Files that hold several planes, and PNG files."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from unidino_fast.convert import convert_plate
from unidino_fast.errors import ConvertError


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        ({}, "czyx"),
        ({"metadata": None}, "czyx"),
        ({"imagej": True, "metadata": {"axes": "ZYX"}}, "czyx"),
        ({"imagej": True, "metadata": {"axes": "TYX"}}, "tcyx"),
        ({"ome": True, "metadata": {"axes": "CYX"}}, "cyx"),
        ({"compression": "zlib"}, "czyx"),
    ],
)
def test_pages_are_z_unless_the_file_says_otherwise(kit, tmp_path, options, axes):
    truth = kit.write(tmp_path / "in/B02.tif", kit.pixels(0, (4, 9, 11)), **options)
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=r"(?P<well>B\d+)")
    image = kit.attributes(tmp_path / "p.zarr/B/2/0")
    assert "".join(axis["name"] for axis in image["multiscales"][0]["axes"]) == axes
    found = kit.read(tmp_path / "p.zarr", "B/2", "0")
    shape = {"czyx": (1, 4, 9, 11), "tcyx": (4, 1, 9, 11), "cyx": (4, 9, 11)}[axes]
    np.testing.assert_array_equal(found, truth.reshape(shape))
    assert summary.channels == (("ch0", "ch1", "ch2", "ch3") if axes == "cyx" else ("ch0",))


def test_hyperstacks_come_in_the_order_t_c_z(kit, tmp_path):
    truth = kit.pixels(0, (2, 3, 4, 9, 11))  # (T, Z, C, Y, X), as ImageJ writes
    kit.write(tmp_path / "in/B02.tif", truth, imagej=True, metadata={"axes": "TZCYX"})
    convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=r"(?P<well>B\d+)")
    found = kit.read(tmp_path / "p.zarr", "B/2", "0")
    np.testing.assert_array_equal(found, truth.transpose(0, 2, 1, 3, 4))


def test_pages_written_one_by_one_are_a_stack(kit, tmp_path):
    truth = kit.pixels(0, (3, 9, 11))
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in/B02.tif") as writer:
        for page in truth:
            writer.write(page, contiguous=False)
    convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=r"(?P<well>B\d+)")
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "B/2", "0")[0], truth)


def test_different_images_in_one_file_are_refused(kit, tmp_path):
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in/B02.tif") as writer:
        writer.write(kit.pixels(0))
        writer.write(kit.pixels(0, (4, 5)))
    with pytest.raises(ConvertError, match=r"B02\.tif cannot be used: it holds 2 different images"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=r"(?P<well>B\d+)")


def test_stacks_over_channels_in_file_names(kit, tmp_path):
    truth = np.stack([kit.pixels(seed, (3, 9, 11)) for seed in range(2)])
    for channel in range(2):
        kit.write(tmp_path / f"in/A01_s1_w{channel + 1}.tif", truth[channel])
    convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1"), truth)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png(kit, tmp_path, dtype):
    (tmp_path / "in").mkdir()
    truth = kit.pixels(0, (7, 13), dtype)
    (tmp_path / "in/A01_s1_w1.png").write_bytes(imagecodecs.png_encode(truth))
    convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1")[0], truth)


@pytest.mark.parametrize("fault", ["colour", "cut", "none"])
def test_bad_png_is_named(kit, tmp_path, fault):
    (tmp_path / "in").mkdir()
    colour = imagecodecs.png_encode(np.zeros((8, 8, 3), "uint8"))
    grey = imagecodecs.png_encode(kit.pixels(0, (40, 40), "uint8"))
    data = {"colour": colour, "cut": grey[:-300], "none": b"hello"}[fault]
    (tmp_path / "in/A01_s1_w1.png").write_bytes(data)
    with pytest.raises(ConvertError, match=r"A01_s1_w1\.png cannot be (read as an image|used)"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    assert not (tmp_path / "p.zarr").exists()
