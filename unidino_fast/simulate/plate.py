"""Lays out and writes a simulated plate: treatments at random wells, controls all over.

Every well has random streams of its own, spawned from the plate's seed and the well's position, so
its pixels depend on neither the other wells nor the order in which they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from unidino_fast.errors import UsageError
from unidino_fast.names import WellName
from unidino_fast.simulate.faults import NO_FAULTS, Faults, among
from unidino_fast.simulate.field import CHANNELS, check_field, field_scale, simulate_field
from unidino_fast.simulate.phenotypes import MECHANISMS, UNTREATED, Mechanism, Phenotype
from unidino_fast.writing import PlateWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unidino_fast.writing import Ngff

CONTROL = "DMSO"
_PIXEL_UM = 0.6
_CONTROL_SHARE = 0.25
_LAYOUT, _WELL = 0, 1  # first spawn key: the two families of random streams


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPlate:
    """Settings of a simulated plate; the whole plate follows from them.

    Attributes:
        seed: of the layout and all pixels.
        rows: plate rows, 1 to 32.
        columns: plate columns, 1 to 48.
        n_fields: fields of view a well.
        size: (Y, X) of a field in pixels, each at least 16.
        channels: any of `CHANNELS`, in the order to store.
        mechanisms: what is on the plate beside the controls.
        edge_effect: share of signal and of cells that outer wells lose, 0 to below 1.
        faults: what is wrong with the plate.

    Raises:
        UsageError: a setting outside its range.
    """

    seed: int = 0
    rows: int = 6
    columns: int = 8
    n_fields: int = 1
    size: tuple[int, int] = (448, 448)
    channels: tuple[str, ...] = CHANNELS
    mechanisms: tuple[Mechanism, ...] = MECHANISMS
    edge_effect: float = 0.15
    faults: Faults = NO_FAULTS

    def __post_init__(self) -> None:
        for name, value, top in (("rows", self.rows, 32), ("columns", self.columns, 48)):
            if not 1 <= value <= top:
                raise UsageError(f"{name} {value} is outside a plate: use 1 to {top}")
        if self.n_fields < 1:
            raise UsageError(f"n_fields {self.n_fields} is too few: use 1 or more")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative: use 0 or more")
        if not 0 <= self.edge_effect < 1:
            raise UsageError(f"edge_effect {self.edge_effect} is no share: use 0 to below 1")
        check_field(self.size, self.channels)
        self.faults.check(self.rows, self.columns, self.channels)

    @property
    def pixel_size_um(self) -> float:
        """Edge of a pixel in micrometres."""
        return _PIXEL_UM / field_scale(self.size)

    def is_outer(self, well: WellName) -> bool:
        """Whether a well lies at the rim of the plate."""
        return well.row in (0, self.rows - 1) or well.column in (1, self.columns)

    def field(self, well: WellName, compound: str, field: int = 0) -> NDArray[np.uint16]:
        """Pixels of one field (C, Y, X) of a well that holds `compound`.

        The well's own streams decide how strongly it is stained (a few percent a channel) and how
        well the treatment took; the field's stream draws the cells.
        """
        key = (_WELL, well.row, well.column)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        took = rng.normal(1.0, 0.08)
        staining = rng.lognormal(0.0, 0.05, len(CHANNELS))
        phenotype = _phenotype(self.mechanisms, compound).at(took)
        if self.is_outer(well):
            phenotype = replace(phenotype, density=phenotype.density * (1 - self.edge_effect))
            staining = staining * (1 - self.edge_effect) * (1 + self.faults.bright_edge)
        light = {channel: float(staining[CHANNELS.index(channel)]) for channel in self.channels}
        if self.faults.is_dead(well):
            light = dict.fromkeys(light, 0.0)
        if among(well, self.faults.saturated):
            light[self.faults.saturated_channel or self.channels[0]] *= self.faults.exposure
        field_rng = np.random.default_rng(
            np.random.SeedSequence(self.seed, spawn_key=(*key, field))
        )
        pixels = simulate_field(
            field_rng,
            phenotype,
            size=self.size,
            channels=self.channels,
            light=list(light.values()),
            defocus=self.faults.defocus if among(well, self.faults.defocused) else 0.0,
            unevenness=self.faults.unevenness,
        )
        if among(well, self.faults.swapped):
            places = [self.channels.index(c) for c in self.faults.swapped_pair(self.channels)]
            pixels[places] = pixels[places[::-1]]
        return pixels


def _phenotype(mechanisms: tuple[Mechanism, ...], compound: str) -> Phenotype:
    if compound == CONTROL:
        return UNTREATED
    for mechanism in mechanisms:
        for candidate in mechanism.compounds:
            if candidate.name == compound:
                return mechanism.phenotype.at(candidate.strength)
    known = ", ".join(c.name for mechanism in mechanisms for c in mechanism.compounds)
    raise UsageError(f"compound {compound!r} is not simulated: use {CONTROL} or one of {known}")


def design_plate(plate: SimulatedPlate) -> pl.DataFrame:
    """The platemap: which compound stands in which well.

    A quarter of the wells (at least one) are DMSO controls, one at a random place in each of as
    many compact blocks, so that every region of the plate has some. The other wells are shared
    evenly by the compounds, at random positions; where wells are few, the first mechanisms get
    them, both compounds of one before the next.

    Returns:
        One row a well in plate order: `Well`, `Compound`, `MoA` (null for controls),
        `Concentration` (micromolar, null for controls), `Role` (`negcon` or `treatment`).
    """
    key = np.random.SeedSequence(plate.seed, spawn_key=(_LAYOUT,))
    rng = np.random.default_rng(key)
    choices = [(m.name, c) for m in plate.mechanisms for c in m.compounds]
    n_wells = plate.rows * plate.columns
    controls = _control_wells(rng, plate.rows, plate.columns, _CONTROL_SHARE if choices else 1.0)
    others = rng.permutation(np.setdiff1d(np.arange(n_wells), controls))
    treated = {int(well): choices[turn % len(choices)] for turn, well in enumerate(others)}
    rows: list[tuple[Any, ...]] = []
    for index in range(n_wells):
        well = str(WellName(index // plate.columns, index % plate.columns + 1))
        if index in treated:
            moa, compound = treated[index]
            rows.append((well, compound.name, moa, compound.concentration_um, "treatment"))
        else:
            rows.append((well, CONTROL, None, None, "negcon"))
    schema = {
        "Well": pl.String,
        "Compound": pl.String,
        "MoA": pl.String,
        "Concentration": pl.Float64,
        "Role": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _control_wells(rng: np.random.Generator, rows: int, columns: int, share: float) -> NDArray[Any]:
    """Indices of the control wells: one at random from each of as many compact blocks."""
    n_controls = max(1, round(rows * columns * share))
    row, column = np.divmod(np.arange(rows * columns), columns)
    block = np.lexsort((column % 2, row % 2, column // 2, row // 2))  # 2 x 2 wells at a time
    return np.array([rng.choice(part) for part in np.array_split(block, n_controls)])


def simulate_plate(
    path: str | Path,
    *,
    seed: int = 0,
    rows: int = 6,
    columns: int = 8,
    n_fields: int = 1,
    size: tuple[int, int] = (448, 448),
    channels: tuple[str, ...] = CHANNELS,
    mechanisms: tuple[Mechanism, ...] = MECHANISMS,
    edge_effect: float = 0.15,
    faults: Faults = NO_FAULTS,
    ngff: Ngff = "0.4",
    levels: int = 1,
    overwrite: bool = False,
) -> pl.DataFrame:
    """Simulates a labelled plate and writes it as OME-Zarr.

    About 0.2 s a field of 448 x 448 x 5 on one core. The same settings give the same pixels on the
    same machine and numpy; another processor may round a few pixels differently.

    Args:
        path: where the plate shall stand, normally `NAME.zarr`; its stem becomes the plate's name.
        seed: see `SimulatedPlate`, as for the settings up to `faults`.
        rows: plate rows.
        columns: plate columns.
        n_fields: fields of view a well.
        size: (Y, X) of a field in pixels.
        channels: channels to store, in order.
        mechanisms: mechanisms of action on the plate.
        edge_effect: share of signal and cells that outer wells lose.
        faults: what is wrong with the plate.
        ngff: NGFF version to write.
        levels: resolution levels.
        overwrite: replace what stands at `path`.

    Returns:
        The platemap of `design_plate`; writing it to disk is left to the caller.

    Raises:
        UsageError: a setting outside its range.
        OutputError: `path` is taken or cannot be written.
    """
    plate = SimulatedPlate(
        seed=seed,
        rows=rows,
        columns=columns,
        n_fields=n_fields,
        size=size,
        channels=tuple(channels),
        mechanisms=tuple(mechanisms),
        edge_effect=edge_effect,
        faults=faults,
    )
    platemap = design_plate(plate)
    with PlateWriter(
        path,
        name=Path(path).stem,
        channels=plate.channels,
        ngff=ngff,
        pixel_size_um=plate.pixel_size_um,
        levels=levels,
        overwrite=overwrite,
    ) as writer:
        for index, compound in enumerate(platemap["Compound"]):
            well = WellName(index // columns, index % columns + 1)
            for field in range(n_fields):
                writer.add_field(str(well), str(field), plate.field(well, compound, field))
    return platemap
