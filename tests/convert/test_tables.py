import gzip

import numpy as np
import polars as pl
import pytest

from unidino_fast.convert import convert_plate
from unidino_fast.errors import ConvertError


def load_data(path, records):
    frame = pl.DataFrame(records)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        frame.write_csv(path)
    return path


def record(well="A01", site=1, name="a.tif", folder="/home/ubuntu/images/P1/Images", **more):
    return {
        "Metadata_Plate": "P1",
        "Metadata_Well": well,
        "Metadata_Site": site,
        "FileName_OrigDNA": f"dna_{name}",
        "PathName_OrigDNA": folder,
        "FileName_OrigER": f"er_{name}",
        "PathName_OrigER": folder,
        "FileName_IllumDNA": "illum.npy",
        "PathName_IllumDNA": folder,
        **more,
    }


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("how", ["inside", "metadata", "source"])
def test_load_data_with_paths_of_another_machine(kit, tmp_path, suffix, how):
    folder = tmp_path / "data"
    truth = {}
    records = [record("A01", 1, "a.tif"), record("A01", 2, "b.tif"), record("P24", 1, "c.tif")]
    for name in "abc":
        for channel in ("dna", "er"):
            truth[name, channel] = kit.write(
                folder / f"P1/Images/{channel}_{name}.tif", kit.pixels(len(truth))
            )
    place = tmp_path / "elsewhere.x" if how == "metadata" else folder / "load_data.x"
    table = load_data(place.with_suffix(suffix), records)
    options = {"metadata": table} if how == "metadata" else {}
    source = table if how == "source" else folder
    summary = convert_plate(source, tmp_path / "p.zarr", **options)
    assert (summary.layout, summary.plate, summary.channels) == ("cpg", "P1", ("DNA", "ER"))
    for well, field, name in (("A/1", "1", "a"), ("A/1", "2", "b"), ("P/24", "1", "c")):
        wanted = np.stack([truth[name, "dna"], truth[name, "er"]])
        np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", well, field), wanted)


def test_the_longest_ending_wins(kit, tmp_path):
    kit.write(tmp_path / "in/dna_a.tif", kit.pixels(1))
    kit.write(tmp_path / "in/er_a.tif", kit.pixels(1))
    kit.write(tmp_path / "in/P1/dna_a.tif", kit.pixels(2))
    kit.write(tmp_path / "in/P1/er_a.tif", kit.pixels(3))
    load_data(tmp_path / "in/load_data.csv", [record(folder=r"C:\screen\P1")])
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    wanted = np.stack([kit.pixels(2), kit.pixels(3)])
    np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", "A/1", "1"), wanted)
    assert summary.skipped == 2


def test_bbbc021_table(kit, tmp_path):
    records = []
    for well, site in (("G10", 2), ("G10", 1), ("B02", 4)):
        names = {c: f"{well}_s{site}_w{i}9DE56250.tif" for i, c in ((1, "DAPI"), (2, "Actin"))}
        for index, name in enumerate(names.values()):
            kit.write(tmp_path / f"in/Week4/Week4_27481/{name}", kit.pixels(site * 10 + index))
        records.append(
            {f"Image_FileName_{c}": name for c, name in names.items()}
            | {f"Image_PathName_{c}": "Week4/Week4_27481" for c in names}
            | {"Image_Metadata_Plate_DAPI": "Week4_27481", "Image_Metadata_Well_DAPI": well}
        )
    table = load_data(tmp_path / "BBBC021_v1_image.csv", records)
    summary = convert_plate(tmp_path / "in", tmp_path / "p.zarr", metadata=table)
    assert (summary.plate, summary.channels) == ("Week4_27481", ("Actin", "DAPI"))
    for well, field, site in (("B/2", "4", 4), ("G/10", "1", 1), ("G/10", "2", 2)):
        wanted = np.stack([kit.pixels(site * 10 + 1), kit.pixels(site * 10)])
        np.testing.assert_array_equal(kit.read(tmp_path / "p.zarr", well, field), wanted)


def test_without_any_site_fields_are_numbered_in_order(kit, tmp_path):
    records = []
    for name in ("x", "y"):
        kit.write(tmp_path / f"in/dna_{name}.tif", kit.pixels(ord(name)))
        one = record(name=f"{name}.tif", folder="")
        records.append({key: one[key] for key in one if key.endswith(("DNA", "Plate", "Well"))})
    load_data(tmp_path / "in/load_data.csv", records)
    convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    for field, name in (("0", "x"), ("1", "y")):
        np.testing.assert_array_equal(
            kit.read(tmp_path / "p.zarr", "A/1", field)[0], kit.pixels(ord(name))
        )


