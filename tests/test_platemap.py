import csv
import gzip

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from unidino_fast.errors import TableError
from unidino_fast.platemap import join_platemap, read_platemap


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def wells_table(wells=("A01", "A02", "B01"), plate="p"):
    return pl.DataFrame(
        {
            "Metadata_Plate": [plate] * len(wells),
            "Metadata_Well": list(wells),
            "Metadata_n_tiles": [16] * len(wells),
            "DNA_000": [float(i) for i in range(len(wells))],
            "DNA_001": [float(-i) for i in range(len(wells))],
        },
        schema_overrides={"Metadata_Plate": pl.String, "Metadata_Well": pl.String},
    )


WANTED = pl.DataFrame({"Metadata_Well": ["A01", "B12"], "Metadata_Dose": [0.5, 2.0]})
GZIPPED = gzip.compress(b"Well,Dose\nA1,1\n", mtime=0)  # names of tests are not to tell the time


class TestFormats:
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.csv", "Well,Dose\nA1,0.5\nB12,2\n"),
            ("a.tsv", "Well\tDose\nA1\t0.5\nB12\t2\n"),
            ("a.txt", "Well\tDose\nA1\t0.5\nB12\t2"),
            ("a.CSV", "Well;Dose\nA1;0.5\nB12;2\n"),
            ("a.csv", "Well;Dose\nA1;0,5\nB12;2\n"),
            ("a.csv", '"Well";"Dose"\n"A1";"0,5"\n"B12";"2"\n'),
            ("a.csv", "\ufeffWell,Dose\nA1,0.5\nB12,2\n"),
            ("a.csv", ",Well,Dose\n0,A1,0.5\n1,B12,2\n"),
            ("a.csv", "Unnamed: 0,Well,Dose\n0,A1,0.5\n1,B12,2\n"),
            ("a.csv", "Well,Dose\nA1,0.5\n,\nB12,2\n,\n"),
        ],
    )
    def test_text(self, tmp_path, name, text, end):
        found = read_platemap(write(tmp_path / name, text.replace("\n", end)))
        assert_frame_equal(found, WANTED)

    def test_gzip(self, tmp_path):
        text = gzip.compress(b"Well,Dose\nA1,0.5\nB12,2\n")
        assert_frame_equal(read_platemap(write(tmp_path / "a.csv.gz", text)), WANTED)

    @pytest.mark.parametrize("index", [[0, 1], [7, 3]])
    def test_parquet_of_pandas(self, tmp_path, index):
        table = pd.DataFrame({"Well": ["A1", "B12"], "Dose": [0.5, 2.0]}, index=index)
        table.to_parquet(tmp_path / "a.parquet")
        assert_frame_equal(read_platemap(tmp_path / "a.parquet"), WANTED)

    def test_against_pandas(self, tmp_path):
        """Numbers, booleans, text and gaps as pandas finds them."""
        rng = np.random.default_rng(0)
        table = pd.DataFrame(
            {
                "Well": [f"{row}{column}" for row in "ABCDEFGH" for column in range(1, 13)],
                "int": rng.integers(-50, 50, 96),
                "float": rng.normal(size=96),
                "gaps": [None, 1.5, 2.0] * 32,
                "flag": [True, False] * 48,
                "text": ['a,b "c"', "é\n\nµ", "=1+1", "-"] * 24,
            }
        )
        table.to_csv(tmp_path / "a.csv", index=False)
        found = read_platemap(tmp_path / "a.csv")
        wanted = pd.read_csv(tmp_path / "a.csv")
        for name in wanted.columns[1:]:
            column = pd.Series(found[f"Metadata_{name}"].to_list())
            pd.testing.assert_series_equal(column, wanted[name], check_names=False)

    @pytest.mark.parametrize(
        ("cells", "wanted"),
        [
            (["007", "12"], ["007", "12"]),
            (["20240101123456789012", "1"], ["20240101123456789012", "1"]),
            (["0", "-5"], [0, -5]),
            (["0.5", "1e3"], [0.5, 1000.0]),
            (["", ""], [None, None]),
            (["1", ""], [1, None]),
            (["TRUE", "false"], [True, False]),
            (["=HYPERLINK(1)", "+1-1"], ["=HYPERLINK(1)", "+1-1"]),
            (["@SUM(1)", "-2+3"], ["@SUM(1)", "-2+3"]),
            (["x" * 10_000, "y"], ["x" * 10_000, "y"]),
            (["two\nlines", "a;b,c\td"], ["two\nlines", "a;b,c\td"]),
            (['say "hi"', "'"], ['say "hi"', "'"]),
        ],
        ids=lambda cells: ascii(cells)[:30],
    )
    def test_cells(self, tmp_path, cells, wanted):
        with (tmp_path / "a.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["Well", "X"], ["A1", cells[0]], ["A2", cells[1]]])
        assert read_platemap(tmp_path / "a.csv")["Metadata_X"].to_list() == wanted

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("a.csv", b"", "a.csv is empty: give a CSV"),
            ("a.csv", b"\xef\xbb\xbf", "is empty"),
            ("a.csv", b"Well,Dose\n", "a.csv has no rows"),
            ("a.csv", b"Well,Dose\n,\n", "a.csv has no rows"),
            ("a.csv", b"Well,Dose\nA1,10 \xb5M\n", r"is not UTF-8 text: save it as CSV \(UTF-8\)"),
            ("a.csv", "Well,Dose\nA1,1\n".encode("utf-16"), "is not UTF-8 text: save it as CSV"),
            ("a.csv", bytes(range(256)) * 20, "is not UTF-8 text"),
            ("a.xlsx", b"PK\x03\x04\x14\x00\x06\x00", "is not UTF-8 text: save it as CSV"),
            ("a.csv", b"Well,Dose\nA1,1,2,3\n", "cannot be read as a table .*: give a CSV"),
            ("a.csv.gz", b"\x1f\x8b\x08broken", "cannot be read as a table"),
            ("a.csv.gz", GZIPPED[:-12], "cannot be read as a table"),
            ("a.parquet", b"", "cannot be read as a table"),
            ("a.parquet", b"PAR1" + bytes(200) + b"PAR1", "cannot be read as a table"),
            ("a.csv", b"Wall,Dose\nA1,1\n", "has no well column: .*; it has Wall, Dose$"),
            ("a.csv", b'"a\nb",\x1b[31mX\nA1,1\n', "no well column.* it has a b, _"),
            ("a.csv", b"%s,b\n1,2\n" % (b"n" * 5000), "no well column"),
            ("a.csv", b"Row,Dose\nA,1\n", "has no well column: name one Well"),
        ],
    )
    def test_files_that_are_no_platemap(self, tmp_path, name, data, message):
        with pytest.raises(TableError, match=message) as error:
            read_platemap(write(tmp_path / name, data))
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 400

    def test_no_file(self, tmp_path):
        with pytest.raises(TableError, match="does not exist: give a CSV or Parquet table"):
            read_platemap(tmp_path / "a.csv")
        with pytest.raises(TableError, match="Is a directory"):
            read_platemap(tmp_path)


