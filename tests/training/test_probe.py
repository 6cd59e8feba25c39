"""The probe looks on: its numbers are the library's, and the training does not notice it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

import unidino_fast as uf
from unidino_fast.errors import TrainingError, UsageError
from unidino_fast.training.config import load_config
from unidino_fast.training.curves import plot_curves
from unidino_fast.training.loop import StepReport, train
from unidino_fast.training.watch import read_log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A simulated plate of 12 wells, and the `[probe]` that names it."""
    folder = tmp_path_factory.mktemp("probe")
    platemap = uf.simulate_plate(
        folder / "p.zarr", rows=3, columns=4, size=(64, 64), channels=("DNA", "ER")
    )
    platemap.write_csv(folder / "map.csv")
    return {
        "plate": str(folder / "p.zarr"),
        "platemap": str(folder / "map.csv"),
        "label": "Role",
        "every_epochs": 2,
    }


def without_probe(folder: Path) -> list[dict[str, str]]:
    rows = read_log(folder / "log.csv")
    dropped = ("images_per_s", "probe_accuracy", "probe_chance")
    return [{k: v for k, v in row.items() if k not in dropped} for row in rows]


def test_training_does_not_notice_it(
    make_config: Any, labelled: dict[str, Any], tmp_path: Path
) -> None:
    reports: list[StepReport] = []
    train(make_config(optim__epochs=3), tmp_path / "plain")
    train(make_config(optim__epochs=3, probe=labelled), tmp_path / "probed", report=reports.append)
    assert without_probe(tmp_path / "plain") == without_probe(tmp_path / "probed")
    names = ("plain", "probed")
    one, other = (load_file(tmp_path / name / "teacher.safetensors") for name in names)
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = read_log(tmp_path / "probed" / "log.csv")
    looked = [int(row["step"]) for row in rows if row["probe_accuracy"]]
    assert looked == [5, 8]  # the ends of epochs 2 and 3, of 3 steps each
    assert [report.step - 1 for report in reports if report.probe is not None] == looked
    plot_curves(tmp_path / "probed" / "log.csv", tmp_path / "curves.png")


def test_its_numbers_are_those_of_the_library(
    make_config: Any, labelled: dict[str, Any], tmp_path: Path
) -> None:
    """The weights that a run ends with, embedded and evaluated as a user would."""
    train(make_config(probe={**labelled, "not_same": ["Column"]}), tmp_path / "r")
    model = uf.load_backbone(tmp_path / "r" / "teacher.safetensors", engine="eager", device="cpu")
    fields = uf.embed_plate(uf.open_plate(labelled["plate"]), model)
    profiles = uf.normalize(uf.aggregate(fields))
    joined, _ = uf.join_platemap(profiles, uf.read_platemap(labelled["platemap"]))
    found = uf.evaluate(joined, "Metadata_Role", ["Metadata_Column"])
    last = read_log(tmp_path / "r" / "log.csv")[-1]
    assert float(last["probe_accuracy"]) == found.accuracy
    assert float(last["probe_chance"]) == found.chance


def test_it_decides_which_checkpoint_is_best(
    make_config: Any, labelled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0.5, 0.75, 0.75, 0.25])
    monkeypatch.setattr(
        "unidino_fast.training.probe.Probe.__call__",
        lambda self, backbone: {"probe_accuracy": next(answers), "probe_chance": 0.5},
    )
    config = make_config(optim__epochs=4, probe={**labelled, "every_epochs": 1})
    train(config, tmp_path / "r", stop_after=4)  # it also remembers over a stop
    train(config, tmp_path / "r")
    best = torch.load(tmp_path / "r" / "checkpoints" / "best.pt", weights_only=True)
    assert best["progress"]["step"] == 6  # the first of the two at 0.75
    assert best["progress"]["best_probe"] == 0.75


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plate": "/none"}, "probe: "),
        ({"label": "Rle"}, r"probe: the table has no column Metadata_Rle: did you mean .*Role"),
        ({"not_same": ["Batch"]}, "probe: the table has no column Metadata_Batch"),
        ({"platemap": "/none.csv"}, r"probe: .*none\.csv"),
    ],
)
def test_what_does_not_fit_is_said_before_a_step(
    change: dict[str, Any], said: str, make_config: Any, labelled: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=said) as caught:
        train(make_config(probe={**labelled, **change}), tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert read_log(tmp_path / "r" / "log.csv") == []


def test_no_well_to_compare_with(
    make_config: Any, labelled: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"take columns out of probe\.not_same"):
        train(make_config(probe={**labelled, "not_same": ["Plate"]}), tmp_path / "r")


def test_its_paths_are_given_or_the_files(tmp_path: Path) -> None:
    text = '[[data]]\nname = "a"\npath = "x"\n[probe]\nlabel = "MoA"\n'
    (tmp_path / "run.toml").write_text(text + 'platemap = "map.csv"\n')
    probe = load_config(tmp_path / "run.toml", data={"probe": "/p.zarr"}).probe
    assert probe is not None
    assert (probe.plate, probe.platemap) == ("/p.zarr", str(tmp_path / "map.csv"))
    with pytest.raises(UsageError, match=r"the probe of .* has no path: add --data probe=PATH"):
        load_config(tmp_path / "run.toml")
    (tmp_path / "none.toml").write_text(text)
    with pytest.raises(UsageError, match=r"probe's platemap .* --data probe\.platemap=PATH"):
        load_config(tmp_path / "none.toml", data={"probe": "/p.zarr"})
    (tmp_path / "no.toml").write_text('[[data]]\nname = "a"\npath = "x"\n')
    with pytest.raises(UsageError, match="--data probe names no dataset"):
        load_config(tmp_path / "no.toml", data={"probe": "/p.zarr"})
    (tmp_path / "two.toml").write_text(text.replace('"a"', '"probe"'))
    with pytest.raises(UsageError, match=r"a dataset is named as the probe is \(probe\)"):
        load_config(tmp_path / "two.toml")
