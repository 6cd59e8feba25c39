"""Mosaic plates: one stitched image a well, its fields listed in `tables/FOV_ROI_table`.

Fractal's converters write them so. The table is an AnnData group: `X` of shape (fields, columns) in
micrometres, column names under `var`, field names under `obs`. Newer ones may hold `table.csv`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.documents import digest_of
from unidino_fast.errors import first_line
from unidino_fast.names import one_line
from unidino_fast.plate_model import Field, Region

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from unidino_fast.documents import Documents, JsonObject

TABLE = "tables/FOV_ROI_table"
_COLUMNS = ("y_micrometer", "x_micrometer", "len_y_micrometer", "len_x_micrometer")


def regions_of(
    documents: Documents, images: Mapping[str, Field]
) -> tuple[dict[str, list[Field]], list[str]]:
    """The fields of each image that has a field-of-view table.

    Args:
        documents: of the plate.
        images: fields that are whole images, by the image's path below the plate's root.

    Returns:
        The split images by the same path, and a note for each table that could not be used (its
        image stays whole).
    """
    # all of them before any is used: the digest takes documents in that order
    tables = list(documents.groups([f"{path}/{TABLE}" for path in images]))
    split: dict[str, list[Field]] = {}
    notes = []
    for (path, image), table in zip(images.items(), tables, strict=True):
        if not isinstance(table, dict):
            continue
        try:
            split[path] = fields = _split(image, *_rows(documents, f"{path}/{TABLE}", table))
        except Exception as error:  # a table is decoded here, with all that codecs may raise
            notes.append(
                f"{path}/{TABLE} cannot be used ({one_line(first_line(error))}): the image is"
                " taken whole"
            )
        else:
            regions = {field.site: str(field.region) for field in fields}
            documents.include(f"{path}/{TABLE}", {"regions": regions})
    return split, notes


def _rows(
    documents: Documents, path: str, attributes: JsonObject
) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the fields, and y, x, height, width of each in micrometres."""
    if attributes.get("backend") == "csv":
        found = documents.storage.read(documents.key(f"{path}/table.csv"))
        if not isinstance(found, bytes):
            raise ValueError("it holds no table.csv")
        index = str(attributes.get("index_key") or "FieldIndex")
        rows = list(csv.DictReader(io.StringIO(found.decode())))
        return [row[index] for row in rows], np.array(
            [[float(row[column]) for column in _COLUMNS] for row in rows]
        )
    import zarr

    table: Any = zarr.open_group(documents.storage.zarr_store(), path=documents.key(path), mode="r")
    columns = _index_of(table["var"])
    values = np.asarray(table["X"][...], dtype=np.float64)
    return _index_of(table["obs"]), values[:, [columns.index(column) for column in _COLUMNS]]


def _split(image: Field, names: list[str], micrometres: NDArray[np.float64]) -> list[Field]:
    if image.pixel_size_um is None:
        raise ValueError("the image has no pixel size to place its fields by")
    if not names or len(set(names)) != len(names):
        raise ValueError("it lists no field, or one twice")
    pixels = np.rint(micrometres / image.pixel_size_um)
    height, width = image.length("y"), image.length("x")
    fields = []
    for name, row in zip(names, pixels.tolist(), strict=True):
        region = Region(*map(int, row))  # an infinite or missing number raises
        if min(region.y, region.x) < 0 or min(region.height, region.width) < 1:
            raise ValueError(f"field {name} has no place in the image")
        if region.y + region.height > height or region.x + region.width > width:
            raise ValueError(f"field {name} lies outside the image")
        fields.append(
            replace(
                image,
                site=f"{image.site}/{one_line(name)}",
                region=region,
                metadata_digest=digest_of(image.metadata_digest, str(region)),
            )
        )
    return fields


def _index_of(group: Any) -> list[str]:
    """The index column of an AnnData frame: `_index` in its attributes names it."""
    return [str(name) for name in group[group.attrs.get("_index", "_index")][...]]
