"""Real folders: every pixel of every field against tifffile, in both NGFF versions."""

import re

import numpy as np
import pytest
import tifffile
import zarr

from unidino_fast.convert import convert_plate

SBS = r"Channel(?P<channel>\d)-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif"
NF1 = r"(?P<well>[A-H]\d+)_01_\d_(?P<site>\d)_(?P<channel>[A-Z0-9]+)_001"
ROW_O = r"_(?P<well>[A-Z]\d\d)f(?P<site>\d\d)d(?P<channel>\d)"
OPERA = r"r(?P<r>\d+)c(?P<column>\d+)f(?P<site>\d+)p01-ch(?P<channel>\d)sk1"
FOLDERS = ("sbs_plate", "nf1_plate2", "row_o_24wells", "pediatric_6ch", "jump_3ch", "imagexpress")
METAXPRESS = r"_(?P<well>[A-Z]\d\d)_s(?P<site>\d)_w(?P<channel>\d)[0-9A-F]{8}-"


@pytest.mark.real_data
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("folder", "pattern", "layout", "oracle", "counts"),
    [
        ("sbs_plate", SBS, "regex", SBS, (96, 96, 192)),
        ("nf1_plate2", NF1, "regex", NF1, (5, 5, 15)),
        ("row_o_24wells", ROW_O, "regex", ROW_O, (24, 72, 72)),
        ("pediatric_6ch", None, "opera", OPERA, (1, 1, 6)),
        ("jump_3ch", None, "opera", OPERA, (1, 1, 3)),
        ("imagexpress", None, "imagexpress", METAXPRESS, (2, 4, 12)),
    ],
    ids=lambda value: value if value in FOLDERS else "",
)
def test_real_folder(real_data_dir, tmp_path, folder, pattern, layout, oracle, counts, ngff):
    out = tmp_path / "p.zarr"
    summary = convert_plate(real_data_dir / folder, out, pattern=pattern, ngff=ngff)
    assert (summary.n_wells, summary.n_fields, summary.n_files) == counts
    assert summary.layout == layout
    groups = {}
    for path in sorted((real_data_dir / folder).rglob("*.[tT][iI][fF]*")):
        match = re.search(oracle, str(path.relative_to(real_data_dir)))
        if match is None:
            continue
        found = match.groupdict()
        row = found.get("row") or (chr(64 + int(found["r"])) if "r" in found else found["well"][0])
        column = found.get("column") or found["well"][1:]
        key = (f"{row}/{int(column)}", found.get("site", "0"))
        groups.setdefault(key, []).append((found["channel"], path))
    for (well, site), files in groups.items():
        wanted = np.stack([tifffile.imread(path) for _, path in sorted(files)])
        array = zarr.open_array(str(out / well / str(int(site)) / "0"), mode="r")
        np.testing.assert_array_equal(np.asarray(array[...]), wanted)
    assert len(groups) == counts[1]
