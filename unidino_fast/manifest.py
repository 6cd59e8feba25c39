"""`manifest.json` of an output folder: what made its results, and whether another run may go on.

Of the provenance, the groups in `DECIDING` are compared; the rest (software, machine) is for people
to read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.files import write_json
from unidino_fast.names import short_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

FORMAT = 3
DECIDING = ("plate", "model", "options")
"""Groups of the provenance that results in one folder must share."""
_MOST_BYTES = 2**27
"""Of a manifest. A merge keeps what each of its shards said, so that some have megabytes."""
_MOST_TILES = 10**12
_MOST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says of results.

    Attributes:
        format: `FORMAT` is what this version writes and goes on with.
        deciding: the groups in `DECIDING` of the provenance.
        platemap: name of that which gave the labels, if any.
        job_tiles: of the job that the folder was begun with, by which an engine may be chosen.
    """

    format: object
    deciding: dict[str, dict[str, Any]]
    platemap: str | None
    job_tiles: int | None


def read_manifest(path: Path) -> Manifest | None:
    """Reads a manifest; None where it is not there or is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        document = json.loads(path.read_bytes())
        provenance, tiles = document["provenance"], document.get("job_tiles")
        return Manifest(
            format=document["format"],
            deciding={group: dict(provenance[group]) for group in DECIDING},
            platemap=(provenance.get("platemap") or {}).get("name"),
            job_tiles=tiles if type(tiles) is int and 0 <= tiles <= _MOST_TILES else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_manifest(
    path: Path, provenance: Mapping[str, Any], job_tiles: int | None, run: Mapping[str, Any]
) -> None:
    """Writes a manifest.

    Raises:
        OutputError: it cannot be written.
    """
    document = {
        "format": FORMAT,
        "job_tiles": job_tiles,
        "provenance": dict(provenance),
        "run": dict(run),
    }
    write_json(document, path)


def deciding(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What of a provenance decides the numbers, in one order, as it comes back from JSON.

    Weights go by their digest: the same ones may have another name. The plate's digest is not among
    them: each part knows what the metadata said of its own fields.
    """
    found = {group: dict(provenance[group]) for group in DECIDING}
    found["plate"].pop("digest", None)
    if found["model"].get("weights_digest"):
        found["model"].pop("weights", None)
    held: dict[str, dict[str, Any]] = json.loads(json.dumps(found, sort_keys=True))
    return held


def difference(
    one: Mapping[str, Any], other: Mapping[str, Any], *, but: Collection[str] = ()
) -> tuple[str, str, str] | None:
    """The first thing that decides numbers in which provenances differ, and both its values."""
    before, now = deciding(one), deciding(other)
    for group in DECIDING:
        for name in dict.fromkeys([*now[group], *before[group]]):
            if name in but:
                continue
            values = before[group].get(name), now[group].get(name)
            if values[0] == values[1] or _follows_the_tile(name, before[group], now[group]):
                continue
            names = one["model"].get("weights"), other["model"].get("weights")
            if name == "weights_digest" and names[0] != names[1]:
                name, values = "weights", names  # which say more to a person
            return f"{group} {name}", short(values[0]), short(values[1])
    return None


def _follows_the_tile(name: str, *options: Mapping[str, Any]) -> bool:
    """Whether strides differ because tiles do, of which a person is told instead."""
    return name == "stride" and all(own.get(name) == own.get("tile") for own in options)


def short(value: object) -> str:
    """A value of the provenance in a message: digests and what is long cut, one line."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}..."
    is_plain = isinstance(value, str) and value.isprintable()
    return short_line(value if is_plain else repr(value), _MOST_SHOWN)
