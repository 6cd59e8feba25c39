"""What is in the wells of a plate, before anything is embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from unidino_fast.names import parse_well, row_letters
from unidino_fast.platemap import join_platemap

if TYPE_CHECKING:
    from unidino_fast.plate_model import Plate


def wells_table(plate: Plate, platemap: pl.DataFrame) -> pl.DataFrame:
    """One row a well: plate, well, row and column as `embed` writes them, and the platemap's.

    Raises:
        TableError: the platemap does not fit the plate.
    """
    names = [well.name for well in plate.wells]
    positions = [parse_well(name) for name in names]
    wells = pl.DataFrame(
        {
            "Metadata_Plate": [plate.name] * len(names),
            "Metadata_Well": names,
            "Metadata_Row": [None if p is None else row_letters(p.row) for p in positions],
            "Metadata_Column": [None if p is None else p.column for p in positions],
        }
    )
    return join_platemap(wells, platemap)[0]
