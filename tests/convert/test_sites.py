"""Fields bear the number that the microscope gave their site."""

import pytest

from unidino_fast.config import EmbedOptions
from unidino_fast.convert import convert_plate
from unidino_fast.planning import plan_plate
from unidino_fast.plate import open_plate

SITE = r"(?P<well>[A-Z]\d+)_s(?P<site>[^_]+)_"


def sites(plate):
    return [field.site for well in open_plate(plate).wells for field in well.fields]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_site_numbers_are_kept_and_sorted_as_numbers(kit, tmp_path, ngff):
    for site in ("10", "05", "2", "0"):
        kit.write(tmp_path / f"in/A01_s{site}_.tif", kit.pixels(int(site)))
    kit.write(tmp_path / "in/B02_s7_.tif", kit.pixels(7))
    out = tmp_path / "p.zarr"
    convert_plate(tmp_path / "in", out, pattern=SITE, ngff=ngff)
    paths = [image["path"] for image in kit.attributes(out / "A/1")["well"]["images"]]
    assert paths == ["0", "2", "5", "10"]
    assert sites(out) == [*paths, "7"]
    for site in paths:
        assert (kit.read(out, "A/1", site)[0] == kit.pixels(int(site))).all()


def test_the_site_of_the_plan_is_the_microscopes(opera, tmp_path):
    convert_plate(opera.folder, tmp_path / "p.zarr")
    plan = plan_plate(open_plate(tmp_path / "p.zarr"), EmbedOptions(tile=16))
    assert [task.field.site for well in plan.wells for task in well.fields] == ["1", "3"] * 2


@pytest.mark.parametrize("names", [("left", "right"), ("1", "right"), ("-1", "5")])
def test_sites_that_are_no_numbers_are_ranked(kit, tmp_path, names):
    for name in names:
        kit.write(tmp_path / f"in/A01_s{name}_.tif", kit.pixels(0))
    convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=SITE)
    assert sites(tmp_path / "p.zarr") == ["0", "1"]


def test_numbers_that_pandas_made_floats(kit, tmp_path):
    rows = ["Metadata_Plate,Metadata_Well,Metadata_Site,FileName_OrigDNA"]
    for site in ("4.0", "3.0"):
        kit.write(tmp_path / f"in/{site}.tif", kit.pixels(0))
        rows.append(f"P1,A01,{site},{site}.tif")
    (tmp_path / "in/load_data.csv").write_text("\n".join(rows))
    convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    assert sites(tmp_path / "p.zarr") == ["3", "4"]


def test_control_characters_stay_out_of_the_plate(kit, tmp_path):
    for channel in ("D\x1b[2JNA", "E\x07R"):
        kit.write(tmp_path / f"in/A01_{channel}.tif", kit.pixels(0))
    summary = convert_plate(
        tmp_path / "in",
        tmp_path / "p.zarr",
        pattern=r"(?P<well>A\d+)_(?P<channel>.+)\.tif",
        plate="P\x1b[1m\n1",
    )
    assert (summary.plate, summary.channels) == ("P_[1m 1", ("D_[2JNA", "E_R"))
    plate = open_plate(tmp_path / "p.zarr")
    assert (plate.name, plate.channels) == (summary.plate, summary.channels)
    image = kit.attributes(tmp_path / "p.zarr/A/1/0")
    assert [channel["label"] for channel in image["omero"]["channels"]] == list(summary.channels)
    assert kit.attributes(tmp_path / "p.zarr")["plate"]["name"] == "P_[1m 1"


def test_channels_alike_after_cleaning_are_numbered(kit, tmp_path):
    for channel in ("D\x1bNA", "D\x07NA"):
        kit.write(tmp_path / f"in/A01_{channel}.tif", kit.pixels(0))
    summary = convert_plate(
        tmp_path / "in", tmp_path / "p.zarr", pattern=r"(?P<well>A\d+)_(?P<channel>.+)\.tif"
    )
    assert summary.channels == ("ch0", "ch1")
