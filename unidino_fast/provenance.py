"""What made a result: plate, weights, options, software, device."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from unidino_fast._version import __version__

if TYPE_CHECKING:
    import torch

    from unidino_fast.config import EmbedOptions
    from unidino_fast.engines import Embedder
    from unidino_fast.plate_model import Plate
    from unidino_fast.platemap import Platemap
    from unidino_fast.qc import Thresholds

_LIBRARIES = ("torch", "timm", "numpy", "zarr", "numcodecs", "polars")


def provenance_of(
    plate: Plate,
    model: Embedder,
    options: EmbedOptions,
    platemap: Platemap | None = None,
    device: str | None = None,
    qc: Thresholds | None = None,
) -> dict[str, Any]:
    """Everything that decides the numbers; nothing that differs between equal runs.

    Args:
        plate: what was embedded.
        model: by what.
        options: how.
        platemap: what was joined.
        device: in words, where it is not of this machine.
        qc: limits of quality control, if there is any.
    """
    return {
        "unidino_fast": __version__,
        "plate": {"name": plate.name, "digest": plate.digest, "ngff_version": plate.ngff_version},
        "model": model.describe(),
        "options": {**options.model_dump(mode="json"), "stride": options.step},
        "platemap": None if platemap is None else platemap.describe(),
        "qc": None if qc is None else qc.describe(),
        "profiles": {"method": "mad_robustize", "by": "Metadata_Plate"},
        "device": device_name(model.device) if device is None else device,
        "software": software_versions(),
    }


def software_versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def device_name(device: torch.device) -> str:
    """A device of this machine in words."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
