"""Mosaic plates: one stitched image a well, its fields listed in `tables/FOV_ROI_table`.

Fractal's converters write them so. The table is an AnnData group: `X` of shape (fields, columns) in
micrometres, column names under `var`, field names under `obs`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.errors import first_line
from unidino_fast.plate_model import Field, Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.documents import Documents

TABLE = "tables/FOV_ROI_table"
_COLUMNS = ("y_micrometer", "x_micrometer", "len_y_micrometer", "len_x_micrometer")


def regions_of(
    documents: Documents, images: Sequence[Field]
) -> tuple[dict[str, list[Field]], list[str]]:
    """The fields of each image that has a field-of-view table, by the image's array path.

    Returns:
        The split images, and a note for each table that could not be used (its image stays whole).
    """
    roots = [_image_root(image, documents) for image in images]
    tables = documents.groups([f"{root}/{TABLE}" for root in roots])
    split: dict[str, list[Field]] = {}
    notes = []
    for image, root, table in zip(images, roots, tables, strict=True):
        if not isinstance(table, dict):
            continue
        try:
            split[image.array_path] = _split(image, documents, f"{root}/{TABLE}")
        except (KeyError, ValueError, TypeError, OSError) as error:
            notes.append(
                f"{root}/{TABLE} cannot be read ({first_line(error)}): the image is taken whole"
            )
    return split, notes


def _image_root(image: Field, documents: Documents) -> str:
    """Path of the image below the plate's root."""
    inside = image.array_path.removeprefix(documents.prefix).lstrip("/")
    return inside[: inside.index(f"/{image.site}/") + len(image.site) + 1]


def _split(image: Field, documents: Documents, path: str) -> list[Field]:
    import zarr

    table: Any = zarr.open_group(documents.storage.zarr_store(), path=documents.key(path), mode="r")
    columns = _index_of(table["var"])
    names = _index_of(table["obs"])
    values = np.asarray(table["X"][...], dtype=np.float64)
    if image.pixel_size_um is None:
        raise ValueError("the image has no pixel size to place its fields by")
    picked = values[:, [columns.index(column) for column in _COLUMNS]] / image.pixel_size_um
    fields = []
    for name, row in zip(names, np.rint(picked).astype(int), strict=True):
        y, x, height, width = map(int, row)
        if min(y, x) < 0 or height < 1 or width < 1:
            raise ValueError(f"field {name!r} lies outside the image")
        if y + height > image.length("y") or x + width > image.length("x"):
            raise ValueError(f"field {name!r} lies outside the image")
        fields.append(
            replace(image, site=f"{image.site}/{name}", region=Region(y, x, height, width))
        )
    if not fields:
        raise ValueError("it lists no field")
    return fields


def _index_of(group: Any) -> list[str]:
    """The index column of an AnnData frame: `_index` in its attributes names it."""
    return [str(name) for name in group[group.attrs.get("_index", "_index")][...]]
