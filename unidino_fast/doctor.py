"""What this machine can do: all that a run would use is tried, and what is missing has a remedy."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import TYPE_CHECKING, Any, Literal, get_args

import psutil
from packaging.requirements import Requirement

from unidino_fast._version import __version__
from unidino_fast.choices import EngineName
from unidino_fast.cores import usable_cores
from unidino_fast.errors import UnidinoError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_PACKAGE = "unidino_fast"
_FOR_DEVELOPERS = ("dev", "docs")
_GIB = 1 << 30
_LEAST_MEMORY = 4 * _GIB
"""A run on the CPU takes about one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        state: `fault` where runs fail or go wrong, `note` where something is done without.
        found: in words.
        remedy: what to do about it; empty where nothing is to be done.
    """

    subject: str
    state: Literal["ok", "note", "fault"]
    found: str
    remedy: str = ""

    def line(self) -> str:
        """For people."""
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.state:5}  {self.subject:16} {self.found}{remedy}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def examine() -> Iterator[Finding]:
    """Looks at everything, in turn; the engines take half a minute."""
    yield Finding(
        "software", "ok", f"unidino_fast {__version__}, Python {platform.python_version()}"
    )
    yield _packages()
    yield _machine()
    yield _device()
    yield _weights()
    for engine in get_args(EngineName):
        if engine != "auto":
            yield _engine(engine)
    yield _extras()


def _packages() -> Finding:
    """Required packages, by what the installed package declares."""
    try:
        needed = [Requirement(text) for text in requires(_PACKAGE) or []]
    except PackageNotFoundError:
        found = "unidino_fast is not installed, so nobody knows what it needs"
        return Finding("packages", "fault", found, "pip install it, or -e . in a checkout")
    asked = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [(one, lack) for one in asked if (lack := _lack(one))]
    if not faults:
        return Finding("packages", "ok", f"all {len(asked)} that it needs")
    wanted = " ".join(f"'{one.name}{one.specifier}'" for one, _ in faults)
    return Finding(
        "packages", "fault", ", ".join(lack for _, lack in faults), f"pip install {wanted}"
    )


def _lack(needed: Requirement) -> str:
    """What is wrong with a package; empty where nothing is."""
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(found, prereleases=True):
        return ""
    return f"{needed.name} is {found}, not {needed.specifier}"


def _extras() -> Finding:
    """Optional parts."""
    needed = [Requirement(text) for text in requires(_PACKAGE) or []]
    here: list[str] = []
    absent: list[str] = []
    for extra in metadata(_PACKAGE).get_all("Provides-Extra") or []:
        if extra in _FOR_DEVELOPERS:
            continue
        own = [
            one for one in needed
            if one.marker and one.marker.evaluate({"extra": extra})
            and not one.marker.evaluate({"extra": ""})
        ]  # fmt: skip
        (absent if any(map(_lack, own)) else here).append(extra)
    found = f"installed: {', '.join(here) or 'none'}; not: {', '.join(absent) or 'none'}"
    remedy = f"pip install 'unidino_fast[{absent[0]}]' where you need it" if absent else ""
    return Finding("optional parts", "note" if absent else "ok", found, remedy)


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    found = (
        f"{platform.system()} {platform.machine()}, {usable_cores()} of {os.cpu_count()} cores,"
        f" {memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB of memory free"
    )
    if memory.available < _LEAST_MEMORY:
        return Finding("machine", "note", found, "close what else is running before large plates")
    return Finding("machine", "ok", found)


def _device() -> Finding:
    import torch

    if not torch.cuda.is_available():
        found = f"no CUDA device that torch {torch.__version__} can use: all runs on the CPU"
        remedy = ""
        if torch.version.cuda is None:
            remedy = "where there is a GPU, install torch with CUDA (pytorch.org)"
        return Finding("device", "note", found, remedy)
    names = []
    for index in range(torch.cuda.device_count()):
        held = torch.cuda.get_device_properties(index)
        names.append(f"{held.name} ({held.major}.{held.minor}, {held.total_memory / _GIB:.0f} GiB)")
    return Finding("device", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")


def _weights() -> Finding:
    from unidino_fast.backbones import open_backbone

    try:
        backbone = open_backbone("default")
    except UnidinoError as error:
        return Finding("default weights", "fault", first_line(error), "install the package again")
    return Finding("default weights", "ok", f"{backbone.name}, {backbone.dim} features a channel")


def _engine(name: str) -> Finding:
    """Builds an engine for a small network and holds it against the reference."""
    from unidino_fast.engines.choose import choose_device, choose_precision

    subject = f"engine {name}"
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    if name == "onnx" and precision == "bf16":
        precision = "fp16"
    try:
        cosine = _cosine(_small_model(name, device, precision))
    except Exception as error:  # whatever a compiler or a driver raises is what is asked for
        if name == "eager":
            return Finding(subject, "fault", first_line(error), "install torch again")
        reason, _, remedy = first_line(error).partition(": ")
        return Finding(subject, "note", reason, remedy)
    return Finding(subject, "ok", f"{precision} on {device.type}, cosine {cosine:.6f}")


def _cosine(model: Any) -> float:
    """The lowest to the reference, on some tiles of noise.

    Raises:
        UnidinoError: the engine cannot be built, or is wrong.
    """
    import torch

    from unidino_fast.engines.selfcheck import self_check

    side = model.tile // model.backbone.patch_size
    noise = torch.rand(8, side * side, 256, generator=torch.Generator().manual_seed(0))
    checked = self_check(model, noise.to(model.device))
    return float("nan") if checked is None else checked.lowest_cosine


def _small_model(name: str, device: torch.device, precision: str) -> Any:
    from unidino_fast.backbones import open_backbone
    from unidino_fast.backbones.random_weights import random_vit
    from unidino_fast.backbones.vit import VitShape
    from unidino_fast.engines.spec import ModelSpec

    shape = VitShape(
        dim=64, depth=2, heads=2, mlp_dim=128, patch_size=16, in_chans=1, image_size=64,
        qkv_bias=True,
    )  # fmt: skip
    module = random_vit(0, shape)
    small = replace(open_backbone("random:0"), module=module, dim=shape.dim, image_size=64)
    return ModelSpec(small, name, str(device), precision, None).build()
