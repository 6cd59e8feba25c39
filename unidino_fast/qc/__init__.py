"""Quality control: whether the pixels of a plate are sound, and what is wrong where.

`measures` are taken of the pixels of each field while they are read; `flags` compares wells with
each other; `report` judges the plate; `campaign` compares plates. All limits are `thresholds`.
"""

from __future__ import annotations

from unidino_fast.qc.campaign import Campaign, compare_folder, compare_plates
from unidino_fast.qc.columns import FLAGGED, FLAGS, quality_columns, quality_series
from unidino_fast.qc.controls import check_labels, negative_controls
from unidino_fast.qc.flags import Flag, flag_wells
from unidino_fast.qc.measures import MEASURES, measure_planes
from unidino_fast.qc.report import PlateQc, plate_qc
from unidino_fast.qc.thresholds import (
    KINDS,
    Thresholds,
    read_thresholds,
    shipped_thresholds,
    thresholds_of,
)

__all__ = [
    "FLAGGED",
    "FLAGS",
    "KINDS",
    "MEASURES",
    "Campaign",
    "Flag",
    "PlateQc",
    "Thresholds",
    "check_labels",
    "compare_folder",
    "compare_plates",
    "flag_wells",
    "measure_planes",
    "negative_controls",
    "plate_qc",
    "quality_columns",
    "quality_series",
    "read_thresholds",
    "shipped_thresholds",
    "thresholds_of",
]
