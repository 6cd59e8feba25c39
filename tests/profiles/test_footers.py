"""Footers in parts, against Arrow's own reading of the whole."""

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unidino_fast.profiles.footers import Footer, joined, last_footer, parsed


def a_table(n_rows, n_columns, text="x"):
    rng = np.random.default_rng(n_rows)
    columns = {f"C{at}": rng.normal(size=n_rows).astype("f4") for at in range(n_columns)}
    lists = pa.array([[1, 2]] * n_rows, pa.list_(pa.int64()))
    names = {"Metadata_Well": [text] * n_rows, "Metadata_Flag": [True] * n_rows}
    return pa.table({**names, "Metadata_List": lists, **columns})


def written(table, row_group, **options):
    file = BytesIO()
    pq.write_table(table, file, row_group_size=row_group, **options)
    return file


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(0, 60),
    row_group=st.integers(1, 20),
    n_columns=st.integers(0, 20),
    text=st.sampled_from(["", "x", "µ" * 200]),
    options=st.fixed_dictionaries(
        {
            "compression": st.sampled_from(["none", "zstd"]),
            "write_statistics": st.booleans(),
            "write_page_index": st.booleans(),
            "use_dictionary": st.booleans(),
            "store_schema": st.booleans(),
        }
    ),
)
def test_each_row_group_as_arrow_reads_it(n_rows, row_group, n_columns, text, options):
    file = written(a_table(n_rows, n_columns, text), row_group, **options)
    whole = pq.ParquetFile(file)
    footer = Footer(last_footer(file)[0])
    assert footer.n_groups == whole.num_row_groups
    for at in range(footer.n_groups):
        part = footer.metadata(at, at + 1)
        assert part.num_rows == n_rows
        assert part.row_group(0).equals(whole.metadata.row_group(at))
        read = pq.ParquetFile(file, metadata=part).read_row_group(0)
        assert read.equals(whole.read_row_group(at))
    assert footer.metadata(0, footer.n_groups).equals(whole.metadata)
    assert footer.metadata().schema.equals(whole.schema)

    behind = BytesIO(bytes(4321) + file.getvalue())
    moved = parsed(footer.moved(4321))
    assert parsed(footer.moved(0)).equals(whole.metadata)
    table = pq.ParquetFile(behind, metadata=moved).read()
    assert table.equals(whole.read())


def test_more_row_groups_than_a_byte_counts():
    file = written(a_table(300, 1), 1)
    footer = Footer(last_footer(file)[0])
    assert footer.metadata(0, 300).equals(pq.read_metadata(file))
    assert footer.metadata(100, 115).num_row_groups == 15
    assert footer.metadata(100, 250).row_group(149).equals(pq.read_metadata(file).row_group(249))


def test_joined_footers_have_the_row_groups_of_all():
    one, other = (written(a_table(n, 3), 7) for n in (20, 9))
    both = joined([last_footer(one)[0], last_footer(other)[0]])
    assert (both.num_rows, both.num_row_groups) == (29, 5)
    assert both.row_group(4).equals(pq.read_metadata(other).row_group(1))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1PAR1", b"PAR1" + bytes(20), b"PAR1\xff\xff\0\0PAR1"]
)
def test_what_is_no_parquet_file(content):
    with pytest.raises(pa.ArrowInvalid, match="the file"):
        last_footer(BytesIO(content))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_footer_is_an_error_of_arrow_or_none(data):
    raw = bytearray(last_footer(written(a_table(20, 3), 7))[0])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]
    try:
        footer = Footer(bytes(raw))
        footer.metadata(0, footer.n_groups)
    except (pa.ArrowException, OSError):
        pass


def test_structs_within_structs_end_somewhere():
    with pytest.raises(pa.ArrowInvalid, match="malformed"):
        Footer(b"\x1c" * 100_000)


def test_a_footer_of_its_own():
    raw = last_footer(written(a_table(20, 3), 7))[0]
    assert parsed(raw).num_rows == 20
