"""Shards: a plate's wells dealt out to runs that know nothing of each other, and their merge.

Each run of `embed --shard I/N` does every N-th well and leaves a record beside the parts; `merge`
makes the tables when all N records are there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unidino_fast.assembly import Layout, write_tables
from unidino_fast.errors import OutputError, TableError, UsageError, first_line
from unidino_fast.files import write_json
from unidino_fast.manifest import DECIDING, difference
from unidino_fast.names import parse_well, short_line
from unidino_fast.output import OutputFolder
from unidino_fast.parts import read_whole_part
from unidino_fast.qc import thresholds_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from unidino_fast.platemap import Platemap
    from unidino_fast.qc import Thresholds
    from unidino_fast.results import WellRecord

_FORMAT = 2
_MOST_SHOWN = 60
"""Characters of a value in a message: a plate's wells are many."""
_PATTERN = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` runs that share a plate; `index` counts from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of `2/4`.

        Raises:
            UsageError: that is no shard.
        """
        match = _PATTERN.fullmatch(text)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= index <= count:
            raise UsageError(f"shard {text!r} is no shard: use I/N with I from 1 to N, such as 2/4")
        return cls(index, count)

    @property
    def name(self) -> str:
        """`2-of-4`, as in names of files."""
        return f"{self.index}-of-{self.count}"

    def of(self, items: Sequence[Any]) -> Sequence[Any]:
        """Its share: every N-th, so that slow corners of a plate are dealt out evenly."""
        return items[self.index - 1 :: self.count]


def check_count(folder: OutputFolder, shard: Shard) -> None:
    """Raises OutputError where shards of another number are finished already."""
    for file in sorted(folder.shards.glob("*-of-*.json")):
        count = file.stem.rpartition("-")[2]
        if count != str(shard.count):
            raise OutputError(
                f"{folder.path} holds shards of {count}, this is one of {shard.count}: use"
                f" --shard I/{count}, or another --out"
            )


def write_record(
    folder: OutputFolder, shard: Shard, layout: Layout, left_out: Mapping[str, str], run: object
) -> None:
    """Writes down that a shard is finished.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(
        {
            "format": _FORMAT,
            "shard": {"index": shard.index, "count": shard.count},
            "layout": layout.to_dict(),
            "left_out": dict(left_out),
            "provenance": dict(folder.provenance),
            "run": run,
        },
        folder.shards / f"{shard.name}.json",
    )


def merge(path: Path, platemap: Platemap | None = None) -> dict[str, Any]:
    """Makes the tables of a plate whose shards are all finished.

    Args:
        path: the plate's folder, which holds `parts` and `shards`.
        platemap: that of the shards, if they had one.

    Returns:
        Plate, folder, number of wells and shards, left-out wells, warnings.

    Raises:
        OutputError: a shard or a part is missing, shards were made in different ways, or the
            tables cannot be written.
        UsageError: the platemap is not that of the shards.
    """
    records = _records(path)
    first = records[0]
    layout = Layout.of(first["layout"])
    provenance = first["provenance"]
    _check_platemap(provenance.get("platemap"), platemap)
    left_out = {name: why for record in records for name, why in record["left_out"].items()}
    folder = OutputFolder.at(path, provenance)
    folder.job_tiles = folder.begun_with()
    with folder.locked():
        qc = _limits(provenance.get("qc"), path)
        results = _results(folder, layout, left_out, len(records), measured=qc is not None)
        warnings = list(dict.fromkeys(w for r in records for w in r["run"].get("warnings", ())))
        warnings += _other_machines(records)
        warnings += write_tables(folder, layout, results, platemap, qc)
        summary = {
            "plate": layout.plate,
            "folder": str(path),
            "n_wells": len(results),
            "n_shards": len(records),
            "left_out": left_out,
            "warnings": warnings,
        }
        status = "done, wells left out" if left_out else "done"
        folder.finish({"status": status, "shards": [r["run"] for r in records], **summary})
    return summary


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of all shards, in order.

    Raises:
        OutputError: one is missing, unreadable, or of another plan than the first.
    """
    found = {}
    for file in sorted((path / "shards").glob("*-of-*.json")):
        try:
            record = json.loads(file.read_bytes())
            index, count = (int(record["shard"][key]) for key in ("index", "count"))
            Layout.of(record["layout"])
            dict(record["left_out"]), dict(record["provenance"]), dict(record["run"])
            if record["format"] != _FORMAT:
                raise ValueError(record["format"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            shard = file.stem.replace("-of-", "/")
            raise OutputError(
                f"{file} is no readable record: run embed with --shard {shard} again"
            ) from None
        found[index, count] = record
    counts = sorted({count for _, count in found})
    if not counts:
        if not path.is_dir():
            raise OutputError(f"{path} is no folder: give that of a plate, OUT/PLATE")
        inside = sorted({file.parent.parent.name for file in path.glob("*/shards/*-of-*.json")})
        made = [path / "profiles.parquet", *path.glob("*/profiles.parquet")]
        if not inside and any(table.exists() for table in made):
            raise OutputError(
                f"{path} has its tables, and no shards: there is nothing to merge, use them"
            )
        remedy = (
            f"give the folder of a plate in it, such as {path / inside[0]}"
            if inside
            else "run embed with --shard I/N first"
        )
        raise OutputError(f"{path} holds no finished shard: {remedy}")
    if len(counts) > 1:
        raise OutputError(
            f"{path} holds shards of {' and of '.join(map(str, counts))}: remove the records in"
            f" {path / 'shards'} that are not meant"
        )
    missing = [str(i) for i in range(1, counts[0] + 1) if (i, counts[0]) not in found]
    if missing:
        raise OutputError(
            f"{path} lacks shard {', '.join(missing)} of {counts[0]}: run"
            f" embed with --shard {missing[0]}/{counts[0]}"
        )
    records = [found[i, counts[0]] for i in range(1, counts[0] + 1)]
    for number, record in enumerate(records[1:], 2):
        digests = [_plate_digest(one) for one in (records[0], record)]
        if digests[0] != digests[1]:
            raise OutputError(
                f"the plate's metadata changed between shards 1 and {number} of {path}: run embed"
                " with --shard again for all of them, which keeps the wells that did not change"
            )
        found_difference = _difference(records[0], record)
        if found_difference is not None:
            name, one, other = found_difference
            raise OutputError(
                f"shards 1 and {number} of {path} were made in different ways ({name}: {one} and"
                f" {other}): start over in another --out with one command for all shards"
            )
    return records


def _plate_digest(record: Mapping[str, Any]) -> Any:
    plate = record["provenance"].get("plate")
    return plate.get("digest") if isinstance(plate, dict) else None


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What keeps two shards from standing in one table, and both its values."""
    found = difference(one["provenance"], other["provenance"])
    if found is not None:
        return found
    held = [
        {
            **record["layout"],
            **{name: record["provenance"].get(name) for name in ("platemap", "qc")},
        }
        for record in (one, other)
    ]
    for name in held[0]:
        if held[0][name] != held[1].get(name):
            one_value, other_value = (repr(values.get(name)) for values in held)
            return name, short_line(one_value, _MOST_SHOWN), short_line(other_value, _MOST_SHOWN)
    return None


def _other_machines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line where shards ran in surroundings in which the last bits of numbers may differ."""
    kinds = {
        json.dumps(
            {k: v for k, v in r["provenance"].items() if k not in (*DECIDING, "platemap", "qc")}
        )
        for r in records
    }
    if len(kinds) == 1:
        return []
    return [
        "shards were made by different software or devices, so that last bits may differ: see"
        " their records"
    ]


def _limits(held: Any, path: Path) -> Thresholds | None:
    """Limits of quality control as the shards had them."""
    try:
        return None if held is None else thresholds_of(dict(held), f"{path} (its shards)")
    except (TableError, TypeError, ValueError) as error:
        raise OutputError(
            f"{path} holds shards with limits of quality control that are not understood"
            f" ({first_line(error)}): run embed with --shard again"
        ) from None


def _check_platemap(held: Any, given: Platemap | None) -> None:
    now = None if given is None else json.loads(json.dumps(given.describe()))
    if held != now:
        name = held.get("name") if isinstance(held, dict) else None
        raise UsageError(
            f"the shards were embedded with the platemap {name}: give it by --metadata"
            if name
            else "the shards were embedded without a platemap: leave --metadata out"
        )


def _results(
    folder: OutputFolder,
    layout: Layout,
    left_out: Mapping[str, str],
    n_shards: int,
    *,
    measured: bool,
) -> dict[str, WellRecord]:
    results, made_by = {}, folder.made_by
    for index, name in enumerate(layout.wells):
        if name in left_out:
            continue
        position = parse_well(name)
        found = None if position is None else read_whole_part(folder.parts, position, made_by)
        if measured and found is not None and any(f.quality is None for f in found.fields):
            found = None  # as if it were damaged: the shard reads its pixels again
        if found is None:
            raise OutputError(
                f"{folder.parts} lacks well {name}, or its part is damaged: run embed with"
                f" --shard {index % n_shards + 1}/{n_shards} again"
            )
        results[name] = found.record()
    if not results:
        raise OutputError(f"{folder.path} has no finished well: see why in its shards' records")
    return results