class TestWells:
    @pytest.mark.parametrize(
        "name",
        [
            *("Well", "WELL", "well_position", "Metadata_Well", "Well_Position"),
            *("Metadata_Well_ID", "wellName", "Position", "Assay_Well"),
        ],
    )
    @pytest.mark.parametrize("cell", ["B3", "b03", "B-3", "B 03", "B_3", " B3 ", "B/3"])
    def test_one_column(self, tmp_path, name, cell):
        found = read_platemap(write(tmp_path / "a.csv", f"X,{name}\n1,{cell}\n"))
        assert found.rows(named=True) == [{"Metadata_Well": "B03", "Metadata_X": 1}]

    @pytest.mark.parametrize("names", ["Row,Column", "row,col", "Metadata_Row,Metadata_Col"])
    @pytest.mark.parametrize("cells", ["B,3", "b,03", "2,3", "02,03", "2.0,3.0", " B , 3 "])
    def test_two_columns(self, tmp_path, names, cells):
        found = read_platemap(write(tmp_path / "a.csv", f"{names},X\n{cells},x\n"))
        assert found.rows(named=True) == [{"Metadata_Well": "B03", "Metadata_X": "x"}]

    def test_rows_beyond_z(self, tmp_path):
        text = "Row,Column\nAF,48\n32,48\n27,1\n"
        found = read_platemap(write(tmp_path / "a.csv", text))
        assert found["Metadata_Well"].to_list() == ["AF48", "AF48", "AA01"]

    def test_well_and_its_parts(self, tmp_path):
        text = "Row,Column,Well,Position\nA,1,A1,17\n"
        found = read_platemap(write(tmp_path / "a.csv", text))
        assert found.rows(named=True) == [{"Metadata_Well": "A01", "Metadata_Position": 17}]

    def test_position_is_not_asked_beside_row_and_column(self, tmp_path):
        found = read_platemap(write(tmp_path / "a.csv", "Row,Column,Position\nA,1,17\n"))
        assert found.rows(named=True) == [{"Metadata_Well": "A01", "Metadata_Position": 17}]

    def test_names_with_digits_are_other_names(self, tmp_path):
        text = "Well,Well2,Plate1\nA1,x,y\n"
        found = read_platemap(write(tmp_path / "a.csv", text))
        assert found.columns == ["Metadata_Well", "Metadata_Well2", "Metadata_Plate1"]

    def test_parquet_numbers(self, tmp_path):
        table = pd.DataFrame({"Row": [1, None, 3], "Column": [1.0, 2.0, 3.0], "Plate": [7.0] * 3})
        table.iloc[[0, 2]].to_parquet(tmp_path / "a.parquet")
        found = read_platemap(tmp_path / "a.parquet")
        assert found.to_dict(as_series=False) == {
            "Metadata_Well": ["A01", "C03"],
            "Metadata_Plate": ["7", "7"],
        }

    @pytest.mark.parametrize(
        "text",
        [
            "Well\n1\n",
            "Well\nA\n",
            "Well\nA0\n",
            "Well\nA1000\n",
            "Well\n11\n",
            "Well\nAAA1\n",
            "Well,X\n,1\n",
            "Well\nnot a well\n",
            "Row,Column\nA,0\n",
            "Row,Column\n0,1\n",
            "Row,Column\nA,x\n",
            "Row,Column\n-1,1\n",
            "Row,Column\n1.5,1\n",
            "Row,Column\n99999999999999999999,1\n",
            "Row,Column\nA,²\n",
            "Row,Column\n²,1\n",
            "Row,Column\nÄ,1\n",
            "Row,Column\n,1\n",
            'Well\n"two\nlines"\n',
            f"Well\n{'x' * 5000}\n",
        ],
        ids=lambda text: ascii(text[:30]),
    )
    def test_wells_that_are_none(self, tmp_path, text):
        with pytest.raises(TableError, match=r"a.csv holds the well .*, which is none: write A01$"):
            read_platemap(write(tmp_path / "a.csv", text))

    @pytest.mark.parametrize(
        "name",
        [
            "Site",
            "n_tiles",
            "Metadata_n_fields",
            "Metadata_n_tiles_dropped",
            "Time",
            "Metadata_Time",
        ],
    )
    def test_taken_names(self, tmp_path, name):
        with pytest.raises(TableError, match=r"would become Metadata_\w+, which is taken: rename"):
            read_platemap(write(tmp_path / "a.csv", f"Well,{name}\nA1,1\n"))

    def test_names_that_become_one(self, tmp_path):
        with pytest.raises(TableError, match="would become Metadata_Dose, which is taken"):
            read_platemap(write(tmp_path / "a.csv", "Well,Dose,Metadata_Dose\nA1,1,2\n"))


