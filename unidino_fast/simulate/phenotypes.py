"""What a treatment does to cells: named numbers that the simulated scene is drawn from."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Phenotype:
    """The look of a population of cells; the defaults are untreated (DMSO) cells.

    Values near 1 are factors on the untreated look, values near 0 are shares of cells or the weight
    of a feature that untreated cells lack.
    """

    density: float = 1.0
    cell_size: float = 1.0
    rounding: float = 0.0
    raggedness: float = 1.0
    protrusions: float = 1.0
    nucleus_size: float = 1.0
    nucleus_irregularity: float = 1.0
    multinucleated: float = 0.02
    mitotic: float = 0.04
    apoptotic: float = 0.01
    dna: float = 1.0
    chromatin: float = 1.0
    er: float = 1.0
    er_reach: float = 1.0
    er_clumps: float = 0.0
    rna: float = 1.0
    nucleoli: float = 1.0
    nucleoli_count: float = 2.5
    agp: float = 1.0
    actin_edge: float = 1.0
    actin_fibres: float = 1.0
    actin_clumps: float = 0.0
    golgi: float = 1.0
    golgi_scatter: float = 1.0
    mito: float = 1.0
    mito_reach: float = 1.0
    mito_fragmented: float = 0.0

    def at(self, strength: float) -> Phenotype:
        """This phenotype at a strength: 0 is untreated, 1 the full effect, linear between."""
        blended = {}
        for field in fields(self):
            untreated = float(getattr(UNTREATED, field.name))
            full = float(getattr(self, field.name))
            blended[field.name] = max(untreated + strength * (full - untreated), 0.0)
        return Phenotype(**blended)


UNTREATED = Phenotype()


@dataclass(frozen=True, slots=True)
class Compound:
    """A compound on the plate: its dose in micromolar and how strong its effect is there."""

    name: str
    concentration_um: float
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A mechanism of action: the phenotype at full strength and the compounds that cause it."""

    name: str
    phenotype: Phenotype
    compounds: tuple[Compound, ...]


MECHANISMS = (
    Mechanism(
        "Microtubule destabilizer",
        Phenotype(
            density=0.75,
            cell_size=0.74,
            rounding=0.45,
            protrusions=0.4,
            nucleus_size=0.95,
            nucleus_irregularity=2.0,
            multinucleated=0.65,
            mitotic=0.12,
            apoptotic=0.04,
            actin_edge=1.3,
            golgi=0.8,
            golgi_scatter=3.2,
            mito=1.15,
            mito_reach=0.55,
        ),
        (Compound("nocodazole", 1.0, 1.0), Compound("colchicine", 0.3, 0.8)),
    ),
    Mechanism(
        "Actin disruptor",
        Phenotype(
            density=0.85,
            cell_size=0.8,
            raggedness=2.5,
            protrusions=2.4,
            nucleus_size=0.92,
            multinucleated=0.25,
            mitotic=0.03,
            agp=0.9,
            actin_edge=0.15,
            actin_fibres=0.0,
            actin_clumps=1.0,
            er_reach=0.75,
            mito_reach=0.75,
        ),
        (Compound("cytochalasin D", 1.0, 1.0), Compound("latrunculin B", 3.0, 0.8)),
    ),
    Mechanism(
        "DNA damage",
        Phenotype(
            density=0.42,
            cell_size=1.4,
            nucleus_size=1.5,
            nucleus_irregularity=1.6,
            mitotic=0.0,
            apoptotic=0.05,
            dna=0.85,
            chromatin=1.5,
            rna=1.1,
            nucleoli=1.3,
            nucleoli_count=1.5,
            actin_fibres=1.4,
        ),
        (Compound("etoposide", 3.0, 1.0), Compound("camptothecin", 0.1, 0.8)),
    ),
    Mechanism(
        "ER stress",
        Phenotype(
            density=0.8,
            cell_size=0.9,
            er=1.5,
            er_reach=0.5,
            er_clumps=1.0,
            rna=0.75,
            nucleoli=0.8,
            golgi=0.35,
            golgi_scatter=1.6,
            mitotic=0.02,
        ),
        (Compound("tunicamycin", 1.0, 1.0), Compound("thapsigargin", 0.1, 0.8)),
    ),
    Mechanism(
        "Mitochondrial toxin",
        Phenotype(
            density=0.85,
            cell_size=0.95,
            mitotic=0.02,
            rna=0.85,
            mito=0.5,
            mito_reach=1.25,
            mito_fragmented=1.0,
        ),
        (Compound("rotenone", 1.0, 1.0), Compound("antimycin A", 3.0, 0.8)),
    ),
    Mechanism(
        "Mitotic arrest",
        Phenotype(
            density=0.7,
            cell_size=0.95,
            mitotic=0.6,
            apoptotic=0.06,
            multinucleated=0.06,
        ),
        (Compound("monastrol", 30.0, 0.8), Compound("BI-2536", 0.03, 1.0)),
    ),
)
