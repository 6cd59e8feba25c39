"""Part files: a well comes back bit by bit, or not at all."""

import os
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from result_factory import result, task

from unidino_fast import parts
from unidino_fast.errors import OutputError
from unidino_fast.names import WellName
from unidino_fast.parts import read_part as read_part_of
from unidino_fast.parts import write_part
from unidino_fast.results import WellResult
from unidino_fast.tables import PROVENANCE_KEY, write_parquet

read_part = partial(read_part_of, remedy="use --overwrite or another --out")


def same(left, right):
    assert left.position == right.position
    for a, b in zip(left.fields, right.fields, strict=True):
        assert (a.site, a.time, a.labels) == (b.site, b.time, b.labels)
        assert (a.n_tiles, a.n_tiles_dropped, a.checksum) == (
            b.n_tiles,
            b.n_tiles_dropped,
            b.checksum,
        )
        assert a.features.dtype == b.features.dtype == np.float32
        np.testing.assert_array_equal(a.features.view("u4"), b.features.view("u4"))


@pytest.mark.parametrize("dim", [1, 2, 384])
@pytest.mark.parametrize("well", [(0, 1), (27, 48)])
def test_round_trip(tmp_path, well, dim):
    write_part(tmp_path, result(well, dim), "stamp", "made")
    found = read_part(tmp_path, task(result(well, dim)), "stamp", "made")
    same(found, result(well, dim))


def test_no_part(tmp_path):
    assert read_part(tmp_path, task(result()), None, "made") is None


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.5, 0.9, 0.999])
def test_a_torn_part_is_none(tmp_path, share):
    write_part(tmp_path, result(), "stamp", "made")
    part = tmp_path / "A01.parquet"
    data = part.read_bytes()
    part.write_bytes(data[: int(share * len(data))])
    assert read_part(tmp_path, task(result()), "stamp", "made") is None


@pytest.mark.parametrize("what", ["sparse", "pipe", "folder"])
def test_what_is_no_part_is_none(tmp_path, what):
    part = tmp_path / "A01.parquet"
    if what == "sparse":
        write_part(tmp_path, result(), "stamp", "made")
        os.truncate(part, 200 << 30)  # more than memory holds
    elif what == "pipe":
        os.mkfifo(part)
    else:
        part.mkdir()
    assert read_part(tmp_path, task(result()), "stamp", "made") is None


def test_large_parts_are_read_by_arrow(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_MOST_AT_ONCE", 100)
    write_part(tmp_path, result(), "stamp", "made")
    same(read_part(tmp_path, task(result()), "stamp", "made"), result())


def test_a_spoilt_part_is_none_or_what_was_written(tmp_path):
    """Bits anywhere, in the stamp of the pixels as well as in the features."""
    rng = np.random.default_rng(0)
    written = result((0, 1), 8)
    write_part(tmp_path, written, "stamp", "made")
    part = tmp_path / "A01.parquet"
    data = np.frombuffer(part.read_bytes(), np.uint8)
    n_found = 0
    for _ in range(1500):
        spoilt = data.copy()
        places = rng.integers(0, len(data), rng.integers(1, 4))
        spoilt[places] ^= np.uint8(1) << rng.integers(0, 8, len(places), dtype=np.uint8)
        part.write_bytes(spoilt)
        found = read_part(tmp_path, task(written), "stamp", "made")  # raises for another stamp
        if found is not None:
            same(found, written)
            n_found += 1
    assert 0 < n_found < 750  # Parquet says some things twice


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1" * 9, bytes(500), b"{}" * 99, b"PAR1\0PAR1"])
def test_garbage_is_no_part(tmp_path, data):
    (tmp_path / "A01.parquet").write_bytes(data)
    assert read_part(tmp_path, task(result()), "stamp", "made") is None


@pytest.mark.parametrize("facts", ["[]", "{}", "null", "x", '"x"'])
def test_another_parquet_file_is_no_part(tmp_path, facts):
    pl.DataFrame({"a": [1]}).write_parquet(
        tmp_path / "A01.parquet", metadata={PROVENANCE_KEY: facts}
    )
    assert read_part(tmp_path, task(result()), "stamp", "made") is None
    write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "A01.parquet", {"pixels": "stamp"})
    assert read_part(tmp_path, task(result()), "stamp", "made") is None


def test_a_part_copied_over_that_of_another_well_is_none(tmp_path):
    """Also where nothing is known of pixels that the two differ by."""
    write_part(tmp_path, result((0, 1)), None, "made")
    part = tmp_path / "A01.parquet"
    (tmp_path / "A02.parquet").write_bytes(part.read_bytes())
    assert read_part(tmp_path, task(result((0, 1))), None, "made") is not None
    assert read_part(tmp_path, task(result((0, 2))), None, "made") is None


def test_a_part_of_other_fields_is_none(tmp_path):
    write_part(tmp_path, result(), "stamp", "made")
    fewer = WellResult(WellName(0, 1), result().fields[:-1])
    assert read_part(tmp_path, task(fewer), "stamp", "made") is None


def test_changed_pixels(tmp_path):
    write_part(tmp_path, result(), "stamp", "made")
    message = (
        r"^sizes or times of the chunks of well A01 changed since .*A01.parquet was written:"
        r" if only a copy changed that, add --verify, which compares the pixels; else remove that"
        r" file and run the same command again, or use --overwrite or another --out$"
    )
    with pytest.raises(OutputError, match=message):
        read_part(tmp_path, task(result()), "other", "made")


def test_changed_metadata_are_named_by_their_field(tmp_path):
    first = result().fields[0]
    fields = [
        replace(f, metadata_digest="cd" if f.site == first.site else "ab") for f in result().fields
    ]
    write_part(tmp_path, result(), "stamp", "made")
    changed = WellResult(WellName(0, 1), tuple(fields))
    with pytest.raises(OutputError, match=f"^the metadata of field A01/{first.site} changed since"):
        read_part(tmp_path, task(changed), "stamp", "made")
    without = WellResult(WellName(0, 1), (first,))  # whatever else the well has by now
    assert read_part(tmp_path, task(without), "stamp", "made") is None
    with pytest.raises(OutputError, match=r"A01.parquet was written: remove that file and run the"):
        read_part(tmp_path, task(changed), "other", "made", any_stamp=True)  # pixels say nothing


def test_changed_channels_are_named(tmp_path):
    write_part(tmp_path, result(), "stamp", "made")
    first = result().fields[0]
    labels = tuple(reversed(first.labels))
    changed = WellResult(WellName(0, 1), (replace(first, labels=labels), *result().fields[1:]))
    said = f"channels of field A01/{first.site} changed .they were: DNA, ER; now: ER, DNA. since "
    with pytest.raises(OutputError, match=said):
        read_part(tmp_path, task(changed), "stamp", "made")


@pytest.mark.parametrize(("before", "now"), [(None, "x"), ("x", None), (None, None)])
def test_unknown_stamps_say_nothing(tmp_path, before, now):
    write_part(tmp_path, result(), before, "made")
    same(read_part(tmp_path, task(result()), now, "made"), result())
