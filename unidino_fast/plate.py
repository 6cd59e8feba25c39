"""OME-Zarr plate metadata -> frozen Plate / Well / Field, parsed once.

Every fault in the metadata is collected and raised together. Wells and fields that the metadata
lists but the disk does not hold are left out and reported (`Plate.missing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from unidino_fast import ngff
from unidino_fast.documents import open_documents
from unidino_fast.errors import PlateError, UsageError
from unidino_fast.names import one_line, plate_stem
from unidino_fast.plate_model import Field, Plate, Region, Well
from unidino_fast.plate_reader import PlateReader
from unidino_fast.storage import Storage, StorageFault, open_storage

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from unidino_fast.documents import Documents, JsonObject

__all__ = ["Field", "Plate", "Region", "Well", "open_plate"]

OnError = Literal["fail", "skip"]


def open_plate(
    location: str | os.PathLike[str],
    *,
    acquisition: int | None = None,
    strict: bool = False,
    on_error: OnError = "fail",
) -> Plate:
    """Opens an OME-Zarr plate (NGFF 0.1 to 0.6) in a folder, a `.zip`/`.ozx` file or at a URL.

    Metadata is read once: for W wells and F fields a well, 2 reads find the root, then W wells,
    W x F images and W x F arrays are read, plus one for each well that holds a single image (it may
    be a mosaic with a table of fields). Where a read costs a trip, consolidated metadata stands
    in.

    Args:
        location: path or URL.
        acquisition: keep the fields of this acquisition only.
        strict: what is listed but absent is an error too.
        on_error: `skip` leaves faulty wells and fields out and reports them as warnings.

    Raises:
        PlateError: no plate is there, its metadata is broken or unsafe, or no well is readable.
        UsageError: the acquisition does not exist, or the URL's protocol is unknown.
    """
    storage = open_storage(location)
    try:
        return _open(storage, acquisition, strict=strict, on_error=on_error)
    except RecursionError:
        raise PlateError(f"{storage.location}: metadata is nested too deeply to be read") from None


def _open(storage: Storage, acquisition: int | None, *, strict: bool, on_error: OnError) -> Plate:
    documents, attributes = _find_plate(storage)
    try:
        plate = ngff.parse_plate(attributes)
    except PlateError as error:
        raise PlateError(f"{storage.location}: {error}") from None
    reader = PlateReader(documents, plate, acquisition)
    wells = reader.read()
    faults = reader.faults + (reader.missing if strict else [])
    if faults and (strict or on_error == "fail"):
        remedy = "check your access to it" if reader.is_forbidden else "mend or restore that"
        if reader.is_server_at_fault:  # what it holds may be whole
            remedy = "run the same command again later"
        elif not strict:
            remedy += ", or leave it out with --on-error skip"
        raise PlateError(f"{storage.location}: {_joined(faults)}; {remedy}")
    if acquisition is not None and acquisition not in reader.acquisitions:
        present = ", ".join(map(str, sorted(reader.acquisitions))) or "none: leave it out"
        raise UsageError(f"acquisition {acquisition} is not in the plate: it has {present}")
    if not wells:
        reasons = reader.missing + reader.faults or ["its list of wells is empty"]
        raise PlateError(f"{storage.location} has no readable well: {_joined(reasons)}")
    version = ngff.version_of(attributes)
    return Plate(
        name=one_line(plate.name or "") or plate_stem(storage.location),
        location=storage.location,
        root=documents.prefix,
        wells=wells,
        channels=tuple(dict.fromkeys(c for w in wells for f in w.fields for c in f.channels)),
        pixel_size_um=wells[0].fields[0].pixel_size_um,
        ngff_version=version,
        zarr_format=documents.zarr_format,
        acquisitions=tuple(sorted(reader.acquisitions)),
        missing=tuple(reader.missing),
        skipped=tuple(reader.faults),
        warnings=tuple(reader.warnings + _plate_warnings(version, reader)),
        digest=documents.digest,
        storage=storage,
    )


def _find_plate(storage: Storage) -> tuple[Documents, JsonObject]:
    """The plate at the root or one folder down; `plate` and `<name>.zarr` are tried unlisted."""
    documents, root = open_documents(storage, "")
    if isinstance(root, StorageFault):
        why = one_line(root.reason)
        raise PlateError(
            f"{storage.location} cannot be reached ({why}): check its address, and try again later"
            if root.is_of_server
            else f"{storage.location} is no readable plate: metadata at its root: {why};"
            f" {'check your access to it' if root.is_forbidden else 'restore it from its source'}"
        )
    if root is not None and "plate" in root:
        return documents, root
    stem = plate_stem(storage.location)
    children = [name for name in storage.children() if not name.startswith(".")]
    found = []
    faults = []
    for prefix in children or (["plate", f"{stem}.zarr", stem] if storage.is_remote else []):
        documents, attributes = open_documents(storage, prefix)
        if isinstance(attributes, StorageFault):
            faults.append(one_line(f"metadata at {prefix}: {attributes.reason}"))
        elif attributes is not None and "plate" in attributes:
            found.append((documents, attributes))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(one_line(documents.prefix) for documents, _ in found)
        raise PlateError(f"{storage.location} holds {len(found)} plates: open one of {names}")
    if faults:
        raise PlateError(f"{storage.location} is no readable plate: {_joined(faults)}")
    for kind, name in (("well", "well"), ("multiscales", "image")):
        if root is not None and kind in root:
            raise PlateError(
                f"{storage.location} is a single {name} of OME-Zarr, not a plate: give the folder"
                " that holds the plate's rows"
            )
    raise PlateError(
        f"{storage.location} is not an OME-Zarr plate: neither zarr.json nor .zattrs there, or one"
        " folder down, holds `plate` metadata"
        " (image files become a plate by `unidino-fast convert`)"
    )


def _plate_warnings(version: str | None, reader: PlateReader) -> list[str]:
    warnings = []
    if version is None or not ngff.KNOWN_VERSIONS.fullmatch(version):
        warnings.append(f"NGFF version {version!r} is unknown: read like the nearest known one")
    if len(reader.acquisitions) > 1 and reader.acquisition is None:
        numbers = ", ".join(str(number) for number in sorted(reader.acquisitions))
        warnings.append(f"wells hold acquisitions {numbers}, all used: choose with --acquisition N")
    return warnings


def _joined(lines: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
