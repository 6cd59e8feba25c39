"""Reads a plate's JSON documents, each once: Zarr v2 or v3, consolidated where it saves trips."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from unidino_fast.storage import StorageFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unidino_fast.storage import ReadResult, Storage

JsonObject = dict[str, Any]
Document = JsonObject | StorageFault | None
"""An object, None where it is absent, or the fault that kept it from being read."""
_BATCH = 256
"""Documents that are held at a time: those of a plate take 12 times what is made of them."""


def parse_json(found: ReadResult) -> Document:
    """A JSON object of bytes; anything else than an object is a fault, never an exception."""
    if not isinstance(found, bytes):
        return found
    try:
        document = json.loads(found)
    except (ValueError, RecursionError):
        return StorageFault("is not JSON")
    return document if isinstance(document, dict) else StorageFault("is not a JSON object")


class Documents:
    """The group and array documents below one root.

    Args:
        storage: where the bytes lie.
        prefix: path of the root within the storage, empty for the storage itself.
        zarr_format: 2 or 3, found once for the whole hierarchy.
        consolidated: documents by key that need no further read; may be stale by omission.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        zarr_format: Literal[2, 3],
        consolidated: dict[str, JsonObject] | None = None,
    ) -> None:
        self.storage = storage
        self.prefix = prefix
        self.zarr_format: Literal[2, 3] = zarr_format
        self._consolidated = consolidated or {}
        self._digest = hashlib.sha256()

    def key(self, path: str) -> str:
        """Key in the storage of a path below the root."""
        return "/".join(part for part in (self.prefix, path) if part)

    def groups(self, paths: Sequence[str]) -> Iterator[Document]:
        """Attributes of groups (for NGFF 0.5 and later, what stands under `ome`), read as asked."""
        if self.zarr_format == 2:
            yield from self._read([f"{path}/.zattrs" for path in paths])
            return
        for node in self._read([f"{path}/zarr.json" for path in paths]):
            yield ome_attributes(node) if isinstance(node, dict) else node

    def arrays(self, paths: Sequence[str]) -> Iterator[Document]:
        """Documents of arrays, as zarr-python takes them, read as they are asked for."""
        name = ".zarray" if self.zarr_format == 2 else "zarr.json"
        return self._read([f"{path}/{name}" for path in paths])

    @property
    def digest(self) -> str:
        """SHA-256 over every document read so far, in order; formatting does not matter."""
        return self._digest.hexdigest()

    def _read(self, keys: Sequence[str]) -> Iterator[Document]:
        """Documents in order, read and taken into the digest a batch at a time."""
        for first in range(0, len(keys), _BATCH):
            batch = keys[first : first + _BATCH]
            wanted = [key for key in batch if key not in self._consolidated]
            results = self.storage.read_many([self.key(key) for key in wanted])
            read = dict(zip(wanted, map(parse_json, results), strict=True))
            for key in batch:
                document = self._consolidated.get(key, read.get(key))
                self.include(key, document)
                yield document

    def include(self, key: str, document: Document) -> None:
        """Takes a document into the digest, without the copies of others (consolidated) in it."""
        if isinstance(document, dict):
            document = {k: v for k, v in document.items() if k != "consolidated_metadata"}
            canonical = json.dumps([key, document], sort_keys=True, separators=(",", ":"))
            self._digest.update(canonical.encode())


def digest_of(*facts: object) -> str:
    """Of JSON-ready facts: 64 bits in hexadecimal, which a person can be shown."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ome_attributes(node: JsonObject) -> Document:
    """NGFF attributes of a v3 group: under `ome`, or beside it as some 0.4 writers do."""
    attributes = node.get("attributes", {})
    if not isinstance(attributes, dict):
        return StorageFault("`attributes` is not a JSON object")
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else StorageFault("`attributes.ome` is not a JSON object")


def open_documents(storage: Storage, prefix: str) -> tuple[Documents, Document]:
    """Finds the Zarr version at a root; returns its documents and the root's NGFF attributes.

    The attributes are None where no Zarr group is. On remote stores, where a read costs a trip,
    consolidated metadata serves all documents that it holds.
    """

    def key(name: str) -> str:
        return f"{prefix}/{name}" if prefix else name

    node, old = map(parse_json, storage.read_many([key("zarr.json"), key(".zattrs")]))
    new = ome_attributes(node) if isinstance(node, dict) else node
    attributes: Document
    held: dict[str, JsonObject] = {}
    if new is not None and (_is_plate(new) or not _is_plate(old)):
        if storage.is_remote and isinstance(node, dict):
            held = _consolidated_v3(node)
        documents, attributes = Documents(storage, prefix, 3, held), new
    else:
        if storage.is_remote and _is_plate(old):
            held = _consolidated_v2(storage, key(".zmetadata"))
        documents, attributes = Documents(storage, prefix, 2, held), old
    documents.include("", attributes)
    return documents, attributes


def _is_plate(attributes: Document) -> bool:
    return isinstance(attributes, dict) and "plate" in attributes


def _consolidated_v3(node: JsonObject) -> dict[str, JsonObject]:
    consolidated = node.get("consolidated_metadata")
    held = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return {f"{path}/zarr.json": inner for path, inner in _objects(held).items()}


def _consolidated_v2(storage: Storage, key: str) -> dict[str, JsonObject]:
    [document] = map(parse_json, storage.read_many([key]))
    return _objects(document.get("metadata") if isinstance(document, dict) else None)


def _objects(held: object) -> dict[str, JsonObject]:
    items = held.items() if isinstance(held, dict) else ()
    return {name: inner for name, inner in items if isinstance(inner, dict)}