class TestPlates:
    @pytest.mark.parametrize("name", ["Plate", "Metadata_Plate", "plate_id", "Barcode"])
    @pytest.mark.parametrize("cell", ["25964", "00123", "p 1", "P-1"])
    def test_plates_are_text(self, tmp_path, name, cell):
        text = f"Well,{name},X\nA1,{cell},x\nA2,{cell},y\nA1,99,z\n"
        platemap = read_platemap(write(tmp_path / "a.csv", text))
        joined, complaints = join_platemap(wells_table(("A01", "A02"), plate=cell), platemap)
        assert joined["Metadata_X"].to_list() == ["x", "y"]
        assert complaints == []

    def test_numbers_in_a_csv_of_profiles(self):
        platemap = pl.DataFrame(
            {"Metadata_Well": ["A01"], "Metadata_Plate": ["25964"], "Metadata_X": ["x"]}
        )
        frame = wells_table(("A01",)).with_columns(Metadata_Plate=pl.lit(25964))
        assert join_platemap(frame, platemap)[0]["Metadata_X"].to_list() == ["x"]

    def test_another_plate(self):
        platemap = pl.DataFrame({"Metadata_Well": ["A01"] * 2, "Metadata_Plate": ["x", "y"]})
        with pytest.raises(TableError, match="map has no row for plate p, but for x, y: correct"):
            join_platemap(wells_table(), platemap, name="map")

    def test_several_plates_at_once(self):
        frame = pl.concat([wells_table(), wells_table(plate="q")])
        platemap = pl.DataFrame(
            {
                "Metadata_Well": ["A01", "A02", "B01"] * 2,
                "Metadata_Plate": ["q"] * 3 + ["p"] * 3,
                "Metadata_X": [*"abcdef"],
            }
        )
        joined, complaints = join_platemap(frame, platemap)
        assert joined["Metadata_X"].to_list() == [*"defabc"]
        assert complaints == []
        joined, _ = join_platemap(frame, platemap[:3].drop("Metadata_Plate"))
        assert joined["Metadata_X"].to_list() == [*"abcabc"]


PLATEMAP = pl.DataFrame(
    {"Metadata_Well": ["B01", "A01", "A02"], "Metadata_X": [3, 1, 2], "Metadata_Y": [*"cab"]}
)


