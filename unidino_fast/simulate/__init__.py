"""Simulates small labelled Cell-Painting-like plates, for the `demo` command and for tests."""

from __future__ import annotations

from unidino_fast.simulate.faults import Faults
from unidino_fast.simulate.field import CHANNELS, simulate_field
from unidino_fast.simulate.phenotypes import (
    MECHANISMS,
    UNTREATED,
    Compound,
    Mechanism,
    Phenotype,
)
from unidino_fast.simulate.plate import CONTROL, SimulatedPlate, design_plate, simulate_plate

__all__ = [
    "CHANNELS",
    "CONTROL",
    "MECHANISMS",
    "UNTREATED",
    "Compound",
    "Faults",
    "Mechanism",
    "Phenotype",
    "SimulatedPlate",
    "design_plate",
    "simulate_field",
    "simulate_plate",
]
