"""Finds TensorRT, or TensorRT for RTX, among the installed packages and loads it.

`tensorrt` builds an engine on the GPU that will run it. TensorRT for RTX has the same interface,
builds without a GPU, and runs on Turing, Ampere, Ada and Blackwell cards but not on Hopper; its
bindings come in one wheel and its libraries in another, which has them for ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unidino_fast.errors import UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

Flavour = Literal["tensorrt", "tensorrt_rtx"]

_PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}
_RTX_LIBRARIES = ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")  # in order of loading
_RTX_HOMES = ("tensorrt_rtx_libs", "onnxruntime_ep_nv_tensorrt_rtx")
_INSTALL = "pip install 'unidino_fast[tensorrt]', or 'unidino_fast[tensorrt-rtx]' for RTX cards"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRT:
    """A loaded TensorRT.

    Attributes:
        module: its Python interface.
        flavour: `tensorrt` or `tensorrt_rtx`.
        version: of the package.
        logger: the one that its objects take; keeps the first error since it was asked.
    """

    module: Any
    flavour: Flavour
    version: str
    logger: Any

    def reason(self) -> str:
        """The first error since the last call, in TensorRT's words on one line."""
        message, self.logger.first_error = self.logger.first_error, None
        return " ".join(message.split()) if message else "it gives no reason"


@cache
def load_tensorrt(*, without_gpu: bool = False) -> TensorRT:
    """Loads TensorRT; where both flavours are installed, the one that fits.

    Args:
        without_gpu: prefer TensorRT for RTX, which builds engines on a machine without a GPU.

    Raises:
        UsageError: neither is installed, or the one that is cannot be loaded.
    """
    order: list[Flavour] = ["tensorrt", "tensorrt_rtx"]
    if without_gpu:
        order.reverse()
    for flavour in order:
        if find_spec(_PACKAGES[flavour]) is not None:
            return _loaded(flavour)
    raise UsageError(
        f"engine tensorrt needs TensorRT, which is not installed: {_INSTALL}; or use"
        " --engine compile"
    )


def _loaded(flavour: Flavour) -> TensorRT:
    package = _PACKAGES[flavour]
    try:
        if flavour == "tensorrt_rtx":
            for path in rtx_libraries():
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        module = import_module(package)
    except (ImportError, OSError) as error:
        raise UsageError(
            f"{package} is installed but cannot be loaded ({first_line(error)}):"
            f" {_INSTALL}; or use --engine compile"
        ) from error
    return TensorRT(module, flavour, str(module.__version__), _logger(module))


def rtx_libraries() -> Iterator[Path]:
    """The libraries of TensorRT for RTX in the first package that holds them.

    None where no package does: the system's loader may still know them.
    """
    for home in _RTX_HOMES:
        spec = find_spec(home)
        for folder in (spec and spec.submodule_search_locations) or []:
            found = [sorted(Path(folder).glob(f"{name}*")) for name in _RTX_LIBRARIES]
            if all(found):
                yield from (versions[-1] for versions in found)
                return


def _logger(trt: Any) -> Any:
    """TensorRT's messages into Python's log, at DEBUG: what went wrong is raised as well."""
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known at run time alone
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first_error: str | None = None

        def log(self, severity: Any, message: str) -> None:
            _log.debug("%s", message)
            if severity in errors and self.first_error is None:
                self.first_error = message

    return Logger()
