import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unidino_fast.config import EmbedOptions
from unidino_fast.errors import OutputError
from unidino_fast.names import WellName
from unidino_fast.output import TABLES, OutputFolder, folder_name
from unidino_fast.parts import pixel_stamp
from unidino_fast.planning import FieldTask, WellTask, plan_plate
from unidino_fast.plate import open_plate
from unidino_fast.plate_model import Field, Well
from unidino_fast.results import FieldResult, WellResult
from unidino_fast.simulate import simulate_plate
from unidino_fast.tables import PROVENANCE_KEY, write_parquet

PROVENANCE = {
    "plate": {"name": "p", "digest": "ab" * 32},
    "model": {"weights": "w.pth", "weights_digest": "12" * 32},
    "options": {"intensity": "dtype", "tile": 224, "channels": None},
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


def result(well=(0, 1), dim=5, seed=0):
    """Two fields, two times; the second field lacks a channel."""
    rng = np.random.default_rng(seed)
    fields = []
    for site, labels in (("f/1", ("DNA", "ER")), ("f0", ("ER",))):
        for time in (0, 3):
            features = rng.normal(size=(len(labels), dim)).astype("f4")
            features[0, 0] = np.float32(1e-40)  # subnormal: nothing may round it
            fields.append(FieldResult(site, time, labels, 3, 13, features))
    return WellResult(WellName(*well), tuple(fields))


def task(of):
    """The work whose result `of` is, as far as the output folder looks at it."""

    def field(one):
        stored = Field(one.site, "", "cyx", None, one.labels, None, None)
        return FieldTask(stored, one.time, (0,), one.labels, 16)

    fields = tuple(field(one) for one in of.fields)
    return WellTask(Well(of.position, "A/1", tuple(f.field for f in fields)), fields)


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


def same(left, right):
    assert left.position == right.position
    for a, b in zip(left.fields, right.fields, strict=True):
        assert (a.site, a.time, a.labels) == (b.site, b.time, b.labels)
        assert (a.n_tiles, a.n_tiles_dropped) == (b.n_tiles, b.n_tiles_dropped)
        assert a.features.dtype == b.features.dtype == np.float32
        np.testing.assert_array_equal(a.features.view("u4"), b.features.view("u4"))


class TestParts:
    @pytest.mark.parametrize("dim", [1, 2, 384])
    @pytest.mark.parametrize("well", [(0, 1), (27, 48)])
    def test_round_trip(self, tmp_path, well, dim):
        folder = opened(tmp_path)
        folder.write_part(result(well, dim), "stamp")
        found = opened(tmp_path).read_part(task(result(well, dim)), "stamp")
        same(found, result(well, dim))

    def test_no_part(self, tmp_path):
        assert opened(tmp_path).read_part(task(result()), None) is None

    @pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.5, 0.9, 0.999])
    def test_a_torn_part_is_none(self, tmp_path, share):
        folder = opened(tmp_path)
        folder.write_part(result(), "stamp")
        part = folder.parts / "A01.parquet"
        data = part.read_bytes()
        part.write_bytes(data[: int(share * len(data))])
        assert folder.read_part(task(result()), "stamp") is None

    @pytest.mark.parametrize("data", [b"PAR1", b"PAR1" * 9, bytes(500), b"{}" * 99, b"PAR1\0PAR1"])
    def test_garbage_is_no_part(self, tmp_path, data):
        folder = opened(tmp_path)
        (folder.parts / "A01.parquet").write_bytes(data)
        assert folder.read_part(task(result()), "stamp") is None

    @pytest.mark.parametrize("facts", ["[]", "{}", "null", "x", '"x"'])
    def test_another_parquet_file_is_no_part(self, tmp_path, facts):
        folder = opened(tmp_path)
        pl.DataFrame({"a": [1]}).write_parquet(
            folder.parts / "A01.parquet", metadata={PROVENANCE_KEY: facts}
        )
        assert folder.read_part(task(result()), "stamp") is None
        write_parquet(pl.DataFrame({"a": [1]}), folder.parts / "A01.parquet", {"pixels": "stamp"})
        assert folder.read_part(task(result()), "stamp") is None

    def test_a_part_of_other_fields_is_none(self, tmp_path):
        folder = opened(tmp_path)
        folder.write_part(result(), "stamp")
        fewer = WellResult(WellName(0, 1), result().fields[:-1])
        assert folder.read_part(task(fewer), "stamp") is None

    def test_changed_pixels(self, tmp_path):
        folder = opened(tmp_path)
        folder.write_part(result(), "stamp")
        message = (
            r"^sizes or times of the chunks of well A01 changed since .*A01.parquet was written:"
            r" if only a copy changed the times, add --verify, which compares the pixels; else use"
        )
        with pytest.raises(OutputError, match=message):
            folder.read_part(task(result()), "other")

    @pytest.mark.parametrize(("before", "now"), [(None, "x"), ("x", None), (None, None)])
    def test_unknown_stamps_say_nothing(self, tmp_path, before, now):
        folder = opened(tmp_path)
        folder.write_part(result(), before)
        same(folder.read_part(task(result()), now), result())


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
            ({"options": {"channels": ["DNA"]}}, r"options channels None, now \['DNA'\]"),
            ({"options": {"new": 1}}, "options new None, now 1"),
            (
                {"model": {"weights_digest": "34" * 32}},
                r"weights_digest 121212121212\.\.\., now 343434343434\.\.\.:",
            ),
            ({"plate": {"digest": "cd" * 32}}, r"plate digest abababababab\.\.\., now cdcd"),
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
        document = json.loads(folder.manifest.read_bytes()) | {"format": 2}
        folder.manifest.write_text(json.dumps(document))
        with pytest.raises(OutputError, match="results of format 2, this version writes 1: use"):
            opened(tmp_path)

    @pytest.mark.parametrize("name", [*TABLES, "parts/A01.parquet"])
    def test_results_without_a_manifest(self, tmp_path, name):
        (tmp_path / "p/parts").mkdir(parents=True)
        (tmp_path / "p" / name).write_bytes(b"x")
        with pytest.raises(OutputError, match="holds results without a manifest: use --overwrite"):
            opened(tmp_path)
        opened(tmp_path, overwrite=True).write_part(result((1, 1)), None)
        assert everything(tmp_path) == ["p", "p/manifest.json", "p/parts", "p/parts/B01.parquet"]


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
            with pytest.raises(OutputError, match=r"cannot be written \(File exists\): choose"):
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

    @pytest.mark.parametrize("name", ["BR00117010", "plate 1 (a+b).2", "Größe", "板1", "x-1_2"])
    def test_decent_names_stay(self, name):
        assert folder_name(name) == name

    def test_long_names_stay_apart(self):
        assert folder_name("x" * 300 + "a") != folder_name("x" * 300 + "b")


def test_stamps_change_with_the_pixels(tmp_path):
    simulate_plate(tmp_path / "p.zarr", rows=1, columns=2, size=(20, 20), channels=("DNA",))
    plate = open_plate(tmp_path / "p.zarr")
    first, second = plan_plate(plate, EmbedOptions(tile=16)).wells
    stamp = pixel_stamp(plate.storage, first)
    assert stamp is not None
    assert stamp == pixel_stamp(open_plate(tmp_path / "p.zarr").storage, first)
    assert stamp != pixel_stamp(plate.storage, second)
    chunk = next(path for path in (tmp_path / "p.zarr/A/1").rglob("0/0/*") if path.is_file())
    before = pixel_stamp(plate.storage, second)
    chunk.write_bytes(chunk.read_bytes() + b"x")
    assert stamp != pixel_stamp(plate.storage, first)
    assert before == pixel_stamp(plate.storage, second)
