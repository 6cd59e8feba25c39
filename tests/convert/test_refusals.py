"""What makes no plate is refused before a pixel is written, and nothing is left behind."""

import logging

import numpy as np
import pytest
import tifffile

from unidino_fast import convert
from unidino_fast.convert import convert_plate
from unidino_fast.errors import ConvertError, OutputError, UsageError

FIRST = "r01c01f01p01-ch1sk1fk1fl1.tiff"
LAST = "r02c12f03p01-ch10sk1fk1fl1.tiff"


@pytest.fixture
def refused(opera, tmp_path, monkeypatch):
    """Checks that converting raises the message and that no pixel was written."""
    written = []
    monkeypatch.setattr(convert.PlateWriter, "add_field", lambda *a, **k: written.append(a))

    def check(message, kind=ConvertError, **options):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(kind, match=message) as caught:
            convert_plate(opera.folder, tmp_path / "new/deep/p.zarr", **options)
        assert "\n" not in str(caught.value)
        assert not written
        assert sorted(tmp_path.rglob("*")) == before

    return check


def test_two_files_for_one_place(opera, kit, refused):
    kit.write(opera.folder / "again" / FIRST, kit.pixels(0))
    (opera.folder / "Index.xml").write_text("<a><Plate><Name>P</Name></Plate></a>")
    refused(rf"A01 site 1 channel ch1 has 2 files: .*again/{FIRST}, .*{FIRST}; give a folder")


def test_a_field_that_lacks_a_channel(opera, refused):
    (opera.folder / LAST).unlink()
    refused(r"B12 site 3 lacks files .* has no channel ch10 beside .*r02c12f03p01-ch1sk1")


def test_fields_that_lack_a_plane(opera, kit, refused):
    kit.write(opera.folder / FIRST.replace("p01", "p02"), kit.pixels(0))
    refused(r"A01 site 1, A01 site 3, B12 site 1 and 1 more lack files .*channel ch2 plane 2")


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [((17, 22), "uint16", "17 x 22 uint16"), ((17, 23), "uint8", "17 x 23 uint8")],
)
def test_mixed_sizes_and_types(opera, kit, refused, shape, dtype, text):
    kit.write(opera.folder / LAST, kit.pixels(0, shape, dtype))
    refused(rf"{FIRST} is 17 x 23 uint16, but .*{LAST} is {text}; convert them apart")


def test_byte_order_is_no_difference(opera, kit, tmp_path):
    pixels = kit.write(opera.folder / FIRST, kit.pixels(77), byteorder=">")
    convert_plate(opera.folder, tmp_path / "p.zarr")
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1")[0], pixels)


@pytest.mark.parametrize("kept", [0, 3, 9, 100, 400, 0.5, 0.99])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_files_are_named(opera, kit, refused, caplog, kept, compression):
    path = opera.folder / LAST
    kit.write(path, kit.pixels(0), compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with caplog.at_level(logging.DEBUG):
        refused(rf"{LAST} cannot be read as an image \(.*\): copy it again")
    assert not caplog.records


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_stacks_cut_short_are_named(opera, kit, refused, kept):
    path = opera.folder / FIRST
    with tifffile.TiffWriter(path) as writer:
        for seed in range(4):
            writer.write(kit.pixels(seed), contiguous=False, compression="zlib", metadata=None)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refused(rf"{FIRST} cannot be read as an image")


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((8, 8, 3), "uint8"), {"photometric": "rgb"}, "it is RGB"),
        (np.zeros((8, 8), bool), {}, "its dtype bool"),
        (np.zeros((8, 8), "complex64"), {}, "its dtype complex64"),
        (np.zeros((8, 8), "uint8"), {"photometric": "miniswhite"}, "it stores white as 0"),
    ],
)
def test_unfit_files_are_named(opera, kit, refused, pixels, options, reason):
    kit.write(opera.folder / FIRST, pixels, **options)
    refused(rf"{FIRST} cannot be used: {reason}")


def test_pages_and_names_that_both_tell_z(opera, kit, refused):
    for path in sorted(opera.folder.iterdir()):
        kit.write(path, kit.pixels(0, (2, 17, 23)))
        kit.write(path.with_name(path.name.replace("p01", "p02")), kit.pixels(0, (2, 17, 23)))
    refused(r"file names tell 2 z values and each file holds 2, such as .*r01c01")


def test_places_that_are_taken(opera, refused, tmp_path):
    (tmp_path / "new/deep/p.zarr").mkdir(parents=True)
    (tmp_path / "new/deep/p.zarr/thesis.txt").write_text("dear")
    refused(r"p\.zarr exists: use --overwrite", OutputError)
    refused(r"p\.zarr is no Zarr store, so --overwrite leaves it", OutputError, overwrite=True)


def test_the_source_is_never_overwritten(opera, tmp_path):
    for place in (opera.folder, opera.folder.parent):
        with pytest.raises(UsageError, match="is or holds the source"):
            convert_plate(opera.folder, place, overwrite=True)


def test_a_place_that_cannot_be_made(opera, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written"):
        convert_plate(opera.folder, tmp_path / "file/p.zarr")


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_of_a_plate_that_broke_off(opera, tmp_path, fault):
    def progress(done, total):
        if done == 2:
            raise fault

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(type(fault)):
        convert_plate(opera.folder, tmp_path / "new/p.zarr", progress=progress)
    assert sorted(tmp_path.rglob("*")) == before


def test_pixels_that_do_not_decode_leave_nothing(opera, kit, tmp_path):
    path = opera.folder / LAST
    kit.write(path, kit.pixels(0), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConvertError, match=rf"{LAST} cannot be read as an image"):
        convert_plate(opera.folder, tmp_path / "p.zarr")
    assert sorted(tmp_path.rglob("*")) == before


def test_overwrite_keeps_the_old_plate_until_the_new_one_is_whole(opera, kit, tmp_path):
    out = tmp_path / "p.zarr"
    convert_plate(opera.folder, out)
    old = kit.read(out, "A/1", "1")
    kit.write(opera.folder / FIRST, kit.pixels(1234))
    with pytest.raises(OutputError, match="exists"):
        convert_plate(opera.folder, out)
    (opera.folder / LAST).rename(tmp_path / "aside")
    with pytest.raises(ConvertError):
        convert_plate(opera.folder, out, overwrite=True)
    np.testing.assert_array_equal(kit.read(out, "A/1", "1"), old)
    (tmp_path / "aside").rename(opera.folder / LAST)
    convert_plate(opera.folder, out, overwrite=True)
    np.testing.assert_array_equal(kit.read(out, "A/1", "1")[0], kit.pixels(1234))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_dtypes_that_no_plate_holds(kit, tmp_path, dtype):
    import tifffile

    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/A01_s1_w1.tif", np.zeros((8, 9), dtype))
    with pytest.raises(ConvertError, match=rf"A01_s1_w1.tif holds pixels of {dtype}, but plates"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    assert not (tmp_path / "p.zarr").exists()
