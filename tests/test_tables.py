"""Tables in and out, and files that are whole or absent."""

import csv
import gc
import gzip
import json
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from unidino_fast.errors import OutputError, TableError, UsageError
from unidino_fast.files import atomic, write_json
from unidino_fast.profiles.appending import RowGroups
from unidino_fast.tables import (
    atomic_table,
    check_output,
    read_table,
    write_parquet,
    write_table,
)


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class TestFiles:
    @pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, OSError("no")])
    @pytest.mark.parametrize("existing", [True, False])
    def test_a_failure_leaves_what_was_there(self, tmp_path, fault, existing):
        target = tmp_path / "a.parquet"
        if existing:
            target.write_text("old")
        wanted = OutputError if isinstance(fault, OSError) else fault

        def fail():
            with atomic(target) as temporary:
                temporary.write_text("half")
                raise fault

        with pytest.raises(wanted):
            fail()
        assert everything(tmp_path) == (["a.parquet"] if existing else [])
        assert not existing or target.read_text() == "old"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
    @pytest.mark.parametrize("write", ["write_parquet", "write_csv"])
    def test_a_full_disk(self, tmp_path, write):
        def fail():
            with atomic_table(tmp_path / "a.parquet") as temporary:
                temporary.symlink_to("/dev/full")
                getattr(pl.DataFrame({"a": range(1000)}), write)(temporary)

        with pytest.raises(
            OutputError, match=r"a.parquet cannot be written \(No space left on device\): free"
        ):
            fail()
        assert everything(tmp_path) == []

    def test_a_file_that_may_not_grow_further(self, tmp_path):
        """Wherever it ends, in the data or in the footer."""
        resource = pytest.importorskip("resource")
        table = pl.DataFrame({f"c{i}": [0.5] for i in range(200)})
        write_parquet(table, tmp_path / "a.parquet", {})
        n_bytes = (tmp_path / "a.parquet").stat().st_size
        _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
        said = set()
        for limit in range(0, n_bytes, n_bytes // 20):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                with pytest.raises(OutputError) as caught:
                    write_parquet(table, tmp_path / "b.parquet", {})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            said.add(str(caught.value).partition("cannot be written ")[2].partition(":")[0])
        assert said == {"(File too large)"}
        assert everything(tmp_path) == ["a.parquet"]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
    def test_arrow_does_not_complain_of_a_full_disk_too(self, tmp_path, monkeypatch, capfd):
        full = tmp_path / "full"
        full.symlink_to("/dev/full")

        @contextmanager
        def leading_there(path):
            yield full

        monkeypatch.setattr("unidino_fast.tables.atomic_table", leading_there)
        with pytest.raises(OSError, match="No space left on device"):
            write_parquet(pl.DataFrame({"a": range(300_000)}), tmp_path / "a.parquet", {})
        gc.collect()
        assert capfd.readouterr() == ("", "")

    def test_arrow_writes_columns_together(self, tmp_path, monkeypatch):
        """Each write takes the interpreter, for which other threads may have it wait."""
        opened, writes = Path.open, []

        def counting(path, *arguments):
            file = opened(path, *arguments)
            write = file.write
            file.write = lambda data: [writes.append(len(data)), write(data)][1]
            return file

        monkeypatch.setattr(Path, "open", counting)
        table = pl.DataFrame({f"a_{index}": [0.5] * 3 for index in range(500)})
        write_parquet(table, tmp_path / "a.parquet", {})
        assert len(writes) < 5
        with RowGroups(tmp_path / "b.parquet", {}) as file:
            for _ in range(3):
                file.write(table)
        assert len(writes) < 10
        monkeypatch.undo()
        assert_frame_equal(pl.read_parquet(tmp_path / "a.parquet"), table)
        assert_frame_equal(pl.read_parquet(tmp_path / "b.parquet"), pl.concat([table] * 3))

    def test_json_is_utf8_whatever_it_holds(self, tmp_path):
        document = {"name": "µ板\ud800", "nested": {"x": [1, None]}}
        write_json(document, tmp_path / "a.json")
        data = (tmp_path / "a.json").read_bytes()
        assert "µ板".encode() in data
        assert json.loads(data) == document


class TestTables:
    FRAME = pl.DataFrame(
        {
            "Metadata_Well": ["A01", "B02"],
            "Metadata_Compound": ["a,b", "=1+1\nc"],
            "Metadata_Code": ["007", "12"],
            "Metadata_Dose": [0.5, None],
            "DNA_000": [0.1, -2.0],
            "ER_000": [None, None],
        },
        schema_overrides={"ER_000": pl.Float64},
    )

    @pytest.mark.parametrize("name", ["deep/a.parquet", "a.csv", "a.PARQUET", "a.CSV"])
    def test_round_trip(self, tmp_path, name):
        write_table(self.FRAME, tmp_path / name, {"method": "none"})
        found = read_table(tmp_path / name)
        if name.lower().endswith("csv"):  # which does not tell the type of nothing
            found = found.with_columns(pl.col("ER_000").cast(pl.Float64))
        assert_frame_equal(found, self.FRAME)

    @pytest.mark.parametrize("name", ["a.xlsx", "a", "a.csv.gz"])
    def test_suffix(self, tmp_path, name):
        with pytest.raises(UsageError, match=r"ends in neither .parquet nor .csv: name the output"):
            write_table(self.FRAME, tmp_path / name, {})
        assert everything(tmp_path) == []

    @pytest.mark.parametrize("name", ["file/a.csv", "file/deep/a.parquet"])
    def test_no_folder(self, tmp_path, name):
        (tmp_path / "file").write_text("x")
        with pytest.raises(OutputError, match=r"cannot be made|cannot be written"):
            write_table(self.FRAME, tmp_path / name, {})

    def test_a_missing_table(self, tmp_path):
        with pytest.raises(TableError, match="does not exist: give a CSV or Parquet table"):
            read_table(tmp_path / "a.parquet")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", b"Well,Dose,Dose\nA01,1,2\n"),
            ("a.tsv", b'"Well"\tDose\tWell\nA01\t1\tA01\n'),
            ("a.csv.gz", gzip.compress(b"Dose;Well;Dose\n1;A01;1\n", mtime=0)),
        ],
    )
    def test_two_columns_of_one_name(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=r"has two columns of one name \(\w+\): rename one$"):
            read_table(tmp_path / name)

    def test_two_columns_of_one_name_in_parquet(self, tmp_path):
        table = pa.table([["A01"], ["A01"]], names=["Well", "Well"])
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(TableError, match=r"two columns of one name \(.*Well.*\): rename one$"):
            read_table(tmp_path / "a.parquet")

    def test_a_path_is_no_pattern(self, tmp_path):
        for name in ("plate1", "plate[1]", "plate2"):
            pl.DataFrame({"Metadata_Plate": [name]}).write_parquet(tmp_path / f"{name}.parquet")
        found = read_table(tmp_path / "plate[1].parquet")
        assert found["Metadata_Plate"].to_list() == ["plate[1]"]
        with pytest.raises(TableError, match="does not exist"):
            read_table(tmp_path / "plate*.parquet")

    @pytest.mark.parametrize(
        ("name", "cells", "expected"),
        [
            ("Metadata_Compound", ["1E5", "100000"], ["1E5", "100000"]),
            ("Metadata_Compound", ["1e5", "2.5"], ["1e5", "2.5"]),
            ("compound", ["1E5", "2E3"], ["1E5", "2E3"]),
            ("Metadata_Dose", ["1e-05", "1.5E2"], [1e-5, 150.0]),
            ("Metadata_Dose", ["1e+05", "3"], [1e5, 3.0]),
            ("DNA_000", ["1e20", "0.5"], [1e20, 0.5]),
            ("DNA_000", ["1e-7", "2"], [1e-7, 2.0]),
        ],
    )
    def test_codes_with_an_exponent(self, tmp_path, name, cells, expected):
        (tmp_path / "a.csv").write_text("\n".join([name, *cells]))
        assert read_table(tmp_path / "a.csv")[name].to_list() == expected

    def test_lists_have_no_room_in_csv(self, tmp_path):
        with pytest.raises(UsageError, match=r"Metadata_L holds List\(Int64\).*: name the output"):
            write_table(pl.DataFrame({"Metadata_L": [[1]]}), tmp_path / "a.csv", {})
        assert everything(tmp_path) == []

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'=", "''-"])
    def test_formulas_are_text_in_a_csv(self, tmp_path, start):
        attack = f"{start}cmd|' /C calc'!A0"
        harmless = ["-1.5", "+2", "1e-05", "'quoted'", "a=b", "", "x-y", None]
        table = pl.DataFrame({"Metadata_Compound": [attack, *harmless], f"{start}DNA_000": 1.5})
        write_table(table, tmp_path / "rows.csv", {})
        with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == ["Metadata_Compound", f"'{start}DNA_000"]
        assert rows[0][0] == f"'{attack}"
        assert [row[0] for row in rows[1:]] == [cell or "" for cell in harmless]
        assert all(row[0][:1] not in set("=+-@\t\r\n") or float(row[0]) for row in rows)
        assert_frame_equal(read_table(tmp_path / "rows.csv"), table)

    def test_outputs_are_checked_before_the_work(self, tmp_path):
        table = tmp_path / "a.csv"
        table.write_text("x")
        check_output(tmp_path / "new" / "deep" / "b.csv", {"the table": table})
        assert everything(tmp_path) == ["a.csv"]
        with pytest.raises(UsageError, match=r"a\.csv is the table: name another file"):
            check_output(table, {"nothing": None, "the table": table})
        with pytest.raises(OutputError, match=r"cannot be written \(.*Not a directory\): choose"):
            check_output(table / "b.csv", {})
        (tmp_path / "c.csv").mkdir()
        with pytest.raises(OutputError, match="it is a folder"):
            check_output(tmp_path / "c.csv", {})

    def test_separators_after_the_last_column_are_none(self, tmp_path):
        (tmp_path / "a.csv").write_text("Well,Dose,,\nA01,1,,\n")
        assert read_table(tmp_path / "a.csv").columns == ["Well", "Dose"]