@pytest.mark.parametrize("folder", ["../outside", "{tmp}/outside", "in/../../outside", "link"])
def test_a_table_reaches_nothing_outside_the_source(kit, tmp_path, folder):
    for name in ("dna_a.tif", "er_a.tif"):
        kit.write(tmp_path / "outside" / name, kit.pixels(0))
    (tmp_path / "in/link").mkdir(parents=True)
    for name in ("dna_a.tif", "er_a.tif"):
        (tmp_path / "in/link" / name).symlink_to(tmp_path / "outside" / name)
    folder = folder.format(tmp=tmp_path)
    load_data(tmp_path / "in/load_data.csv", [record(folder=folder)])
    with pytest.raises(ConvertError, match=r"2 of 2 images .* are not under .*dna_a\.tif"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    assert not (tmp_path / "p.zarr").exists()


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "in").mkdir()
    header = "Metadata_Plate,Metadata_Well,FileName_OrigDNA,FileName_OrigDNA"
    (tmp_path / "in/load_data.csv").write_text(f"{header}\nP1,A01,a.tif,b.tif\n")
    with pytest.raises(ConvertError, match=r"two columns of one name \(FileName_OrigDNA\): rename"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")


def test_missing_images_are_named_and_counted(kit, tmp_path):
    for channel in ("dna", "er"):
        kit.write(tmp_path / f"in/{channel}_a.tif", kit.pixels(0))
    records = [record(), *(record("B02", site, f"{site}.tif") for site in range(4))]
    load_data(tmp_path / "in/load_data.csv", records)
    with pytest.raises(ConvertError, match=r"8 of 10 images .*dna_0\.tif.* and 5 more; give"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")


def test_plates_of_a_table(kit, tmp_path):
    for channel in ("dna", "er"):
        kit.write(tmp_path / f"in/{channel}_a.tif", kit.pixels(0))
    records = [record(), record(Metadata_Plate="P2", name="b.tif")]
    load_data(tmp_path / "in/load_data.csv", records)
    with pytest.raises(ConvertError, match=r"2 plates \(P1, P2\)"):
        convert_plate(tmp_path / "in", tmp_path / "p.zarr")
    assert convert_plate(tmp_path / "in", tmp_path / "p.zarr", plate="P1").n_files == 2
    with pytest.raises(ConvertError, match="no image of plate 'P3'"):
        convert_plate(tmp_path / "in", tmp_path / "q.zarr", plate="P3")


def test_urls_go_through_fsspec(kit, tmp_path, monkeypatch):
    import fsspec

    seen = []
    truth = {f"s3://bucket/P1/{c}.tif": kit.write(tmp_path / f"{c}.tif", kit.pixels(ord(c)))
             for c in "ab"}  # fmt: skip

    def fake_open(url, mode, **options):
        seen.append((url, options))
        return (tmp_path / url.rpartition("/")[2]).open(mode)

    monkeypatch.setattr(fsspec, "open", fake_open)
    (tmp_path / "in").mkdir()
    urls = list(truth)
    one = {"Metadata_Plate": "P1", "Metadata_Well": "A01", "Metadata_Site": 1,
           "URL_OrigDNA": urls[0], "URL_OrigER": urls[1]}  # fmt: skip
    table = load_data(tmp_path / "in/load_data.csv", [one])
    convert_plate(table, tmp_path / "p.zarr")
    np.testing.assert_array_equal(
        kit.read(tmp_path / "p.zarr", "A/1", "1"), np.stack(list(truth.values()))
    )
    assert {url for url, _ in seen} == set(urls)
    assert all(options == {"anon": True} for _, options in seen)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd.tif", "/etc/x.tif", "ftp://h/x.tif", "s3://b/x"]
)
def test_other_urls_are_not_opened(tmp_path, url):
    one = {"Metadata_Plate": "P1", "Metadata_Well": "A01", "URL_OrigDNA": url}
    table = load_data(tmp_path / "load_data.csv", [one])
    with pytest.raises(ConvertError, match="1 of 1 images"):
        convert_plate(table, tmp_path / "p.zarr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "is no image table: it needs Metadata_Well"),
        ("", "cannot be read as a table"),
        ("Metadata_Well,FileName_OrigDNA\n", "names no image"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    (tmp_path / "load_data.csv").write_text(text)
    with pytest.raises(ConvertError, match=message):
        convert_plate(tmp_path, tmp_path / "p.zarr")
