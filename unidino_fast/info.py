"""What a plate holds and whether it is sound: as a dictionary for programs, as text for people."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from unidino_fast.errors import UsageError, first_line
from unidino_fast.names import one_line, printable
from unidino_fast.planning import TileGrid
from unidino_fast.reading import stored_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unidino_fast.plate_model import Field, Plate

_MOST_LINES = 10
_GRID = TileGrid(224, 224)


def describe(plate: Plate) -> dict[str, Any]:
    """Facts about a plate, JSON-ready; what differs between fields is a list, commonest first.

    `stored_bytes` and `absent_chunks` are null on remote stores, which are not listed.
    """
    fields = plate.fields
    per_well = [len(well.fields) for well in plate.wells]
    stored = stored_chunks(plate)
    return {
        "name": plate.name,
        "location": plate.location,
        "ngff_version": plate.ngff_version,
        "zarr_format": plate.zarr_format,
        "n_wells": len(plate.wells),
        "rows": sorted({w.position.row_letters for w in plate.wells}, key=lambda r: (len(r), r)),
        "columns": sorted({w.position.column for w in plate.wells}),
        "n_fields": len(fields),
        "fields_per_well": [min(per_well), max(per_well)],
        "channels": list(plate.channels),
        "pixel_size_um": plate.pixel_size_um,
        "image_size": _commonest((field.height, field.width) for field in fields),
        "n_z": _commonest(field.length("z") for field in fields),
        "n_timepoints": _commonest(field.length("t") for field in fields),
        "dtype": _commonest(field.array.dtype for field in fields),
        "axes": _commonest(field.axes for field in fields),
        "chunks": _commonest(field.array.chunks for field in fields),
        "shards": _commonest(field.array.shards for field in fields if field.array.shards),
        "codec": _commonest(field.array.codec for field in fields),
        "tiles_per_field": _commonest(_GRID.n_tiles(f.height, f.width) for f in fields),
        "pixel_bytes": sum(_pixel_bytes(field) for field in fields),
        "stored_bytes": stored.n_bytes,
        "n_chunks": stored.n_chunks,
        "absent_chunks": stored.n_absent,
        "acquisitions": list(plate.acquisitions),
        "missing": list(plate.missing),
        "warnings": [*plate.skipped, *plate.warnings],
    }


def validate(plate: Plate) -> str | None:
    """The first fault that ome-zarr-models, the strict validator, finds; None where it finds none.

    Raises:
        UsageError: the validator knows no such NGFF version.
    """
    import ome_zarr_models.v04
    import ome_zarr_models.v05
    import zarr

    models: dict[str, Any] = {"0.4": ome_zarr_models.v04.HCS, "0.5": ome_zarr_models.v05.HCS}
    model = models.get(plate.ngff_version or "")
    if model is None:
        raise UsageError(
            f"--validate knows NGFF {' and '.join(models)}, not {plate.ngff_version}: leave it out"
        )
    try:
        group = zarr.open_group(plate.storage.zarr_store(), path=plate.root, mode="r")
        model.from_zarr(group)
    except Exception as error:  # pydantic, zarr and the store each have their own
        lines = [one_line(line) for line in str(error).splitlines() if line.strip()]
        return " | ".join(lines[:3]) or first_line(error)
    return None


def render(facts: dict[str, Any]) -> str:
    """The facts as lines for a person."""
    low, high = facts["fields_per_well"]
    size, stored, absent = facts["pixel_size_um"], facts["stored_bytes"], facts["absent_chunks"]
    rows, columns = _span(facts["rows"]), _span(facts["columns"])
    per_well = low if low == high else f"{low} to {high}"
    chunks = f"{_several(facts['chunks'], ' x ')} ({_several(facts['axes'])})"
    on_disk = "" if stored is None else f", {_bytes(stored)} stored"
    lines = [
        ("plate", f"{facts['name']}  ({_version(facts)})"),
        ("wells", f"{facts['n_wells']}  (rows {rows}, columns {columns})"),
        ("fields", f"{facts['n_fields']}  ({per_well} a well)"),
        ("channels", f"{len(facts['channels'])}  ({', '.join(facts['channels'])})"),
        ("image", f"{_several(facts['image_size'], ' x ')} px, {_several(facts['dtype'])}"),
        ("pixel size", "unknown" if size is None else f"{size:g} um"),
        ("z planes", _several(facts["n_z"])),
        ("time points", _several(facts["n_timepoints"])),
        ("tiles", f"{_several(facts['tiles_per_field'])} of 224 px a field and channel"),
        ("chunks", f"{chunks}, {_several(facts['codec'])}"),
        ("shards", _several(facts["shards"], " x ")),
        ("bytes", f"{_bytes(facts['pixel_bytes'])} of pixels{on_disk}"),
    ]
    hidden = {"z planes": facts["n_z"] == [1], "time points": facts["n_timepoints"] == [1]}
    hidden["shards"] = not facts["shards"]
    if absent:
        stored_parts = "shards" if facts["shards"] else "chunks"
        of_all = f"{absent} of {facts['n_chunks']} {stored_parts}"
        lines.append(("absent", f"{of_all} (they read as the fill value)"))
    for kind in ("missing", "warnings"):
        found = facts[kind]
        lines += [(kind.removesuffix("s"), line) for line in found[:_MOST_LINES]]
        if len(found) > _MOST_LINES:
            lines.append(("", f"and {len(found) - _MOST_LINES} more: --json lists them all"))
    if not (absent or facts["missing"] or facts["warnings"]):
        uncounted = " (chunks were not counted: no listing here)" if absent is None else ""
        lines.append(("sound", f"nothing is missing or odd{uncounted}"))
    shown = [f"{name:<12} {value}" for name, value in lines if not hidden.get(name)]
    return "\n".join(printable(line) for line in shown)


def _pixel_bytes(field: Field) -> int:
    import numpy as np

    planes = math.prod(field.length(axis) for axis in "tcz")
    return planes * field.height * field.width * np.dtype(field.array.dtype).itemsize


def _commonest(values: Iterable[Any]) -> list[Any]:
    return [list(v) if isinstance(v, tuple) else v for v, _ in Counter(values).most_common()]


def _several(values: list[Any], joint: str = ", ", most: int = 3) -> str:
    shown = [joint.join(map(str, v)) if isinstance(v, list) else str(v) for v in values[:most]]
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return " or ".join(shown) + more


def _span(values: list[Any]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"


def _version(facts: dict[str, Any]) -> str:
    return f"NGFF {facts['ngff_version'] or 'of unknown version'}, Zarr v{facts['zarr_format']}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
