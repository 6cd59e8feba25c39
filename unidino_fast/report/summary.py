"""Sections: the verdict at the top, the warnings, and where the results come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unidino_fast.names import place_left_out
from unidino_fast.report.gather import as_lines, as_object
from unidino_fast.report.labels import shown
from unidino_fast.report.section import Finding, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unidino_fast.report.gather import PlateResults

_MOST_LINES = 200
_LONG = 400
"""Characters of a warning that are shown."""


def warnings_of(results: PlateResults, sections: Sequence[Section]) -> list[str]:
    """All that a person should know, a line each, once."""
    left_out = as_object(results.run.get("left_out"))
    quality = as_object(results.quality)
    lines = [
        *(f"{place_left_out(name)} was left out: {why}" for name, why in left_out.items()),
        *as_lines(results.run.get("warnings")),
        *as_lines(quality.get("warnings")),
        *results.notes,
        *(line for section in sections for line in section.warnings),
    ]
    status = results.run.get("status")
    if status == "running":
        lines.insert(0, "the run that made these results did not end: embed the plate again")
    return list(dict.fromkeys(shown(line, _LONG) for line in lines))


def verdict_section(
    results: PlateResults, findings: Sequence[Finding], warnings: Sequence[str], reason: str
) -> Section:
    """What a reader should know within ten seconds."""
    asked = [
        _wells(results),
        _warnings(warnings),
        _quality(results),
        *_controls(results),
        *findings,
    ]
    to_look = [finding for finding in asked if finding.state == "look"]
    return Section(
        key="verdict",
        title="Verdict",
        values={
            "findings": asked,
            "to_look": to_look,
            "first_warnings": warnings[:3],
            "n_warnings": len(warnings),
            "judged": results.quality is not None,
            "wells": results.names,
            "reason": reason,
        },
    )


def warning_section(warnings: Sequence[str]) -> Section:
    """All warnings."""
    return Section(
        key="warnings",
        title="Warnings",
        values={"lines": warnings[:_MOST_LINES], "n_more": max(0, len(warnings) - _MOST_LINES)},
    )


def provenance_section(results: PlateResults) -> Section:
    """Run summary and provenance, as far as the manifest holds them."""
    return Section(
        key="provenance",
        title="Run and provenance",
        values={"run": _run(results), "made_by": _made_by(results)},
    )


def _wells(results: PlateResults) -> Finding:
    left_out = as_object(results.run.get("left_out"))
    dropped = results.run.get("n_tiles_dropped")
    tiles = results.run.get("n_tiles")
    detail = f"{len(results.channels)} channels, {len(results.features)} features"
    if isinstance(dropped, int) and isinstance(tiles, int) and tiles + dropped > 0:
        detail += f"; {dropped / (tiles + dropped):.0%} of tiles empty"
    count = len(results.names)
    value = f"{count} of {count + len(left_out)}" if left_out else f"all {count}"
    return Finding("Wells embedded", value, detail, "look" if left_out else "good", "plate")


def _warnings(warnings: Sequence[str]) -> Finding:
    if not warnings:
        return Finding(
            "Warnings", "none", "of embedding, files and this report", "good", "warnings"
        )
    return Finding("Warnings", str(len(warnings)), "listed below", "look", "warnings")


def _quality(results: PlateResults) -> Finding:
    if results.quality is None:
        detail = "these results carry no quality control"
        return Finding("Quality control", "not run", detail, "none", "plate")
    counts = as_object(results.quality.get("counts"))
    found = [
        f"{count} {kind}" for kind, count in counts.items() if isinstance(count, int) and count
    ]
    flagged = results.quality.get("n_flagged")
    n_flagged = flagged if isinstance(flagged, int) else 0
    if not found:
        return Finding(
            "Quality control", "no well flagged", "focus, saturation, signal", "good", "plate"
        )
    return Finding(
        "Quality control",
        f"{_wells_in_words(n_flagged)} to leave out" if n_flagged else "flags",
        shown(", ".join(found), 160),
        "look",
        "plate",
    )


def _wells_in_words(count: int) -> str:
    return "1 well" if count == 1 else f"{count} wells"


def _controls(results: PlateResults) -> list[Finding]:
    """Separation of controls as quality control found it, where it was assessed."""
    checks = (results.quality or {}).get("checks")
    for check in checks if isinstance(checks, list) else []:
        entry = as_object(check)
        if entry.get("check") != "controls" or entry.get("channel") is not None:
            continue
        details = as_object(entry.get("details"))
        z_prime, ssmd = details.get("z_prime"), details.get("ssmd")
        if not isinstance(z_prime, int | float):
            continue
        also = f"SSMD {ssmd:.1f}; " if isinstance(ssmd, int | float) else ""
        return [
            Finding(
                "Controls apart (Z')",
                f"{z_prime:.2f}",
                f"{also}0.5 and more is an excellent assay, below 0 they overlap",
                "look" if entry.get("found") else "good",
                "warnings",
            )
        ]
    return []


def _run(results: PlateResults) -> list[tuple[str, str]]:
    run = results.run
    seconds = as_object(run.get("seconds"))
    rows: list[tuple[str, Any]] = [
        ("Plate", results.name),
        ("Read from", run.get("location")),
        ("Finished", run.get("finished")),
        ("Status", run.get("status")),
        ("Wells", run.get("n_wells")),
        ("Fields", run.get("n_fields")),
        ("Tiles", run.get("n_tiles")),
        ("Tiles left out as empty", run.get("n_tiles_dropped")),
        ("Features", f"{len(results.features)} ({', '.join(map(shown, results.channels))})"),
        ("Seconds", ", ".join(f"{shown(k)} {shown(v)}" for k, v in seconds.items())),
        ("Tiles per second", run.get("tiles_per_second")),
        ("Computed on", run.get("host")),
    ]
    return _lines(rows)


def _made_by(results: PlateResults) -> list[tuple[str, str]]:
    made = results.provenance
    rows: list[tuple[str, Any]] = [("unidino_fast", made.get("unidino_fast"))]
    for group in ("plate", "model", "options", "platemap", "profiles", "software"):
        for name, value in as_object(made.get(group)).items():
            listed = ", ".join(map(shown, value)) if isinstance(value, list) else value
            rows.append((f"{group} {name}".replace("_", " "), listed))
    rows.append(("device", made.get("device")))
    return _lines(rows)


def _lines(rows: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(shown(name), shown(value, _LONG)) for name, value in rows if value not in (None, "")]
