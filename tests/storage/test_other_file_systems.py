"""Protocols beyond HTTP and S3, unknown ones, and packages that are missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from unidino_fast.errors import UsageError
from unidino_fast.plate import open_plate

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


WELLS = {"A/1": ["0", "1"], "B/2": ["0", "1"]}


def test_other_file_systems(plates: ModuleType, tmp_path: Path) -> None:
    """One without asynchronous reads."""
    import fsspec

    written = plates.write_plate(tmp_path / "p", WELLS)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "p"), "/bucket/p.zarr", recursive=True)
    try:
        plates.check_pixels(open_plate("memory://bucket/p.zarr", strict=True), written)
    finally:
        memory.rm("/bucket", recursive=True)


def test_an_unknown_protocol(plates: ModuleType) -> None:
    assert "unknown protocol 'gopher'" in plates.refusal("gopher://x/p.zarr", UsageError)


@pytest.mark.parametrize(
    ("url", "module", "remedy"),
    [
        ("s3://bucket/p.zarr", "s3fs", "pip install 'unidino_fast[s3]'"),
        ("gs://bucket/p.zarr", "gcsfs", "pip install 'unidino_fast[gcs]'"),
    ],
)
def test_a_package_that_is_missing(
    plates: ModuleType, url: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.delitem(_registry, url.split(":")[0], raising=False)
    assert remedy in plates.refusal(url, UsageError)