class TestJoin:
    def test_values_and_order(self):
        joined, complaints = join_platemap(wells_table(), PLATEMAP)
        assert complaints == []
        assert joined.columns == [
            *("Metadata_Plate", "Metadata_Well", "Metadata_n_tiles"),
            *("Metadata_X", "Metadata_Y", "DNA_000", "DNA_001"),
        ]
        assert joined["Metadata_X"].to_list() == [1, 2, 3]
        assert joined["Metadata_Y"].to_list() == [*"abc"]
        assert_frame_equal(joined.drop("Metadata_X", "Metadata_Y"), wells_table())

    def test_fields(self):
        frame = pl.concat([wells_table()] * 3)
        wanted = frame.join(PLATEMAP, on="Metadata_Well", how="left", maintain_order="left")
        joined, _ = join_platemap(frame, PLATEMAP)
        assert_frame_equal(joined, wanted, check_column_order=False)

    def test_again(self):
        once = join_platemap(wells_table(), PLATEMAP)
        assert_frame_equal(join_platemap(once[0], PLATEMAP)[0], once[0])
        other = PLATEMAP.with_columns(pl.col("Metadata_X") * 2)
        assert join_platemap(once[0], other)[0]["Metadata_X"].to_list() == [2, 4, 6]

    def test_complaints(self):
        frame = wells_table(("A01", "C01", "D01"))
        platemap = pl.concat([PLATEMAP, PLATEMAP.with_columns(Metadata_Well=pl.lit("H12"))[:1]])
        joined, complaints = join_platemap(frame, platemap, name="map")
        assert complaints == [
            "map: 3 wells are not on the plate: B01, A02, H12",
            "map: 2 wells have no row: C01, D01",
        ]
        assert joined["Metadata_X"].to_list() == [1, None, None]
        _, complaints = join_platemap(wells_table(("A01", "A02", "C01")), PLATEMAP, name="map")
        assert complaints == ["map: 1 well is not on the plate: B01", "map: 1 well has no row: C01"]

    def test_many_wells_are_not_all_named(self):
        frame = wells_table([f"A{column:02d}" for column in range(1, 13)])
        _, complaints = join_platemap(frame, PLATEMAP)
        assert complaints[1].endswith(": 10 wells have no row: A03, A04, A05, A06, A07, ...")

    def test_nothing_matches(self):
        message = (
            "names no well of plate p: it has B01, A01, A02, the plate H01; correct its wells$"
        )
        with pytest.raises(TableError, match=message):
            join_platemap(wells_table(("H01",)), PLATEMAP, name="map")

    def test_a_well_twice(self):
        with pytest.raises(TableError, match=r"^map lists well A02 twice: keep one row$"):
            join_platemap(wells_table(), pl.concat([PLATEMAP, PLATEMAP[2:]]), name="map")

    def test_a_well_twice_on_another_plate_is_no_matter(self):
        platemap = pl.concat(
            [
                PLATEMAP.with_columns(Metadata_Plate=pl.lit("p")),
                *[PLATEMAP.with_columns(Metadata_Plate=pl.lit("q"))] * 2,
            ]
        )
        assert join_platemap(wells_table(), platemap)[1] == []

    @pytest.mark.parametrize("by_plate", [True, False])
    @pytest.mark.parametrize("typed", [True, False])
    def test_no_rows(self, by_plate, typed):
        frame = wells_table(())
        if not typed:
            frame = pl.DataFrame({"Metadata_Plate": [], "Metadata_Well": []})
        platemap = PLATEMAP.with_columns(Metadata_Plate=pl.lit("p")) if by_plate else PLATEMAP
        joined, complaints = join_platemap(frame, platemap)
        assert complaints == []
        assert joined.is_empty()
        assert {"Metadata_X", "Metadata_Y"} < set(joined.columns)

    def test_wells_alone(self):
        frame = wells_table().select("Metadata_Plate", "Metadata_Well")
        joined, _ = join_platemap(frame, PLATEMAP.select("Metadata_Well"))
        assert_frame_equal(joined, frame)

    @pytest.mark.parametrize("name", ["Metadata_Plate", "Metadata_Well"])
    def test_missing_key(self, name):
        with pytest.raises(TableError, match=f"column {name} is missing: give"):
            join_platemap(wells_table().drop(name), PLATEMAP)


@pytest.mark.real_data
def test_a_platemap_of_the_sbs_example(real_data_dir):
    path = real_data_dir / "sbs_plate" / "1049_Metadata.csv"
    found = read_platemap(path)
    assert found.columns == [
        "Metadata_Well",
        "Metadata_ImageNumber",
        "Metadata_SBS_Doses",
        "Metadata_SBS_Controls",
    ]
    assert found["Metadata_Well"].to_list() == [
        f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)
    ]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert found["Metadata_SBS_Doses"].to_list() == [float(row["SBS_Doses"]) for row in rows]
    joined, complaints = join_platemap(wells_table(found["Metadata_Well"].to_list()), found)
    assert complaints == []
    assert joined["Metadata_SBS_Doses"].null_count() == 0
