import numpy as np
import pytest

from unidino_fast.convert import convert_plate
from unidino_fast.errors import ConvertError

INDEX = """<?xml version="1.0" encoding="utf-8"?>
<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5">
  <Plates><Plate><PlateID>p</PlateID><Name>BR0042</Name></Plate></Plates>
  <Images>
    <Image Version="1"><URL>r01c01f01p01-ch1sk1fk1fl1.tiff</URL><ChannelID>1</ChannelID>
      <ChannelName>HOECHST 33342</ChannelName>
      <ImageResolutionX Unit="m">2.97E-07</ImageResolutionX></Image>
    <Image Version="1"><ChannelID>2</ChannelID><ChannelName>Alexa 488</ChannelName></Image>
  </Images>
</EvaluationInputData>"""

MAPS = """<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV6"><Maps><Map>
  <Entry ChannelID="1"><ChannelName>DNA</ChannelName>
    <ImageResolutionX Unit="um">0.65</ImageResolutionX></Entry>
  <Entry ChannelID="2"><ChannelName>ER</ChannelName></Entry>
  <Entry ChannelID="10"><ChannelName>ER</ChannelName></Entry>
</Map></Maps></EvaluationInputData>"""


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_every_pixel_arrives_in_its_place(opera, kit, tmp_path, ngff):
    out = tmp_path / "plate.zarr"
    seen = []
    summary = convert_plate(
        opera.folder, out, ngff=ngff, progress=lambda done, total: seen.append((done, total))
    )
    for well, row, column in (("A/1", 1, 1), ("B/12", 2, 12)):
        for field, site in (("1", 1), ("3", 3)):
            wanted = np.stack([opera.truth[row, column, site, ch] for ch in (1, 2, 10)])
            np.testing.assert_array_equal(kit.read(out, well, field), wanted)
    assert (summary.plate, summary.layout, summary.n_wells, summary.n_fields) == (
        "plate",
        "opera",
        2,
        4,
    )
    assert summary.channels == ("ch1", "ch2", "ch10")
    assert (summary.shape, summary.dtype, summary.n_files) == ((17, 23), "uint16", 12)
    assert (summary.skipped, summary.warnings) == (0, ())
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert kit.attributes(out)["plate"]["name"] == "plate"


@pytest.mark.parametrize("place", ["Images/Index.idx.xml", "Images/Index.xml", "Index.idx.xml"])
def test_index_tells_plate_channels_and_pixel_size(opera, kit, tmp_path, place):
    (opera.folder.parent / place).write_text(INDEX)
    summary = convert_plate(opera.folder, tmp_path / "p.zarr")
    assert summary.plate == "BR0042"
    assert summary.channels == ("HOECHST 33342", "Alexa 488", "ch10")
    image = kit.attributes(tmp_path / "p.zarr/A/1/1")
    scale = image["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([1.0, 0.297, 0.297])
    assert image["multiscales"][0]["axes"][2]["unit"] == "micrometer"
    assert [c["label"] for c in image["omero"]["channels"]] == list(summary.channels)


def test_index_of_harmony_6_and_a_name_for_two_channels(opera, kit, tmp_path):
    (opera.folder / "Index.xml").write_text(MAPS)
    summary = convert_plate(opera.folder, tmp_path / "p.zarr")
    assert summary.channels == ("DNA", "ch2", "ch10")
    image = kit.attributes(tmp_path / "p.zarr/A/1/1")
    scale = image["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([1.0, 0.65, 0.65])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused(opera, tmp_path, encoding):
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n'
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'
    )
    (opera.folder / "Index.xml").write_bytes(text.encode(encoding))
    with pytest.raises(ConvertError, match=r"Index\.xml declares a document type"):
        convert_plate(opera.folder, tmp_path / "p.zarr")


def test_broken_xml_is_named(opera, tmp_path):
    (opera.folder / "Index.idx.xml").write_text(INDEX[:300])
    with pytest.raises(ConvertError, match=r"Index\.idx\.xml cannot be read as XML"):
        convert_plate(opera.folder, tmp_path / "p.zarr")


def test_planes_and_time_points_become_axes(kit, tmp_path):
    truth = np.zeros((2, 2, 3, 8, 9), "uint8")
    for t in range(2):
        for c in range(2):
            for z in range(3):
                truth[t, c, z] = kit.pixels(t * 6 + c * 3 + z, (8, 9), "uint8")
                name = f"r01c01f01p{z + 9:02d}-ch{c + 1}sk{t + 1}fk1fl1.tiff"
                kit.write(tmp_path / "in" / name, truth[t, c, z])
    convert_plate(tmp_path / "in", tmp_path / "p.zarr", ngff="0.5")
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1"), truth)
    axes = kit.attributes(tmp_path / "p.zarr/A/1/1")["multiscales"][0]["axes"]
    assert [(a["name"], a["type"]) for a in axes] == [
        ("t", "time"),
        ("c", "channel"),
        ("z", "space"),
        ("y", "space"),
        ("x", "space"),
    ]


def test_several_plates_need_a_choice(kit, tmp_path):
    for plate, seed in (("P1__2020-01-01T00_00_00-Measurement 1", 1), ("P2", 2)):
        kit.write(
            tmp_path / "in" / plate / "Images/r01c01f01p01-ch1sk1fk1fl1.tiff", kit.pixels(seed)
        )
    with pytest.raises(ConvertError, match=r"2 plates \(P1, P2\): pick one with --plate"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr", plate="P2")
    assert (summary.plate, summary.n_files) == ("P2", 1)
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1")[0], kit.pixels(2))


def test_files_that_do_not_fit_are_counted_and_told(opera, kit, tmp_path):
    kit.write(opera.folder / "overview.tif", kit.pixels(0))
    (opera.folder / "._r01c01f01p01-ch1sk1fk1fl1.tiff").write_bytes(b"macOS")
    summary = convert_plate(opera.folder, tmp_path / "p.zarr")
    assert summary.skipped == 1
    assert "overview.tif" in summary.warnings[0]
