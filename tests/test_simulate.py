from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import zarr

from unidino_fast.errors import OutputError, UsageError
from unidino_fast.names import WellName, parse_well
from unidino_fast.simulate import (
    CHANNELS,
    CONTROL,
    MECHANISMS,
    UNTREATED,
    SimulatedPlate,
    design_plate,
    simulate_field,
    simulate_plate,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TINY = {"rows": 2, "columns": 3, "size": (64, 64)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def looks() -> dict[str, list[NDArray[np.uint16]]]:
    """Two fields of every mechanism, and of untreated cells."""
    phenotypes = {CONTROL: UNTREATED} | {m.name: m.phenotype for m in MECHANISMS}
    return {name: [simulate_field(rng(s), p) for s in (1, 2)] for name, p in phenotypes.items()}


# ---- one field -------------------------------------------------------------------------------


def test_field_is_camera_like() -> None:
    field = simulate_field(rng())
    assert field.shape == (5, 448, 448)
    assert field.dtype == np.uint16
    low, high = np.percentile(field, [1, 99.9], axis=(1, 2))
    assert np.all((low > 200) & (low < 450)), "offset and background"
    assert np.all((high > 3_000) & (high < 30_000)), "signal well above it, below saturation"


def test_field_follows_its_generator() -> None:
    first = simulate_field(rng(5), size=(96, 80))
    np.testing.assert_array_equal(first, simulate_field(rng(5), size=(96, 80)))
    assert np.any(first != simulate_field(rng(6), size=(96, 80)))


def test_channels_are_independent_streams() -> None:
    every = simulate_field(rng(), size=(64, 96))
    two = simulate_field(rng(), size=(64, 96), channels=("Mito", "DNA"))
    np.testing.assert_array_equal(two, every[[4, 0]])


def test_light_scales_the_signal_of_its_channel_alone() -> None:
    full = simulate_field(rng(), size=(64, 64), channels=("DNA", "ER"))
    dim = simulate_field(rng(), size=(64, 64), channels=("DNA", "ER"), light=(0.5, 1.0))
    assert 0.45 < (dim[0].mean() - 300) / (full[0].mean() - 300) < 0.55
    np.testing.assert_array_equal(dim[1], full[1])


@pytest.mark.parametrize("size", [(16, 16), (17, 53), (64, 64), (224, 448)])
def test_any_size_holds_cells(size: tuple[int, int]) -> None:
    fields = [simulate_field(rng(seed), size=size) for seed in range(4)]
    assert all(field.shape == (5, *size) for field in fields)
    assert np.stack(fields)[:, 0].max() > 2_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": ("DNA", "GFP")}, "'GFP' is not simulated: use DNA, ER, RNA, AGP, Mito"),
        ({"channels": ()}, "one or more, each once"),
        ({"channels": ("DNA", "DNA")}, "one or more, each once"),
        ({"size": (8, 64)}, r"\(8, 64\) is too small"),
    ],
)
def test_field_that_cannot_be_drawn(arguments: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulate_field(rng(), **arguments)


# ---- phenotypes ------------------------------------------------------------------------------


def test_strength_blends_from_untreated() -> None:
    phenotype = MECHANISMS[0].phenotype
    assert phenotype.at(0) == UNTREATED
    assert phenotype.at(1).cell_size == pytest.approx(phenotype.cell_size)
    assert phenotype.at(0.5).rounding == pytest.approx(phenotype.rounding / 2)
    assert min(vars_of(phenotype.at(5))) >= 0


def vars_of(phenotype: object) -> list[float]:
    return [getattr(phenotype, name) for name in phenotype.__slots__]  # type: ignore[attr-defined]


def signal(fields: list[NDArray[np.uint16]], channel: str) -> float:
    """Mean counts above the background."""
    return float(np.mean([field[CHANNELS.index(channel)] for field in fields])) - 300


def share(fields: list[NDArray[np.uint16]], channel: str, above: int) -> float:
    """Share of pixels above a level."""
    return float(np.mean([field[CHANNELS.index(channel)] > above for field in fields]))


def nuclear_width(fields: list[NDArray[np.uint16]]) -> float:
    """Mean length of a row of pixels through a nucleus."""
    nuclei = np.stack([field[CHANNELS.index("DNA")] for field in fields]) > 2_000
    starts = nuclei[..., 1:] & ~nuclei[..., :-1]
    return float(nuclei.sum() / starts.sum())


def contrast(fields: list[NDArray[np.uint16]], channel: str) -> float:
    """Spread of the pixels of a channel relative to their mean."""
    pixels = np.stack([field[CHANNELS.index(channel)] for field in fields]).astype(float) - 300
    return float(pixels.std() / pixels.mean())


def peak(fields: list[NDArray[np.uint16]], channel: str) -> float:
    """Level that one pixel in a thousand passes."""
    return float(np.percentile([field[CHANNELS.index(channel)] for field in fields], 99.9)) - 300


@pytest.mark.parametrize(
    ("mechanism", "statistic", "factor"),
    [
        ("Microtubule destabilizer", lambda f: share(f, "AGP", 900), 0.7),
        ("Actin disruptor", lambda f: share(f, "AGP", 900), 0.85),
        ("DNA damage", lambda f: 1 / nuclear_width(f), 0.75),
        ("DNA damage", lambda f: signal(f, "DNA"), 0.95),
        ("ER stress", lambda f: 1 / share(f, "ER", 10_000), 0.2),
        ("ER stress", lambda f: signal(f, "RNA"), 0.8),
        ("Mitochondrial toxin", lambda f: signal(f, "Mito"), 0.5),
        ("Mitotic arrest", lambda f: 1 / share(f, "DNA", 13_000), 0.5),
    ],
)
def test_mechanisms_change_what_they_should(looks, mechanism, statistic, factor) -> None:  # type: ignore[no-untyped-def]
    """Each statistic falls below the given share of its value in untreated cells."""
    assert statistic(looks[mechanism]) < factor * statistic(looks[CONTROL])


def test_mechanisms_differ_from_each_other(looks: dict[str, list[NDArray[np.uint16]]]) -> None:
    """Simple statistics tell any two apart: signal, contrast or peak of a channel by a fifth."""
    table = {
        name: np.array([f(fields, c) for c in CHANNELS for f in (signal, contrast, peak)])
        for name, fields in looks.items()
    }
    names = list(table)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert np.abs(np.log(table[one] / table[other])).max() > 0.2, (one, other)


# ---- the layout ------------------------------------------------------------------------------


def test_default_design() -> None:
    design = design_plate(SimulatedPlate())
    assert design.columns == ["Well", "Compound", "MoA", "Concentration", "Role"]
    assert design["Well"].to_list() == [f"{r}{c:02d}" for r in "ABCDEF" for c in range(1, 9)]
    controls = design.filter(pl.col("Role") == "negcon")
    assert controls["Compound"].unique().to_list() == [CONTROL]
    assert controls["MoA"].null_count() == len(controls) == 12
    treated = design.filter(pl.col("Role") == "treatment")
    assert treated["Compound"].value_counts()["count"].to_list() == [3] * 12
    assert treated.group_by("MoA").agg(pl.n_unique("Compound"))["Compound"].to_list() == [2] * 6
    assert treated["Concentration"].null_count() == 0


def test_controls_are_all_over_the_plate() -> None:
    """One control in each block of 2 x 2 wells, whatever the seed."""
    for seed in range(5):
        design = design_plate(SimulatedPlate(seed=seed))
        wells = design.filter(pl.col("Compound") == CONTROL)["Well"]
        positions = [parse_well(well) for well in wells]
        blocks = {(p.row // 2, (p.column - 1) // 2) for p in positions if p is not None}
        assert len(blocks) == 12


def test_layout_follows_the_seed() -> None:
    assert design_plate(SimulatedPlate(seed=3)).equals(design_plate(SimulatedPlate(seed=3)))
    assert not design_plate(SimulatedPlate(seed=3)).equals(design_plate(SimulatedPlate(seed=4)))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (2, 3), (5, 3), (8, 12), (16, 24)])
def test_design_of_any_plate(rows: int, columns: int) -> None:
    design = design_plate(SimulatedPlate(rows=rows, columns=columns))
    assert len(design) == rows * columns
    assert (design["Role"] == "negcon").sum() == max(1, round(rows * columns / 4))
    counts = design.filter(pl.col("Role") == "treatment")["Compound"].value_counts()["count"]
    assert not len(counts) or counts.max() - counts.min() <= 1  # type: ignore[operator]


def test_plate_of_controls_alone() -> None:
    design = design_plate(SimulatedPlate(rows=2, columns=2, mechanisms=()))
    assert design["Compound"].to_list() == [CONTROL] * 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rows": 0}, "rows 0 is outside a plate: use 1 to 32"),
        ({"columns": 49}, "columns 49 is outside a plate: use 1 to 48"),
        ({"n_fields": 0}, "n_fields 0 is too few"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"edge_effect": 1.0}, "edge_effect 1.0 is no share"),
        ({"channels": ("GFP",)}, "'GFP' is not simulated"),
    ],
)
def test_settings_outside_their_range(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimulatedPlate(**setting)  # type: ignore[arg-type]


def test_unknown_compound() -> None:
    with pytest.raises(UsageError, match="'water' is not simulated: use DMSO or one of nocodazole"):
        SimulatedPlate(size=(64, 64)).field(WellName(0, 1), "water")


# ---- wells -----------------------------------------------------------------------------------


def test_a_well_does_not_depend_on_the_plate() -> None:
    """The same inner well on plates of two sizes, after other wells or alone."""
    small = SimulatedPlate(rows=4, columns=4, size=(64, 64))
    large = SimulatedPlate(rows=8, columns=12, size=(64, 64))
    alone = small.field(WellName(1, 2), "etoposide")
    large.field(WellName(3, 3), "etoposide")
    np.testing.assert_array_equal(alone, large.field(WellName(1, 2), "etoposide"))
    assert np.any(alone != small.field(WellName(1, 3), "etoposide"))
    assert np.any(alone != small.field(WellName(1, 2), "etoposide", field=1))
    other = SimulatedPlate(rows=4, columns=4, size=(64, 64), seed=1)
    assert np.any(alone != other.field(WellName(1, 2), "etoposide"))


def rim_ratio(edge_effect: float) -> float:
    """Signal of the same wells as rim of a small plate over inner wells of a large one."""
    rim = SimulatedPlate(rows=1, columns=6, size=(128, 128), edge_effect=edge_effect)
    inner = SimulatedPlate(rows=3, columns=8, size=(128, 128), edge_effect=edge_effect)
    wells = [WellName(0, column) for column in range(1, 7)]
    middle = [WellName(1, column) for column in range(2, 8)]
    means = [
        np.mean([signal([plate.field(well, CONTROL)], c) for well in places for c in CHANNELS])
        for plate, places in ((rim, wells), (inner, middle))
    ]
    return float(means[0] / means[1])


def test_edge_effect() -> None:
    without, with_effect = rim_ratio(0.0), rim_ratio(0.4)
    assert 0.8 < without < 1.25
    assert 0.2 < with_effect / without < 0.65  # 0.6 of the light; fewer but larger-spread cells


def test_without_edge_effect_the_rim_is_like_any_well() -> None:
    rim = SimulatedPlate(rows=2, columns=2, size=(64, 64), edge_effect=0)
    inner = SimulatedPlate(rows=4, columns=4, size=(64, 64), edge_effect=0)
    where = WellName(1, 2)
    np.testing.assert_array_equal(rim.field(where, CONTROL), inner.field(where, CONTROL))


# ---- the plate on disk -----------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = simulate_plate(tmp_path / "a" / "p.zarr", **TINY)
    again = simulate_plate(tmp_path / "b" / "p.zarr", **TINY)
    other = simulate_plate(tmp_path / "c" / "p.zarr", **TINY, seed=1)
    assert first.equals(again)
    assert not first.equals(other)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_reads_back_with_plain_zarr(tmp_path: Path, ngff: str) -> None:
    path = tmp_path / "demo.zarr"
    platemap = simulate_plate(path, **TINY, n_fields=2, levels=2, ngff=ngff)  # type: ignore[arg-type]
    attributes = zarr.open_group(path, mode="r").attrs
    plate = (attributes["ome"] if ngff == "0.5" else attributes)["plate"]  # type: ignore[index]
    assert plate["name"] == "demo"
    assert len(plate["wells"]) == len(platemap) == 6
    settings = SimulatedPlate(**TINY, n_fields=2)
    for well, compound in platemap.select("Well", "Compound").iter_rows():
        name = parse_well(well)
        assert name is not None
        for field in range(2):
            place = path / name.row_letters / str(name.column) / str(field)
            array = zarr.open_array(place / "0", mode="r")
            assert array.chunks == (1, 64, 64)
            np.testing.assert_array_equal(array[...], settings.field(name, compound, field))
            assert zarr.open_array(place / "1", mode="r").shape == (5, 32, 32)


def test_pixel_size_follows_the_magnification() -> None:
    assert SimulatedPlate().pixel_size_um == pytest.approx(0.6)
    assert SimulatedPlate(size=(112, 112)).pixel_size_um == pytest.approx(1.2)


def test_taken_place(tmp_path: Path) -> None:
    simulate_plate(tmp_path / "p.zarr", rows=1, columns=1, size=(32, 32))
    with pytest.raises(OutputError, match="exists"):
        simulate_plate(tmp_path / "p.zarr", rows=1, columns=1, size=(32, 32))
    simulate_plate(tmp_path / "p.zarr", rows=1, columns=1, size=(32, 32), overwrite=True)
