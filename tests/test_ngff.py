"""Documents of real writers, and of broken ones, without any disk."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unidino_fast import ngff
from unidino_fast.errors import PlateError

ARRAY_V2 = {
    "zarr_format": 2, "shape": [3, 100, 120], "chunks": [1, 100, 120], "dtype": "<u2", "order": "C",
    "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
    "fill_value": 0, "filters": None, "dimension_separator": "/",
}  # fmt: skip
ARRAY_V3 = {
    "zarr_format": 3, "node_type": "array", "shape": [3, 100, 120], "data_type": "uint16",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 100, 120]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    ],
    "fill_value": 0,
}  # fmt: skip
SHARDED = [
    {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, 50, 60],
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 3,
                                                    "shuffle": "shuffle", "typesize": 2}},
                {"name": "crc32c"},
            ],
            "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
        },
    }
]  # fmt: skip


def image(axes: Any, **more: Any) -> dict[str, Any]:
    scale = {"datasets": [{"path": "0"}], **more}
    return {"multiscales": [scale if axes is None else {"axes": axes, **scale}]}


@pytest.mark.parametrize(
    ("axes", "letters"),
    [
        (None, "tczyx"),
        (["y", "x"], "yx"),
        (["c", "y", "x"], "cyx"),
        ([{"name": "T", "type": "time"}, {"name": "C", "type": "channel"},
          {"name": "Z", "type": "space"}, {"name": "Y", "type": "space"},
          {"name": "X", "type": "space"}], "tczyx"),
        ([{"name": "z"}, {"name": "y"}, {"name": "x"}], "zyx"),
        ([{"name": "wavelength", "type": "channel"}, {"name": "y"}, {"name": "x"}], "cyx"),
        ([{"name": "frame", "type": "time"}, {"name": "Y"}, {"name": "X"}], "tyx"),
        ([{"name": "z"}, {"name": "c"}, {"name": "y"}, {"name": "x"}], "zcyx"),
    ],
)  # fmt: skip
def test_axes_by_type_then_name(axes: Any, letters: str) -> None:
    assert ngff.parse_image(image(axes)).axes == letters


@pytest.mark.parametrize(
    "axes",
    [
        [], ["x"], ["x", "y"], ["c", "c", "y", "x"], ["q", "y", "x"], ["", "y", "x"],
        [{"name": "y"}, {"name": "x"}, {"name": "c"}],
    ],
)  # fmt: skip
def test_other_axes_are_refused(axes: Any) -> None:
    with pytest.raises(PlateError, match="axes"):
        ngff.parse_image(image(axes))


def scaled(*steps: Any, unit: str | None = "micrometer", of_image: Any = ()) -> float | None:
    axes = [{"name": "y", "unit": unit}, {"name": "x", "unit": unit}]
    datasets = [{"path": "0", "coordinateTransformations": list(steps)}]
    document = image(axes, datasets=datasets, coordinateTransformations=list(of_image))
    return ngff.parse_image(document).pixel_size_um


SCALE = {"type": "scale", "scale": [0.5, 0.65]}


@pytest.mark.parametrize(
    ("steps", "unit", "of_image", "size"),
    [
        ([SCALE], "micrometer", [], 0.65),
        ([SCALE], "nanometer", [], 0.00065),
        ([SCALE], "Micrometer", [], 0.65),
        ([SCALE], None, [], 0.65),
        ([SCALE], "pixel", [], None),
        ([SCALE], "micrometer", [{"type": "scale", "scale": [2.0, 2.0]}], 1.3),
        ([{"type": "identity"}], "micrometer", [], None),
        ([{"type": "translation", "translation": [1, 2]}, SCALE], "micrometer", [], 0.65),
        ([{"type": "sequence", "transformations": [SCALE, {"type": "x"}]}], "um", [], 0.65),
        ([{"type": "scale", "scale": [1.0, 1.0]}], None, [], None),
        ([{"type": "scale", "scale": [1.0, 1.0]}], "micrometer", [], 1.0),
        ([{"type": "scale", "scale": [1, 2, 3]}], "micrometer", [], None),
        ([{"type": "scale", "scale": [0, 0]}], "micrometer", [], None),
        ([{"type": "scale", "scale": [1e308, 1e308]}] * 2, "micrometer", [], None),
        ([{"type": "scale", "path": "scales/0"}], "micrometer", [], None),
        ([], "micrometer", [], None),
    ],
)  # fmt: skip
def test_pixel_size(steps: Any, unit: str | None, of_image: Any, size: float | None) -> None:
    found = scaled(*steps, unit=unit, of_image=of_image)
    assert found == (None if size is None else pytest.approx(size, rel=1e-9))


def test_axes_and_scale_of_0_6() -> None:
    system = {"name": "physical", "axes": [{"name": "y", "unit": "micrometer"},
                                           {"name": "x", "unit": "micrometer"}]}  # fmt: skip
    steps = {"type": "sequence", "input": "0", "output": "physical", "transformations": [SCALE]}
    document = image(
        None,
        coordinateSystems=[system],
        datasets=[{"path": "s0", "coordinateTransformations": [steps]}],
        coordinateTransformations=[{"type": "scale", "scale": [9, 9], "output": "stage"}],
    )
    facts = ngff.parse_image(document)
    assert (facts.axes, facts.array_path, facts.pixel_size_um) == ("yx", "s0", 0.65)


@pytest.mark.parametrize(
    ("omero", "labels"),
    [
        (None, ()),
        ({}, ()),
        ({"channels": None}, ()),
        ({"channels": [{"label": "DNA"}, {}, {"label": ""}, {"label": 5}, {"label": " a\nb "}]},
         ("DNA", None, None, "5", "a b")),
    ],
)  # fmt: skip
def test_channel_labels(omero: Any, labels: tuple[str | None, ...]) -> None:
    assert ngff.parse_image(image(["y", "x"]) | {"omero": omero}).labels == labels


@pytest.mark.parametrize("path", ["0", "s0", "scale0/image", "A/1", "./0", "a b", "fov0/", "..a"])
def test_paths_that_stay_inside(path: str) -> None:
    assert ngff.safe_path(path) == path.removeprefix("./").removesuffix("/")


@pytest.mark.parametrize(
    "path",
    ["", "/", ".", "..", "../..", "A/../../etc", "/etc/passwd", "..\\..", "C:\\x", "C:x", "a\\b",
     "https://x/y", "s3://b/k", "file:///etc", "a\0b", "a\nb", "\ud800", "//server/share"],
)  # fmt: skip
def test_paths_that_leave_are_refused(path: str) -> None:
    with pytest.raises(PlateError, match="refused") as caught:
        ngff.safe_path(path)
    assert str(caught.value).isprintable()


def test_array_facts() -> None:
    two = ngff.parse_array(ARRAY_V2, 2)
    assert (two.shape, two.chunks, two.shards) == ((3, 100, 120), (1, 100, 120), None)
    assert (two.dtype, two.codec) == ("uint16", "blosc-lz4")
    three = ngff.parse_array(ARRAY_V3, 3)
    assert (three.chunks, three.shards, three.dtype, three.codec) == (
        (1, 100, 120), None, "uint16", "zstd",
    )  # fmt: skip
    sharded = ngff.parse_array({**ARRAY_V3, "codecs": SHARDED}, 3)
    assert (sharded.chunks, sharded.shards) == ((1, 50, 60), (1, 100, 120))
    assert sharded.codec == "blosc-zstd"
    transposed = [{"name": "transpose", "configuration": {"order": [2, 1, 0]}}, *SHARDED]
    assert ngff.parse_array({**ARRAY_V3, "codecs": transposed}, 3).shards == (1, 100, 120)
    assert ngff.parse_array({**ARRAY_V2, "compressor": None}, 2).codec == "none"
    assert ngff.parse_array({**ARRAY_V2, "compressor": {"id": "zlib"}}, 2).codec == "zlib"


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<i2", ">i2", "<u4", ">u4", "<f4", ">f4"])
def test_dtypes_of_v2(dtype: str) -> None:
    expected = np.dtype(dtype).newbyteorder("=").name
    assert ngff.parse_array({**ARRAY_V2, "dtype": dtype}, 2).dtype == expected


@pytest.mark.parametrize("change", [
    {"dtype": "<f8"}, {"dtype": "|b1"}, {"dtype": "u2,u2"}, {"dtype": [["a", "<u2"]]},
    {"dtype": 5}, {"dtype": "\n" * 99}, {"shape": [3, 0, 120]}, {"shape": []}, {"shape": [3, 100]},
    {"shape": [3, -1, 120]}, {"shape": [3, 10**30, 120]}, {"shape": "abc"}, {"shape": None},
    {"shape": [3.0, 100, 120]}, {"shape": [True, 100, 120]}, {"chunks": [0, 100, 120]},
    {"chunks": [1, 100]}, {"chunks": 100}, {"compressor": "blosc"}, {"compressor": {}},
])  # fmt: skip
def test_broken_arrays_of_v2(change: dict[str, Any]) -> None:
    with pytest.raises(PlateError) as caught:
        ngff.parse_array({**ARRAY_V2, **change}, 2)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("change", [
    {"data_type": "float64"}, {"data_type": {"name": "uint16"}}, {"node_type": "group"},
    {"chunk_grid": {"name": "rectilinear", "configuration": {}}}, {"chunk_grid": 3},
    {"codecs": {}}, {"codecs": []}, {"codecs": None}, {"codecs": [None]},
    {"codecs": [{"name": "blosc"}]},
    {"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1]}}]},
    {"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 0, 2],
                                                               "codecs": []}}]},
])  # fmt: skip
def test_broken_arrays_of_v3(change: dict[str, Any]) -> None:
    with pytest.raises(PlateError) as caught:
        ngff.parse_array({**ARRAY_V3, **change}, 3)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("attributes", "version"),
    [
        ({"version": "0.5"}, "0.5"),
        ({"plate": {"version": "0.4"}}, "0.4"),
        ({"well": {"version": "0.4"}, "plate": []}, "0.4"),
        ({"multiscales": [{"version": "0.3"}]}, "0.3"),
        ({"multiscales": {"version": "0.3"}}, None),
        ({"multiscales": 5, "version": 4}, None),
        ({}, None),
    ],
)
def test_version(attributes: dict[str, Any], version: str | None) -> None:
    assert ngff.version_of(attributes) == version


@pytest.mark.parametrize(
    "version", ["0.1", "0.4", "0.5", "0.6", "0.6rc0", "0.6.dev3", "0.6.dev3+g12"]
)
def test_known_versions(version: str) -> None:
    assert ngff.KNOWN_VERSIONS.fullmatch(version)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
DOCUMENTS = {
    "plate": {"plate": {"name": "p", "rows": [{"name": "A"}], "columns": [{"name": "1"}],
                        "wells": [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}]}},
    "well": {"well": {"images": [{"path": "0", "acquisition": 1}]}},
    "image": {**image([{"name": "c", "type": "channel"}, {"name": "y", "unit": ""}, {"name": "x"}],
                      datasets=[{"path": "0", "coordinateTransformations": [SCALE]}]),
              "omero": {"channels": [{"label": "DNA"}]}},
    "v2": ARRAY_V2,
    "v3": {**ARRAY_V3, "codecs": SHARDED},
}  # fmt: skip
PARSERS: dict[str, Any] = {
    "plate": ngff.parse_plate,
    "well": ngff.parse_well,
    "image": ngff.parse_image,
    "v2": lambda document: ngff.parse_array(document, 2),
    "v3": lambda document: ngff.parse_array(document, 3),
}


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    found = [path] if path else []
    for key, value in items:
        found += places(value, (*path, key))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(DOCUMENTS)))
def test_a_changed_document_parses_or_is_refused_in_one_line(
    data: st.DataObject, kind: str
) -> None:
    document = DOCUMENTS[kind]
    path = data.draw(st.sampled_from(places(document)))
    changed = json.loads(json.dumps(put(document, path, data.draw(JUNK))))
    message = ""
    try:
        PARSERS[kind](changed)
    except PlateError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 400
