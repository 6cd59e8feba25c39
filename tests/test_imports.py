"""Imports point one way and cost little: read from the syntax tree and from processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unidino_fast"

# From the bottom up: a module imports only from lines above its own, or from its own package.
LAYERS = [
    "_version errors choices",
    "names config cores files formulas",
    "lock compiled",
    "storage",
    "documents ngff",
    "plate_model",
    "mosaic",
    "plate_reader",
    "plate",
    "planning",
    "reading",
    "stamps",
    "kernels",
    "cpu_ops",
    "ops",
    "preprocess",
    "backbones",
    "engines",
    "clock heap results run_summary threads upload",
    "tables",
    "anndata_file",
    "columns query",
    "platemap profiles",
    "qc",
    "noted_fields",
    "manifest provenance embedding parts write_behind absences",
    "output",
    "assembly",
    "shards cluster",
    "plate_run",
    "pipeline export",
    "evaluation",
    "novelty figures",
    "writing",
    "convert simulate",
    "training",
    "benchmarks",
    "report",
    "terminal",
    "info console doctor embed_request embed_summary",
    "dry_run",
    "embed_command evaluate_command demo",
    "cli",
    "__main__",
]
RANKS = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}


def module_of(path: Path) -> str:
    """First name below the package: `plate` of `plate.py`, `engines` of `engines/eager.py`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield f"{node.module}"
            if node.module == "unidino_fast":
                yield from (f"unidino_fast.{alias.name}" for alias in node.names)


def sources() -> list[Path]:
    """Every file below the package but its own `__init__`, which names what it offers."""
    links = (PACKAGE / "kernels", PACKAGE / "benchmarks", PACKAGE / "training")
    files = {*PACKAGE.rglob("*.py"), *(path for link in links for path in link.rglob("*.py"))}
    return sorted(files - {PACKAGE / "__init__.py"})


def test_every_module_has_its_place() -> None:
    assert {module_of(path) for path in sources()} == set(RANKS)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = module_of(path)
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in ("kernels", "training", "benchmarks"), f"{path}: bare {name}"
        if parts[0] == "unidino_fast" and len(parts) > 1 and parts[1] != own:
            assert RANKS[parts[1]] < RANKS[own], f"{path} imports {name}, which stands above it"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_import_torch_and_triton_alone(path: Path) -> None:
    allowed = {"__future__", "collections", "functools", "math", "typing", "torch", "triton"}
    for name in imported(path):
        assert name.split(".")[0] in allowed or name.startswith("unidino_fast.kernels")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_imports_benchmarks(path: Path) -> None:
    if module_of(path) not in ("benchmarks", "cli"):
        assert not any(name.startswith("unidino_fast.benchmarks") for name in imported(path))


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, unidino_fast, unidino_fast.cli;"
        "heavy = {'torch', 'dask', 'distributed', 'triton', 'tensorrt', 'timm', 'zarr', 'polars',"
        " 'numpy', 'numba', 'sklearn', 'pydantic', 'jinja2', 'umap', 'vl_convert'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code).strip() == "[]"


def test_every_public_name_loads() -> None:
    code = "import unidino_fast as uf; [getattr(uf, name) for name in uf.__all__]; print(dir(uf))"
    assert "open_plate" in python(code)


def test_type_checkers_see_the_public_names() -> None:
    """And where each is from: the stub and the module say the same."""
    nodes = ast.parse((PACKAGE / "__init__.pyi").read_text()).body
    shown = {n.names[0].asname: n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    code = "import unidino_fast as uf; print(dict(__version__='_version', **uf._HOMES))"
    offered = ast.literal_eval(python(code))
    assert shown == {name: f"unidino_fast.{module}" for name, module in offered.items()}
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) < 60  # the design's limit


def test_engines_need_only_what_a_bare_gpu_machine_has() -> None:
    """No zarr, polars, dask, typer or pydantic there; see the design notes on devices."""
    code = """
import sys
absent = ["zarr", "numcodecs", "dask", "distributed", "polars", "typer", "pydantic", "fsspec",
          "ome_zarr_models", "rich", "pyarrow"]
for name in absent:
    sys.modules[name] = None
import numpy as np
from unidino_fast.engines import load_backbone
model = load_backbone("random:0", device="cpu")
print(model.embed_planes(np.ones((1, 224, 224), np.uint16)).shape)
"""
    assert python(code).strip() == "(1, 384)"
