"""Where a number was measured: device, cores, versions, commit, date."""

from __future__ import annotations

import datetime
import hashlib
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from unidino_fast.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]
"""The checkout's folder; of an installed package, its own."""
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Environment:
    """What a row says of the machine and the software.

    Attributes:
        source: digest of the package's Python files: tells which code ran where no commit does.
    """

    device: str
    cores: int
    threads: int
    python: str
    torch: str
    triton: str
    timm: str
    numpy: str
    onnxruntime: str
    openvino: str
    tensorrt: str
    commit: str
    source: str
    date: str


def describe_environment(device: torch.device) -> Environment:
    """The environment as it is now."""
    return Environment(
        device=device_name(device),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        triton=_version("triton"),
        timm=_version("timm"),
        numpy=_version("numpy"),
        onnxruntime=_version("onnxruntime", "onnxruntime-gpu"),
        openvino=_version("openvino"),
        tensorrt=_version("tensorrt", "tensorrt-rtx-cu13-bindings"),
        commit=commit_of(ROOT),
        source=source_digest(ROOT),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def device_name(device: torch.device) -> str:
    """What the maker calls it; a CPU with the instructions that torch uses on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def commit_of(root: Path) -> str:
    """The commit of a checkout, `+dirty` where its Python files differ; else `unknown`.

    A folder inside a checkout of something else (a virtual environment in a project) is not one.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not top or not commit or Path(top).resolve() != root.resolve():
        return "unknown"
    return commit + ("+dirty" if _git(root, "status", "--porcelain", "--", "*.py") else "")


def source_digest(root: Path) -> str:
    """Twelve hexadecimal digits over the Python files of the package and the folders in it."""
    package = root / "unidino_fast" if (root / "unidino_fast").is_dir() else root
    digest = hashlib.sha256()
    files = {
        path
        for folder in (package, *(path for path in package.iterdir() if path.is_dir()))
        for path in folder.rglob("*.py")  # links are followed at the top alone
    }
    for path in sorted(files):
        digest.update(f"{path.relative_to(package)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(*packages: str) -> str:
    """The version of the first package that is installed; empty where none is."""
    for name in packages:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
