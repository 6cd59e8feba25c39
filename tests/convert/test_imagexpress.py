import numpy as np
import pytest

from unidino_fast.convert import convert_plate

GUID = "1E94C24B-45E4-450A-9919-257C714278F7"


def test_guids_that_begin_with_digits_and_thumbnails(kit, tmp_path):
    truth = {}
    for well in ("E07", "E08"):
        for site in (1, 2):
            for wave in (1, 2, 11):
                stem = f"2023-02-21/1334/Mix_w1_A2_{well}_s{site}_w{wave}"
                truth[well, site, wave] = kit.write(
                    tmp_path / "in" / f"{stem}{GUID}.tif", kit.pixels(len(truth))
                )
                kit.write(tmp_path / "in" / f"{stem}_thumb{GUID}.tif", kit.pixels(0, (4, 4)))
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    assert (summary.layout, summary.plate) == ("imagexpress", "Mix_w1_A2")
    assert summary.channels == ("w1", "w2", "w11")
    assert (summary.skipped, summary.warnings) == (12, ())
    for (well, site, wave), pixels in truth.items():
        field = kit.read(tmp_path / "p.zarr", f"E/{int(well[1:])}", str(site))
        np.testing.assert_array_equal(field[(1, 2, 11).index(wave)], pixels)


@pytest.mark.parametrize(
    "name",
    [
        "Plate_B03_s1_w1.tif",
        "Plate_B03_w1.TIF",
        f"B03_w1{GUID}.tif",
        f"Plate_B03_s1{GUID}.tif",
        "Plate_B03_s1.tiff",
    ],
)
def test_parts_may_be_missing(kit, tmp_path, name):
    pixels = kit.write(tmp_path / "Plate" / name, kit.pixels(3))
    summary = convert_plate(tmp_path / "Plate", tmp_path / "p.zarr")
    told = "Plate" if name.startswith("Plate") else "p"  # else the name of the output
    assert (summary.layout, summary.plate, summary.channels) == ("imagexpress", told, ("w1",))
    np.testing.assert_array_equal(
        kit.read(tmp_path / "p.zarr", "B/3", "1" if "_s1" in name else "0")[0], pixels
    )


def test_folders_are_time_and_z_and_projections_stay_out(kit, tmp_path):
    truth = np.zeros((2, 1, 3, 17, 23), "uint16")
    for t in range(2):
        kit.write(tmp_path / f"in/TimePoint_{t + 1}/X_A01_s1_w1.tif", kit.pixels(99))
        for z in range(3):
            truth[t, 0, z] = kit.pixels(t * 3 + z)
            name = f"in/TimePoint_{t + 1}/ZStep_{z + 1}/X_A01_s1_w1.tif"
            kit.write(tmp_path / name, truth[t, 0, z])
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1"), truth)
    assert summary.skipped == 2
    assert summary.warnings == ("2 projections beside ZStep folders were left out",)
    assert summary.plate == "X"


def test_pixel_size_of_the_metamorph_description(kit, tmp_path):
    description = (
        '<MetaData><prop id="spatial-calibration-x" type="float" value="1.3668"/>'
        '<prop id="spatial-calibration-units" type="string" value="um"/></MetaData>'
    )
    kit.write(tmp_path / "in/A01_s1_w1.tif", kit.pixels(0), description=description, metadata=None)
    convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    image = kit.attributes(tmp_path / "p.zarr/A/1/1")
    scale = image["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([1.0, 1.3668, 1.3668])


def test_plate_name_can_be_given_where_only_a_folder_tells(kit, tmp_path):
    kit.write(tmp_path / "in/A01_s1_w1.tif", kit.pixels(0))
    assert convert_plate(tmp_path / "in", tmp_path / "p.zarr", plate="BR1").plate == "BR1"
