import numpy as np
import pytest

from unidino_fast.convert import convert_plate
from unidino_fast.errors import ConvertError, UsageError

WELL = r"(?P<well>[A-H]\d+)"


@pytest.mark.parametrize(
    ("names", "pattern", "wells", "channels"),
    [
        (
            ["Channel1-01-A-01.tif", "Channel2-01-A-01.tif"],
            r"Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif",
            ["A/1"],
            ("ch1", "ch2"),
        ),
        (["3_12.png", "1_2.png"], r"(?P<row>\d)_(?P<column>\d+)", ["C/12", "A/2"], ("ch0",)),
        (
            ["B7_DAPI.tif", "B7_GFP.tif", "C7_DAPI.tif", "C7_GFP.tif"],
            WELL + "_(?P<channel>[A-Z]+)",
            ["B/7", "C/7"],
            ("DAPI", "GFP"),
        ),
        (["AB07.TIF"], r"(?P<well>[A-Z]+\d+)", ["AB/7"], ("ch0",)),
    ],
)
def test_regex(kit, tmp_path, names, pattern, wells, channels):
    import imagecodecs

    for seed, name in enumerate(names):
        path = tmp_path / "in" / name
        if path.suffix == ".png":
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(imagecodecs.png_encode(kit.pixels(seed)))
        else:
            kit.write(path, kit.pixels(seed))
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=pattern)
    assert (summary.layout, summary.channels, summary.plate) == ("regex", channels, "p")
    seeds = iter(range(len(names)))
    for well in wells:
        wanted = np.stack([kit.pixels(next(seeds)) for _ in channels])
        np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", well, "0"), wanted)


def test_the_pattern_sees_folders_and_all_groups(kit, tmp_path):
    truth = {}
    for plate in ("P1", "P2"):
        for site in (1, 2, 10):
            name = f"{plate}/A01/f{site}_z1_t5_c3.tif"
            truth[plate, site] = kit.write(tmp_path / "in" / name, kit.pixels(len(truth)))
    pattern = (
        r"^(?P<plate>\w+)/(?P<well>\w+)/f(?P<site>\d+)_z(?P<z>\d)_t(?P<time>\d)_c(?P<channel>\d)"
    )
    with pytest.raises(ConvertError, match=r"2 plates \(P1, P2\)"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=pattern)
    convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=pattern, plate="P2")
    for field, site in (("1", 1), ("2", 2), ("10", 10)):
        np.testing.assert_array_equal(
            kit.read(tmp_path / "p.zarr", "A/1", field)[0], truth["P2", site]
        )
    with pytest.raises(UsageError, match="no plate 'P3': it has P1, P2"):
        convert_plate(tmp_path / "in", tmp_path / "q.zarr", pattern=pattern, plate="P3")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<well>[A-H", "is no regular expression"),
        (r"(?P<site>\d)", "needs the group well, or row and column"),
        (r"(?P<row>\d)", "needs the group well, or row and column"),
        (r"(?P<row>\d)(?P<column>\d)(?P<well>\d)", "needs the group well, or row and column"),
        (r"(?P<well>\d)(?P<wave>\d)", "a group wave without a meaning"),
    ],
)
def test_bad_patterns(kit, tmp_path, pattern, message):
    kit.write(tmp_path / "in/A01.tif", kit.pixels(0))
    with pytest.raises(UsageError, match=message) as caught:
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", layout="regex", pattern=pattern)
    assert "plate, well (or row and column), site, channel" in str(
        caught.value
    ) or "no regular" in (str(caught.value))


def test_a_match_without_a_well_name_is_told(kit, tmp_path):
    kit.write(tmp_path / "in/A0.tif", kit.pixels(0))
    with pytest.raises(ConvertError, match=r"A0\.tif gives well 'A0'"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=WELL)


def test_no_file_matches(kit, tmp_path):
    kit.write(tmp_path / "in/one.tif", kit.pixels(0))
    with pytest.raises(ConvertError, match=r"none of 1 image files .* the first is one\.tif"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", pattern=WELL)
    with pytest.raises(ConvertError, match=r"Opera names .*ImageXpress names .*--layout regex"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    with pytest.raises(ConvertError, match=r"looked for Opera names \([^,]*\); the first"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", layout="opera")
    with pytest.raises(ConvertError, match=r"no load_data\.csv: name the image table"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr", layout="cpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "nikon"}, "layout 'nikon' is unknown"),
        ({"layout": "regex"}, "needs --pattern"),
        ({"layout": "opera", "pattern": WELL}, "--pattern belongs to --layout regex"),
        ({"metadata": "no.csv"}, r"--metadata no\.csv is no file"),
        ({"ngff": "0.6"}, "ngff '0.6' is not written"),
        ({"levels": 0}, "at least 1 resolution level"),
    ],
)
def test_options_that_do_not_fit(opera, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        convert_plate(opera.folder, tmp_path / "p.zarr", **options)


def test_sources_that_are_none(kit, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        convert_plate(tmp_path / "nowhere", tmp_path / "p.zarr")
    kit.write(tmp_path / "a.tif", kit.pixels(0))
    with pytest.raises(UsageError, match=r"a\.tif is no folder and no \.csv"):
        convert_plate(tmp_path / "a.tif", tmp_path / "p.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConvertError, match=r"empty holds no image files"):
        convert_plate(tmp_path / "empty", tmp_path / "p.zarr")
