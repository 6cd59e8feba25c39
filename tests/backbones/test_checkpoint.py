"""Files that must not load: unsafe, damaged, or something else."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from unidino_fast.backbones import open_backbone
from unidino_fast.errors import UnidinoError, UsageError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


class EvalMalice(Malice):
    def __reduce__(self) -> Any:
        return eval, (f"__import__('pathlib').Path({str(self.target)!r}).touch()",)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "code-ran"


@pytest.mark.parametrize("kind", [Malice, EvalMalice])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", ["bare", "value", "namespace"])
def test_malicious_pickles_do_not_run(
    tmp_path: Path, target: Path, refuse: Any, kind: Any, zipped: bool, nested: str
) -> None:
    bad = kind(target)
    content = {
        "bare": bad,
        "value": {"teacher": {"backbone.cls_token": torch.ones(1)}, "epoch": bad},
        "namespace": {"args": argparse.Namespace(x=bad)},
    }[nested]
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refuse(path)
    assert not target.exists()
    assert "nothing was run" in message
    assert ("system" if kind is Malice else "eval") in message
    torch.load(path, weights_only=False)  # the trap is a real one
    assert target.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_plain_malicious_pickle(tmp_path: Path, target: Path, refuse: Any, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Malice(target), protocol=protocol))
    refuse(path)
    assert not target.exists()


def test_malicious_pickle_inside_a_zip_by_hand(tmp_path: Path, target: Path, refuse: Any) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Malice(target), protocol=2))
        archive.writestr("archive/version", "3")
    refuse(path)
    assert not target.exists()


def test_namespace_with_another_class_inside(tmp_path: Path, refuse: Any) -> None:
    path = tmp_path / "x.pth"
    args = argparse.Namespace(kind=argparse.FileType())
    torch.save({"teacher": {}, "args": args}, path)
    assert "argparse.FileType" in refuse(path)


def test_torchscript_is_refused(tmp_path: Path, refuse: Any) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:  # what torch goes by
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"script/{name}", b"3")
    refuse(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "begins with '<!DOCTYPE html>"),
        (b"x", "no weights file"),
        (b"\x80", "nothing was run"),
        (b"\x80\x02", "damaged"),
        (b"PK\x03\x04 and no more", "damaged"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "no weights file"),
        ((90_000_000).to_bytes(8, "little") + b"{}", "truncated"),
        ((2).to_bytes(8, "little") + b"{}", "no state dict"),
        ((2).to_bytes(8, "little") + b"{]", "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no weights file"),
    ],
)
def test_other_files(tmp_path: Path, refuse: Any, content: bytes, said: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    message = refuse(path)
    if content not in (b"\x80", b"\x80\x02"):
        assert said in message


def test_header_length_that_looks_like_a_pickle(make_vit: Any, tmp_path: Path) -> None:
    """One header in 32 has a length whose lowest byte is 0x80, the first of every pickle."""
    path = tmp_path / "x.safetensors"
    state = make_vit().state_dict()
    for filling in range(256):
        save_file(state, path, {"x": "x" * filling})
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header length ends in 0x80")
    assert open_backbone(path).dim == 128


def test_places_without_a_file(tmp_path: Path, refuse: Any) -> None:
    assert "is a folder" in refuse(tmp_path)
    assert "is a folder" in refuse(str(tmp_path))
    assert "does not exist" in refuse(tmp_path / "missing.pth")
    assert "does not exist" in refuse("missing.pth")
    assert "does not exist" in refuse("missing.pth#student")
    assert "neither a file nor a known name" in refuse("unidino")
    assert "timm:NAME" in refuse("x" * 5000)
    assert refuse(" ", UsageError).startswith("weights ' ' name nothing: use ")
    with pytest.raises(WeightsError, match=r"two\\nlines.pth does not exist") as caught:
        open_backbone("two\nlines.pth")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_truncated_files(
    make_vit: Any, tmp_path: Path, refuse: Any, layout: str, share: float
) -> None:
    path = tmp_path / "x.pth"
    state = make_vit(embed_dim=64, num_heads=1, depth=1).state_dict()
    if layout == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=layout == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: max(9, int(len(content) * share))])
    refuse(path)


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_end_in_one_line_or_load(make_vit: Any, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "x.pth"
    state = make_vit(embed_dim=64, num_heads=1, depth=1, img_size=16).state_dict()
    if layout == "safetensors":
        save_file(state, path)
    else:
        torch.save({"teacher": state}, path, _use_new_zipfile_serialization=layout == "zip")
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        place = int(torch.randint(0, 2000, (1,), generator=generator))
        value = int(torch.randint(1, 256, (1,), generator=generator))
        damaged = bytearray(content)
        damaged[place] ^= value
        path.write_bytes(damaged)
        try:
            open_backbone(path)
        except UnidinoError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017  (either way is right)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(3), "holds a Tensor"),
        ([torch.ones(3)], "holds a list"),
        ({1: torch.ones(3)}, "holds a dict"),
        ({"epoch": 3, "args": argparse.Namespace()}, "has epoch, args"),
        ({"teacher": 3}, "has a int where"),
        ({"teacher": {"backbone.cls_token": 3}}, "cls_token is a int"),
        ({"a": torch.ones(3), "b": "text"}, "b is a str"),
        ({"module.cls_token": torch.ones(1), "cls_token": torch.ones(1)}, "more than once"),
        ({"state\n\x1b[31m" + "x" * 500: 3}, "\\n\\x1b[31mxxx"),
    ],
)
def test_pickles_without_a_state_dict(tmp_path: Path, refuse: Any, content: Any, said: str) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    assert said in refuse(path)


def test_safetensors_of_integers(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    state = make_vit().state_dict()
    state["norm.bias"] = state["norm.bias"].to(torch.int32)
    save_file(state, tmp_path / "x.safetensors")
    assert "norm.bias is torch.int32" in refuse(tmp_path / "x.safetensors")


def test_header_of_a_later_version(make_vit: Any, tmp_path: Path, refuse: Any) -> None:
    path = tmp_path / "x.safetensors"
    for header, said in (
        ({"format": "unidino_fast.backbone", "version": 2}, "update unidino_fast"),
        ({"format": "unidino_fast.backbone", "version": 1}, "damaged unidino_fast header"),
        ([], "damaged unidino_fast header"),
    ):
        save_file(make_vit().state_dict(), path, {"unidino_fast": json.dumps(header)})
        assert said in refuse(path)
