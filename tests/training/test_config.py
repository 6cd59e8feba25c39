"""Settings: the paper's by default, one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from unidino_fast.errors import UsageError
from unidino_fast.training.config import TrainConfig, load_config, parse_config

ROOT = Path(__file__).parents[2]
DATA = {"data": [{"name": "a", "path": "x"}]}


def test_the_shipped_paper_config_is_the_defaults() -> None:
    shipped = load_config(ROOT / "configs" / "unidino.toml", data={"plate1": "p", "images": "q"})
    default = parse_config(DATA)
    for section in ("model", "views", "dino", "optim"):
        assert getattr(shipped, section) == getattr(default, section)
    assert default.optim.peak_lr == pytest.approx(7.97e-4, abs=5e-7)  # the paper's own rounding


def test_the_tiny_config_is_valid() -> None:
    given = {"row_o_24wells": "a", "imagexpress": "b"}
    config = load_config(ROOT / "configs" / "tiny-cpu.toml", data=given)
    assert [source.path for source in config.data] == ["a", "b"]


@pytest.mark.parametrize("method", ["dino", "simclr", "supcon", "mae", "ibot"])
def test_the_compared_methods_differ_from_the_tiny_config_by_method_alone(method: str) -> None:
    given = {"row_o_24wells": "a", "imagexpress": "b"}
    tiny = load_config(ROOT / "configs" / "tiny-cpu.toml", data=given)
    config = load_config(ROOT / "configs" / "methods" / f"{method}.toml", data=given)
    assert config.method == method
    for section in ("model", "views", "optim", "machine", "seed"):
        assert getattr(config, section) == getattr(tiny, section)
    assert [s.intensity for s in config.data] == [s.intensity for s in tiny.data]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optm": {}}, "optm is no known setting: did you mean optim?"),
        ({"dino": {"out_dims": 3}}, "dino.out_dims is no known setting: did you mean out_dim?"),
        ({"data": [{"name": "a", "pth": "x"}]}, "data.0.pth is no known setting: did you mean pat"),
        ({"model": {"zzz": 1}}, "model.zzz is no known setting: use one of dim, depth"),
        ({"model": {"dim": 0}}, "model.dim 0 is not allowed: input should be greater"),
        ({"model": {"dim": 65, "heads": 2}}, "dim 65 is not a multiple of heads 2"),
        ({"views": {"local_size": 90}}, "views.local_size 90 is no multiple of patch 16"),
        ({"views": {"local_size": 240}}, "local_size 240 is above global_size 224"),
        ({"optim": {"warmup_epochs": 200}}, "warmup_epochs 200 is above epochs 100"),
        ({"optim": {"batch": 7}, "machine": {"accumulate": 2}}, "multiple of machine.accumulate"),
        ({"data": [{"name": "a"}, {"name": "a"}]}, "two datasets have the same name"),
        ({"data": []}, "data [] is not allowed"),
        ({"data": {"a": {}}}, "data is not allowed: write each dataset as a table of its own"),
        ({"model": {"tile": 100}}, "model.tile 100 is no multiple of patch 16"),
        ({"method": "mae", "model": {"tile": 96}}, "model.tile 96 differs from views.global_size"),
        ({"method": "ibot", "model": {"tile": 96}}, "model.tile 96 differs from views.global_size"),
        ({"data": [{"name": "a", "weight": 0}]}, "data.0.weight 0 is not allowed"),
        (
            {
                "method": "supcon",
                "data": [{"name": "a", "weight": 2, "platemap": "m.csv", "label": "L"}],
            },
            "weight 2 of dataset a has no meaning in method supcon",
        ),
        ({"method": "magic"}, "method 'magic' is not allowed"),
        ({"optim": {"batch": "4"}}, "optim.batch '4' is not allowed: input should be a valid int"),
        ({"optim": {"batch": True}}, "optim.batch True is not allowed"),
        ({"optim": {"lr": "1e-3"}}, "optim.lr '1e-3' is not allowed: input should be a valid num"),
        ({"optim": {"lr": float("inf")}}, "optim.lr inf is not allowed"),
        ({"optim": {"weight_decay": float("nan")}}, "optim.weight_decay nan is not allowed"),
        ({"views": {"gamma_high": float("inf")}}, "views.gamma_high inf is not allowed"),
        ({"machine": {"compile": "yes"}}, "machine.compile 'yes' is not allowed"),
        ({"machine": {"tensorboard": 1}}, "machine.tensorboard 1 is not allowed"),
        ({"seed": "3"}, "seed '3' is not allowed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config({**DATA, **change})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_are_relative_to_the_file_or_given(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[[data]]\nname = "a"\npath = "images"\n[[data]]\nname = "b"\n')
    config = load_config(file, data={"b": "elsewhere"})
    assert [source.path for source in config.data] == [str(tmp_path / "images"), "elsewhere"]
    with pytest.raises(UsageError, match=r"dataset b of .* has no path: add --data b=PATH"):
        load_config(file)
    with pytest.raises(UsageError, match=r"--data c names no dataset of .*: use a, b"):
        load_config(file, data={"c": "x"})


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    """Its editors put a byte order mark first and two characters at the end of a line."""
    file = tmp_path / "run.toml"
    file.write_bytes(b'\xef\xbb\xbfseed = 3\r\n[[data]]\r\nname = "a"\r\n')
    config = load_config(file, data={"a": "~/images"})
    assert config.seed == 3
    # a shell leaves the tilde of NAME=~/images as it is
    assert [source.path for source in config.data] == [str(Path.home() / "images")]


def test_intensity_is_that_of_all_datasets() -> None:
    def config(*intensities: str) -> TrainConfig:
        return parse_config(
            {"data": [{"name": f"{i}", "intensity": one} for i, one in enumerate(intensities)]}
        )

    assert config("percentile", "percentile").intensity == "percentile"
    assert config("dtype").intensity == "dtype"
    assert config("percentile", "dtype").intensity is None


@pytest.mark.parametrize("text", ["[data", "\xff"])
def test_a_broken_file_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"run\.toml is no TOML"):
        load_config(file)
    with pytest.raises(UsageError, match=r"none\.toml cannot be read .No such file"):
        load_config(tmp_path / "none.toml")


def test_what_decides_leaves_out_machine_and_places() -> None:
    one = parse_config({**DATA, "machine": {"workers": 3}})
    other = parse_config({"data": [{"name": "a", "path": "elsewhere"}]})
    assert one.what_decides() == other.what_decides()
    assert parse_config({**DATA, "seed": 1}).what_decides() != one.what_decides()
