"""One HTML page a plate, and one over several: what `embed` left, for people to look at."""

from __future__ import annotations

from unidino_fast.report.build import PARTS, ReportOptions, plate_page, write_reports

__all__ = ["PARTS", "ReportOptions", "plate_page", "write_reports"]
