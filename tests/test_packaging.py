"""Wheel, sdist and bare checkout: what lands where, and that it runs there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    *("unidino_fast", "kernels", "benchmarks", "training"),
    *("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"),
    *("docs", "mkdocs.yml", "configs", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist, built from a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        origin = ROOT / name
        if origin.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(origin, source / name)
    # without isolation: the build must not depend on what a package index has today
    call = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_wheel_installs_one_name_and_runs(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, _ = built
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    tops = {path.name for path in site.iterdir() if path.suffix != ".dist-info"} - {"bin"}
    assert tops == {"unidino_fast"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "unidino_fast").rglob("*.py")}
    links = ("kernels", "benchmarks", "training")
    linked = (path for top in links for path in (ROOT / top).rglob("*.py"))
    modules |= {f"unidino_fast/{path.relative_to(ROOT)}" for path in linked}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert held == modules
    code = (
        "import unidino_fast, unidino_fast.kernels, unidino_fast.pipeline;"
        "print(unidino_fast.__file__, unidino_fast.kernels.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(str(site)) == 2


def test_sdist_holds_the_sources(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "setup.py", "LICENSE", "README.md"} <= names
    assert "unidino_fast/kernels/tile_normalize.py" in names
    assert {"unidino_fast/py.typed", "unidino_fast/__init__.pyi"} <= set(names)


def test_sdist_holds_what_the_documentation_is_made_of(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    pages = [path for path in (ROOT / "docs").rglob("*.*") if "__pycache__" not in path.parts]
    linked = {
        link
        for page in pages
        if page.suffix == ".md"
        for link in re.findall(r"\]\(\.\./(\w[\w./-]*\.(?:toml|py))\)", page.read_text())
    }
    assert len(linked) > 5
    documents = {"CHANGELOG.md", "CONTRIBUTING.md", "kernels/README.md"}
    documents |= {"benchmarks/results/README.md", "mkdocs.yml"}
    documents |= {page.relative_to(ROOT).as_posix() for page in pages}
    assert documents <= names
    assert linked <= names | {name.removeprefix("unidino_fast/") for name in names}


def test_checkout_runs_uninstalled(tmp_path: Path) -> None:
    code = "import unidino_fast.kernels as k; print(k.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) in done.stdout
