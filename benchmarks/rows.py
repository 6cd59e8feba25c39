"""Rows: one figure each, with everything needed to judge it; as CSV, JSON lines and text."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unidino_fast.benchmarks.environment import Environment
from unidino_fast.benchmarks.measure import paired
from unidino_fast.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from unidino_fast.benchmarks.measure import Samples

LINES = "rows.jsonl"
TABLE = "rows.csv"
LIMIT = "limit: "
"""How the names of measured limits begin."""
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        benchmark: `model`, `planes`, `kernels/<op>`, `io`.
        candidate: what was measured.
        shape: of the job, in words.
        precision: of the arithmetic, or the dtypes in and out.
        batch: tiles in a call.
        value: the figure to quote: the median; None where there is none, and `note` says why.
        unit: of `value` and its quantiles.
        p10: 10 % quantile of `value` over the samples; then the 50 and the 90 % quantiles.
        seconds: median seconds of a call.
        samples: how many were taken.
        baseline: candidate of the same rounds that `ratio` refers to.
        ratio: how many times faster than the baseline; the median over rounds, each taken within
            the round; `ratio_p10` and `ratio_p90` are its quantiles.
        limit: what `limit_share` refers to, measured in the same rounds.
        limit_share: share of that limit that the job's necessary work reaches.
        cosine: lowest cosine of an output to the baseline's in float32.
        error: norm of the difference to the reference over the norm of the reference.
        gil_share: share of its time in which it kept another thread, which always wants the
            interpreter, from it: about half where a job is nothing but Python, as both take turns;
            none where it is not known.
        cpu_ratio: processor time, of all threads, against that of the bare work.
        prepare_seconds: until the first result was there: export, compilation, tuning.
        noise: why the figure should not be quoted; empty where nothing speaks against it.
        note: anything else.
    """

    benchmark: str
    candidate: str
    shape: str
    precision: str
    batch: int | None = None
    value: float | None = None
    unit: str = ""
    p10: float | None = None
    p50: float | None = None
    p90: float | None = None
    seconds: float | None = None
    samples: int = 0
    baseline: str = ""
    ratio: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    limit: str = ""
    limit_share: float | None = None
    cosine: float | None = None
    error: float | None = None
    gil_share: float | None = None
    cpu_ratio: float | None = None
    prepare_seconds: float | None = None
    noise: str = ""
    note: str = ""
    environment: Environment

    @property
    def is_limit(self) -> bool:
        """Whether this is a measured limit of the machine, not a candidate."""
        return self.candidate.startswith(LIMIT)

    def to_dict(self) -> dict[str, Any]:
        """Flat and JSON-ready; floats with six digits (a cosine with eight)."""
        flat = {name: getattr(self, name) for name in _OWN}
        rounded = {name: _rounded(value) for name, value in flat.items()}
        if self.cosine is not None and math.isfinite(self.cosine):
            rounded["cosine"] = round(self.cosine, 8)
        return {**rounded, **asdict(self.environment)}

    @classmethod
    def from_dict(cls, flat: dict[str, Any]) -> Row:
        """The row of a `to_dict`."""
        names = {field.name for field in fields(Environment)}
        environment = Environment(**{name: flat[name] for name in names})
        own = {name: value for name, value in flat.items() if name not in names}
        return cls(**own, environment=environment)


_OWN = [field.name for field in fields(Row) if field.name != "environment"]
_COLUMNS = [*_OWN, *(field.name for field in fields(Environment))]


def rate_figures(samples: Samples, *, per: float = 1.0) -> dict[str, Any]:
    """A row's figures of a rate.

    Args:
        samples: of the candidate.
        per: units of work in one of the row's unit, such as 1e9 for GB/s.
    """
    middle = samples.rate(0.5) / per
    return {
        "value": middle,
        "p10": samples.rate(0.1) / per,
        "p50": middle,
        "p90": samples.rate(0.9) / per,
        "seconds": samples.work / samples.rate(0.5),
        "samples": len(samples.seconds),
    }


def ratio_figures(samples: Samples, baseline: Samples, name: str) -> dict[str, Any]:
    """A row's figures of the ratio to the baseline of that name."""
    return {
        "baseline": name,
        "ratio": paired(samples, baseline),
        "ratio_p10": paired(samples, baseline, 0.1),
        "ratio_p90": paired(samples, baseline, 0.9),
    }


def append_rows(rows: Iterable[Row], folder: Path) -> None:
    """Adds rows to `rows.jsonl` and `rows.csv` of a folder, which is made where it is missing.

    Raises:
        OutputError: the folder cannot be written, or holds rows with other columns.
    """
    flat = [row.to_dict() for row in rows]
    if flat:
        _append(flat, folder)


def check_folder(folder: Path) -> None:
    """Makes a folder for rows, so that one that takes none is said before minutes of measuring.

    Raises:
        OutputError: as `append_rows`.
    """
    _append([], folder)


def _append(flat: list[dict[str, Any]], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / TABLE
        is_new = not table.exists()
        if not is_new and _header(table) != _COLUMNS:
            raise OutputError(f"{table} has other columns: choose another --out")
        with (folder / LINES).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in flat)
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerows(flat)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}): choose another --out"
        ) from error


def read_rows(folder: Path) -> list[Row]:
    """The rows of a folder, oldest first; none where there is no file."""
    path = folder / LINES
    if not path.exists():
        return []
    return [Row.from_dict(json.loads(line)) for line in path.read_text().splitlines()]


def render(rows: Sequence[Row]) -> str:
    """Rows as text for people: a table for each job, fastest first, what failed last."""
    blocks = []
    for job, members in groupby(rows, key=_job):
        ordered = sorted(members, key=lambda row: (not row.is_limit, -(row.value or 0.0)))
        blocks.append("\n".join([job, *_aligned([_cells(row) for row in ordered])]))
    if rows:
        where = rows[0].environment
        blocks.append(
            f"{where.device}, {where.threads} threads of {where.cores} cores; torch {where.torch},"
            f" triton {where.triton}; commit {where.commit}"
        )
    return "\n\n".join(blocks)


def _job(row: Row) -> str:
    batch = "" if row.batch is None else f", batch {row.batch}"
    return f"{row.benchmark}: {row.shape}, {row.precision}{batch}"


def _cells(row: Row) -> list[str]:
    if row.value is None:
        return [row.candidate, "-", *[""] * 7, row.note]
    remarks = [f"noisy: {row.noise}" if row.noise else "", row.note]
    ready = row.prepare_seconds
    return [
        row.candidate,
        f"{shown(row.value)} {row.unit}",
        f"{shown(row.p10)} to {shown(row.p90)}",
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        "" if row.limit_share is None else f"{row.limit_share:.0%} of limit",
        "" if row.cosine is None else f"cosine {row.cosine:.6f}",
        "" if row.gil_share is None else f"GIL {row.gil_share:.0%}",
        "" if row.cpu_ratio is None else f"CPU {row.cpu_ratio:.2f}x of bare",
        "" if ready is None else f"ready in {ready:.1f} s",
        "; ".join(remark for remark in remarks if remark),
    ]


def shown(value: float | None) -> str:
    """A number with three digits at least, for people."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _rounded(value: Any) -> Any:
    """Floats with few digits; NaN and infinity, which JSON does not have, as None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _header(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return next(csv.reader(file), [])
