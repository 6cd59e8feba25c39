"""Output folders: what they hold, refuse, keep and remove."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from result_factory import result, task

from unidino_fast.errors import OutputError
from unidino_fast.files import atomic
from unidino_fast.names import WellName, folder_name
from unidino_fast.output import TABLES, OutputFolder
from unidino_fast.tables import PROVENANCE_KEY

PROVENANCE = {
    "plate": {"name": "p", "digest": "ab" * 32},
    "model": {"weights": "w.pth", "weights_digest": "12" * 32},
    "options": {"intensity": "dtype", "tile": 224, "stride": 224, "channels": None},
    "software": {"torch": "2"},
}
HOSTILE_NAMES = [
    "../../x",
    "a/b",
    "..",
    ".",
    "",
    " ",
    "/etc/passwd",
    "~root",
    "a\0b",
    "a\nb",
    "C:\\x",
    "-rf",
    ".hidden",
    "....//x",
    "\u202ename",
    "\ud800",
    "x" * 300,
    "é" * 200,
    "板" * 100,
    "/".join([".."] * 100),
]


def opened(out, *, overwrite=False, name="p", **groups):
    provenance = PROVENANCE | {k: PROVENANCE[k] | v for k, v in groups.items()}
    folder = OutputFolder(out, name, provenance)
    folder.open(overwrite=overwrite)
    folder.close()  # one run after the other; see test_lock.py for two at once
    return folder


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def files_of(folder):
    return [path for path in everything(folder) if (folder / path).is_file()]


class TestManifest:
    def test_the_same_run_goes_on(self, tmp_path):
        folder = opened(tmp_path)
        folder.write_part(result(), "stamp")
        folder.finish({"status": "done"})
        document = json.loads(folder.manifest.read_bytes())
        assert document["provenance"] == PROVENANCE
        assert document["run"] == {"status": "done"}
        opened(tmp_path)
        assert everything(tmp_path) == ["p", "p/manifest.json", "p/parts", "p/parts/A01.parquet"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"options": {"intensity": "none"}}, "options intensity dtype, now none: use --over"),
            ({"options": {"tile": 112}}, "options tile 224, now 112"),
            ({"options": {"tile": 112, "stride": 112}}, "options tile 224, now 112"),
            ({"options": {"stride": 112}}, "options stride 224, now 112"),
            ({"options": {"channels": ["DNA"]}}, r"options channels None, now \['DNA'\]"),
            ({"options": {"new": 1}}, "options new None, now 1"),
            (
                {"model": {"weights_digest": "34" * 32}},
                r"weights_digest 121212121212\.\.\., now 343434343434\.\.\.:",
            ),
            ({"plate": {"name": "a\nb"}}, r"plate name p, now 'a\\nb'"),
        ],
    )
    @pytest.mark.parametrize("direction", ["forward", "back"])
    def test_differences_are_named(self, tmp_path, changes, message, direction):
        first, second = ({}, changes) if direction == "forward" else (changes, {})
        opened(tmp_path, **first).write_part(result(), None)
        with pytest.raises(OutputError) as error:
            opened(tmp_path, **second)
        if direction == "forward":
            assert error.match("holds results made with .*" + message)
        assert str(error.value).isprintable()
        assert (tmp_path / "p/parts/A01.parquet").exists()

    def test_metadata_may_change_where_a_well_is_in_common(self, tmp_path):
        """Its part tells whether its own did."""

        def opened_with(digest, *wells):
            provenance = PROVENANCE | {"plate": {"name": "p", "digest": digest}}
            folder = OutputFolder(tmp_path, "p", provenance, [WellName(*well) for well in wells])
            folder.open(overwrite=False)
            folder.close()
            return folder

        opened_with("ab", (5, 5))
        opened_with("cd", (0, 1)).write_part(result(), None)  # A01; nothing was lost so far
        folder = opened_with("ef", (0, 1), (5, 5))
        assert json.loads(folder.manifest.read_bytes())["provenance"]["plate"]["digest"] == "ab"
        folder.go_on()
        assert json.loads(folder.manifest.read_bytes())["provenance"]["plate"]["digest"] == "ef"
        opened_with("ef", (5, 5))  # the same plate: who asks for fewer wells gets them
        with pytest.raises(OutputError, match="another plate of this name, with other wells: use"):
            opened_with("gh", (5, 5))
        assert (tmp_path / "p/parts/A01.parquet").exists()

    def test_labels_are_not_lost_in_silence(self, tmp_path):
        labels = {"name": "map.csv", "digest": "ef" * 32}
        folder = OutputFolder(tmp_path, "p", PROVENANCE | {"platemap": labels})
        folder.open(overwrite=False)
        folder.close()
        opened(tmp_path)  # nothing there to lose yet
        folder.open(overwrite=False)
        folder.close()
        folder.write_part(result(), None)
        before = folder.manifest.read_bytes()
        with pytest.raises(OutputError, match=r"with the labels of map.csv: give it again by --me"):
            opened(tmp_path)
        assert folder.manifest.read_bytes() == before
        other = PROVENANCE | {"platemap": labels | {"digest": "00" * 32}}
        relabelled = OutputFolder(tmp_path, "p", other)
        relabelled.open(overwrite=False)
        relabelled.close()
        opened(tmp_path, overwrite=True).write_part(result(), None)
        relabelled.open(overwrite=False)  # labels may come later
        relabelled.close()

    def test_software_may_change(self, tmp_path):
        opened(tmp_path)
        opened(tmp_path, software={"torch": "3"})

    def test_tuples_are_lists(self, tmp_path):
        opened(tmp_path, options={"channels": ("DNA", "ER")})
        opened(tmp_path, options={"channels": ("DNA", "ER")})

    @pytest.mark.parametrize(
        "text",
        [
            *("", "{", "[]", "null", "{}", "\udcff", "[" * 100_000),
            '{"format": 1, "provenance": []}',
            '{"format": 1, "provenance": {"plate": {}, "model": {}, "options": {}, "platemap": 1}}',
            '{"format": 1, "provenance": {"plate": 1, "model": 2, "options": 3}}',
        ],
        ids=lambda text: ascii(text[:12]),
    )
    def test_a_corrupt_manifest(self, tmp_path, text):
        folder = opened(tmp_path)
        folder.manifest.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(OutputError, match=r"manifest.json cannot be read: use --overwrite"):
            opened(tmp_path)
        opened(tmp_path, overwrite=True)

    def test_another_format(self, tmp_path):
        folder = opened(tmp_path)
        document = json.loads(folder.manifest.read_bytes()) | {"format": 1}
        folder.manifest.write_text(json.dumps(document))
        with pytest.raises(OutputError, match="results of format 1, this version writes 3: use"):
            opened(tmp_path)

    @pytest.mark.parametrize("name", [*TABLES, "parts/A01.parquet"])
    def test_results_without_a_manifest(self, tmp_path, name):
        (tmp_path / "p/parts").mkdir(parents=True)
        (tmp_path / "p" / name).write_bytes(b"x")
        with pytest.raises(OutputError, match="holds results without a manifest: use --overwrite"):
            opened(tmp_path)
        opened(tmp_path, overwrite=True).write_part(result((1, 1)), None)
        assert everything(tmp_path) == ["p", "p/manifest.json", "p/parts", "p/parts/B01.parquet"]


class TestParts:
    def test_a_part_of_another_making_is_not_taken(self, tmp_path):
        """A worker of a run that has ended can be late with what it had in hand."""
        late = OutputFolder(tmp_path, "p", {**PROVENANCE, "options": {"intensity": "none"}})
        folder = opened(tmp_path)
        late.write_part(result(), None)
        assert folder.read_part(task(result()), None) is None
        folder.write_part(result(), None)
        assert folder.read_part(task(result()), None) is not None

    def test_the_same_weights_under_another_name_are_the_same_making(self, tmp_path):
        folder = opened(tmp_path)
        folder.write_part(result(), None)
        renamed = {**PROVENANCE["model"], "weights": "copy.pth"}
        other = OutputFolder(tmp_path, "p", {**PROVENANCE, "model": renamed, "software": {}})
        assert other.read_part(task(result()), None) is not None


class TestFolder:
    def test_overwrite_removes_our_files_alone(self, tmp_path):
        folder = opened(tmp_path)
        folder.write_part(result(), None)
        for name in TABLES:
            folder.write_table(name, pl.DataFrame({"a": [1]}))
        strangers = [
            "p/notes.txt",
            "p/fields.csv",
            "p/parts/mine.txt",
            "p/parts/deep/x.parquet",
            "x",
        ]
        for name in strangers:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("mine")
        (folder.parts / ".B01.parquet.99.tmp").write_text("left by a killed run")
        opened(tmp_path, overwrite=True, options={"tile": 7}).write_part(result((1, 1)), None)
        wanted = {"p", "p/manifest.json", "p/parts", "p/parts/deep", "p/parts/B01.parquet"}
        assert set(everything(tmp_path)) == wanted | set(strangers)

    def test_overwrite_keeps_old_results_until_there_are_new_ones(self, tmp_path):
        folder = opened(tmp_path)
        folder.write_part(result(), None)
        folder.write_table("wells.parquet", pl.DataFrame({"a": [1]}))
        folder.finish({"status": "done"})
        before = {path: (tmp_path / path).read_bytes() for path in files_of(tmp_path)}
        again = opened(tmp_path, overwrite=True, options={"tile": 7})
        assert again.read_part(task(result()), None) is None
        again.discard_if_empty()
        assert {path: (tmp_path / path).read_bytes() for path in files_of(tmp_path)} == before
        again.write_part(result((1, 1)), None)
        assert files_of(tmp_path) == ["p/manifest.json", "p/parts/B01.parquet"]
        assert json.loads(again.manifest.read_bytes())["provenance"]["options"]["tile"] == 7

    def test_checking_changes_nothing(self, tmp_path):
        OutputFolder(tmp_path / "new", "p", PROVENANCE).check(overwrite=False)
        assert everything(tmp_path) == []

    def test_a_failed_run_leaves_nothing(self, tmp_path):
        folder = opened(tmp_path / "new/deep")
        folder.discard_if_empty()
        assert everything(tmp_path) == []

    def test_a_failed_run_leaves_what_was_there(self, tmp_path):
        (tmp_path / "p").mkdir()
        (tmp_path / "p/notes.txt").write_text("mine")
        opened(tmp_path).discard_if_empty()
        assert everything(tmp_path) == ["p", "p/notes.txt"]

    @pytest.mark.parametrize("name", [*TABLES, "parts/A01.parquet"])
    def test_a_failed_run_keeps_results_and_their_manifest(self, tmp_path, name):
        folder = opened(tmp_path)
        (folder.path / name).write_bytes(b"x")
        opened(tmp_path).discard_if_empty()
        assert folder.manifest.exists()
        assert (folder.path / name).exists()

    def test_a_failed_run_without_results_binds_nobody(self, tmp_path):
        opened(tmp_path)  # killed
        opened(tmp_path).discard_if_empty()
        opened(tmp_path, options={"tile": 7})

    def test_a_file_in_the_place_of_a_folder(self, tmp_path):
        (tmp_path / "file").write_text("x")
        for out in (tmp_path / "file", tmp_path / "file" / "deep"):
            with pytest.raises(OutputError, match=r"cannot be written \(.*file is no folder\): "):
                opened(out)
        (tmp_path / "p").write_text("x")
        with pytest.raises(OutputError, match="cannot be written"):
            opened(tmp_path)
        (tmp_path / "q/parts").parent.mkdir()
        (tmp_path / "q/parts").write_text("x")
        with pytest.raises(OutputError, match="cannot be written"):
            opened(tmp_path, name="q")
        assert everything(tmp_path) == ["file", "p", "q", "q/parts"]

    @pytest.mark.parametrize("overwrite", [True, False])
    def test_a_folder_in_the_place_of_a_file(self, tmp_path, overwrite):
        (tmp_path / "p/manifest.json").mkdir(parents=True)
        with pytest.raises(OutputError, match=r"manifest.json|cannot be written") as error:
            opened(tmp_path, overwrite=overwrite)
        assert str(error.value).count("cannot") == 1

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has /proc")
    def test_a_place_that_takes_no_files(self):
        with pytest.raises(OutputError, match=r"/proc/p cannot be written \(.*\): choose another"):
            opened(Path("/proc"))

    def test_a_path_too_long(self, tmp_path):
        with pytest.raises(OutputError, match=r"cannot be written \(File name too long\)"):
            opened(tmp_path / ("x" * 300))

    def test_a_part_that_cannot_be_written(self, tmp_path):
        folder = opened(tmp_path)
        folder.parts.rmdir()
        folder.parts.write_text("x")
        with pytest.raises(OutputError, match=r"A01.parquet cannot be written .*: free the disk"):
            folder.write_part(result(), None)

    def test_a_folder_that_was_removed(self, tmp_path):
        folder = opened(tmp_path)
        shutil.rmtree(tmp_path / "p")
        with pytest.raises(OutputError, match="its folder is not there, or is being removed: run"):
            folder.write_part(result(), None)

    def test_a_folder_that_is_just_being_removed(self, tmp_path):
        """Its files are gone, it is not yet: what a writer can meet beside another's `rm -r`."""
        with (
            pytest.raises(OutputError, match="its folder is not there, or is being removed: run"),
            atomic(tmp_path / "file") as temporary,
        ):
            temporary.unlink(missing_ok=True)
        assert not list(tmp_path.iterdir())

    def test_equal_tables_are_equal_bytes(self, tmp_path):
        frame = pl.DataFrame({"Metadata_Well": ["A01"] * 99, "DNA_000": np.arange(99, dtype="f4")})
        for run in ("a", "b"):
            folder = opened(tmp_path / run)
            folder.write_table("fields.parquet", frame.clone())
        first, second = ((tmp_path / run / "p/fields.parquet").read_bytes() for run in ("a", "b"))
        assert first == second
        held = pl.read_parquet_metadata(tmp_path / "a/p/fields.parquet")[PROVENANCE_KEY]
        assert json.loads(held) == PROVENANCE


class TestNames:
    @pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
    def test_never_outside(self, tmp_path, name):
        out = tmp_path / "deep" / "out"
        found = folder_name(name)
        assert found not in ("", ".", "..")
        assert not set(found) & set("/\\\0\n")
        assert len(found.encode()) < 240
        folder = opened(out, name=name)
        folder.write_part(result(), None)
        assert folder.path.parent == out
        assert [path.name for path in out.iterdir()] == [found]
        assert [path.name for path in tmp_path.iterdir()] == ["deep"]
        opened(out, name=name)

    @pytest.mark.parametrize("name", ["qc.json", "report.html", "Report.HTML"])
    def test_plates_leave_room_for_what_stands_beside_them(self, name):
        assert folder_name(name) == name.replace(".", "_")

    @pytest.mark.parametrize("name", ["BR00117010", "plate 1 (a+b).2", "Größe", "板1", "x-1_2"])
    def test_decent_names_stay(self, name):
        assert folder_name(name) == name

    def test_long_names_stay_apart(self):
        assert folder_name("x" * 300 + "a") != folder_name("x" * 300 + "b")
