"""Fine-tuning by LoRA: adapters against plain products, labels against the platemap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import unidino_fast as uf
from unidino_fast.backbones import open_backbone
from unidino_fast.errors import TrainingError, UsageError
from unidino_fast.training.config import TrainConfig, load_config, parse_config
from unidino_fast.training.config_labels import LoraConfig
from unidino_fast.training.heldout import FROZEN, HEAD, TUNED
from unidino_fast.training.loop import train
from unidino_fast.training.lora import AdaptedLinear, Lora, add_adapters, merged_state
from unidino_fast.training.networks import new_student, vit_shape
from unidino_fast.training.optim import build_optimizer, set_rates
from unidino_fast.training.prepare import prepare
from unidino_fast.training.processes import Processes
from unidino_fast.training.schedules import Clock
from unidino_fast.training.sources import open_source
from unidino_fast.training.watch import read_log
from unidino_fast.training.wells import Labelled, labelled_sources

ROOT = Path(__file__).parents[2]
PLATES = ("one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three simulated plates of 12 wells, of two channels, and their platemaps."""
    root = tmp_path_factory.mktemp("lora")
    for seed, name in enumerate(PLATES):
        platemap = uf.simulate_plate(
            root / f"{name}.zarr", seed=seed, rows=3, columns=4, size=(64, 64),
            channels=("DNA", "ER"),
        )  # fmt: skip
        platemap.write_csv(root / f"{name}.csv")
    return root


@pytest.fixture
def tuning(folder: Path, tiny_weights: Path) -> Any:
    def make(names: tuple[str, ...] = PLATES, **changes: Any) -> TrainConfig:
        document: dict[str, Any] = {
            "method": "lora",
            "init": str(tiny_weights),
            "data": [
                {
                    "name": name,
                    "path": str(folder / f"{name}.zarr"),
                    "platemap": str(folder / f"{name}.csv"),
                    "label": "Role",
                }
                for name in names
            ],
            "model": {"dim": 64, "depth": 2, "heads": 1, "patch": 16, "drop_path": 0.0},
            "views": {"global_size": 32, "local_size": 16, "shift": 0.05},
            "lora": {"rank": 4, "hold_out": ["three"]},
            "optim": {"epochs": 2, "batch": 12, "warmup_epochs": 1, "lr": 0.1},
            "machine": {"device": "cpu", "log_steps": 2},
        }
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (document.setdefault(section, {}) if section else document)[name] = value
        return parse_config(document)

    return make


def test_adapter_is_two_thin_products() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(7, 5)
    layer = AdaptedLinear(plain, LoraConfig(rank=2, alpha=6.0))
    x = torch.randn(3, 4, 7)
    assert torch.equal(layer(x), plain(x))  # nothing changes at first
    with torch.no_grad():
        layer.lora_up.normal_()
    w, b = plain.weight.detach().numpy(), plain.bias.detach().numpy()
    down, up = layer.lora_down.detach().numpy(), layer.lora_up.detach().numpy()
    wanted = x.numpy() @ w.T + b + 6.0 / 2 * (x.numpy() @ down.T) @ up.T
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)
    names = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert names == {"lora_down", "lora_up"}


def test_dropout_is_the_trainings_alone() -> None:
    torch.manual_seed(0)
    layer = AdaptedLinear(torch.nn.Linear(50, 5), LoraConfig(rank=2, dropout=0.5))
    with torch.no_grad():
        layer.lora_up.normal_()
    x = torch.randn(3, 50)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_merged_equals_unmerged(tuning: Any) -> None:
    shape = vit_shape(tuning())
    torch.manual_seed(1)
    plain, adapted = new_student(shape, 0.0).eval(), new_student(shape, 0.0).eval()
    add_adapters(adapted, LoraConfig(rank=3))
    count = 0
    for module in adapted.modules():
        if isinstance(module, AdaptedLinear):
            count += 1
            torch.nn.init.normal_(module.lora_up, std=0.3)
    assert count == 2 * shape.depth
    plain.load_state_dict(merged_state(adapted), strict=True)
    x = torch.rand(4, 1, 32, 32)
    before = new_student(shape, 0.0).eval()
    before.load_state_dict(
        {k: v for k, v in adapted.state_dict().items() if "lora_" not in k}, strict=True
    )
    with torch.no_grad():
        # float32: the thin products are summed in another order
        torch.testing.assert_close(plain(x), adapted(x), rtol=1e-4, atol=1e-5)
        assert float((plain(x) - before(x)).abs().max()) > 0.05  # the adapters do something


def test_sources_are_wells_of_one_label_and_channel(tuning: Any, folder: Path) -> None:
    config = tuning(lora__hold_out=[], lora__hold_out_columns=[2])
    sources = [open_source(one, smallest=32, cache_bytes=0) for one in config.data]
    found = labelled_sources(config.data, sources, config.lora)
    assert found.labels == ("negcon", "treatment")
    assert found.channels == ("DNA", "ER")
    table = pl.read_csv(folder / "one.csv").filter(~pl.col("Well").str.ends_with("02"))
    for number, source in enumerate(found.sources):
        plate, label, channel = source.name.split("/")
        assert label == found.labels[found.label_of[number]]
        assert channel == found.channels[found.channel_of[number]]
        if plate == "one":
            wells = [w[0] + "/" + str(int(w[1:])) for w in table.filter(Role=label)["Well"]]
            told = [source.describe(index) for index in range(len(source))]
            assert told == [f"{well}/0/0, channel {channel}" for well in wells]


def test_only_adapters_and_head_learn(tuning: Any, tiny_weights: Path, tmp_path: Path) -> None:
    train(tuning(), tmp_path / "r")
    newest = max((tmp_path / "r" / "checkpoints").glob("step-*.pt"))
    held = torch.load(newest, weights_only=True)["parts"]["method"]["network"]
    begun = open_backbone(tiny_weights).module.state_dict()
    for name, value in begun.items():
        assert torch.equal(held[f"backbone.{name}"], value)
    ups = [value for name, value in held.items() if name.endswith("lora_up")]
    assert all(bool(value.any()) for value in ups)
    written = load_file(tmp_path / "r" / "teacher.safetensors")
    assert written.keys() == begun.keys()  # a plain ViT
    changed = {name for name in begun if not torch.equal(begun[name], written[name])}
    assert changed == {
        f"blocks.{n}.attn.{part}.weight" for n in range(2) for part in ("qkv", "proj")
    }


def embedded(weights: Path, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Wells of all plates as they are and MAD-normalised, as the commands make them."""
    model = uf.load_backbone(weights, engine="eager", device="cpu")
    raw, normal = [], []
    for name in PLATES:
        wells = uf.aggregate(uf.embed_plate(uf.open_plate(folder / f"{name}.zarr"), model))
        platemap = uf.read_platemap(folder / f"{name}.csv")
        for found, table in ((raw, wells), (normal, uf.normalize(wells))):
            joined, _ = uf.join_platemap(table, platemap)
            found.append(joined.with_columns(pl.lit(name).alias("Metadata_Plate")))
    return pl.concat(raw), pl.concat(normal)


def test_report_on_a_held_out_plate(
    tuning: Any, tiny_weights: Path, folder: Path, tmp_path: Path
) -> None:
    """The table against the library's profiles, scikit-learn, and the head's own logits by loop."""
    summary = train(tuning(), tmp_path / "r")
    report = summary.held_out
    assert report is not None
    test = pl.col("Metadata_Plate") == "three"
    for how, weights in ((FROZEN, tiny_weights), (TUNED, summary.weights)):
        wells, profiles = embedded(weights, folder)
        x, y = (
            profiles.filter(part).select(pl.exclude("^Metadata_.*$")).to_numpy().astype(float)
            for part in (~test, test)
        )
        scaler = StandardScaler().fit(x)
        model = LogisticRegression(class_weight="balanced", max_iter=10_000)
        model.fit(scaler.transform(x), profiles.filter(~test)["Metadata_Role"])
        told = model.predict(scaler.transform(y))
        truth = profiles.filter(test)["Metadata_Role"].to_numpy()
        assert report.accuracy(how) == (told == truth).mean()
        for label in np.unique(truth):
            row = report.rows.filter(how=how, label=label).row(0, named=True)
            assert row["accuracy"] == (told == truth)[truth == label].mean()
    run = prepare(tuning(), tmp_path / "r", Processes(torch.device("cpu")), print)
    head = run.method.trained.head  # type: ignore[union-attr]
    right = []
    for row in wells.filter(test).iter_rows(named=True):
        logits = torch.zeros(2)
        for number, channel in enumerate(("DNA", "ER")):
            mean = torch.tensor([row[f"{channel}_{i:03}"] for i in range(64)])
            logits += head(mean).detach()[2 * number : 2 * number + 2]
        right.append(("negcon", "treatment")[int(logits.argmax())] == row["Metadata_Role"])
    assert report.accuracy(HEAD) == np.mean(right)
    assert report.n_train == 24
    assert "held out: plates three; learnt from 24 wells" in report.summary()
    written = pl.read_csv(tmp_path / "r" / "held-out.csv")
    assert written["accuracy"].to_list() == report.rows["accuracy"].to_list()


def test_one_plate_holds_out_wells_and_says_so(tuning: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        tuning(("one",), lora__hold_out=[])
    assert "there is one plate alone, so hold out wells of the same plate, which is easier" in str(
        caught.value
    )
    summary = train(tuning(("one",), lora__hold_out=[], lora__hold_out_rows=["C"]), tmp_path / "r")
    report = summary.held_out
    assert report is not None
    assert report.held_out == "wells of rows C of the plates trained on"
    assert report.rows.filter(pl.col("label").is_null())["n"].to_list() == [4] * 5


def test_it_resumes_to_the_bit(tuning: Any, tmp_path: Path) -> None:
    longer = tuning(optim__epochs=4, optim__lr=0.2)
    whole = train(longer, tmp_path / "whole")
    for steps in (3, 5, None):
        cut = train(longer, tmp_path / "cut", stop_after=steps)
    rows = [read_log(tmp_path / name / "log.csv") for name in ("whole", "cut")]
    for row in (row for run in rows for row in run):
        del row["images_per_s"]
    assert rows[0] == rows[1]
    assert whole.held_out is not None
    assert cut.held_out is not None
    assert whole.held_out.rows.equals(cut.held_out.rows)
    losses = [float(row["loss"]) for row in rows[0]]
    assert losses[0] == pytest.approx(np.log(2))  # the head begins at 0


class Lamps:
    """A batch of images that are dark (dataset 0) or bright (dataset 1)."""

    def __init__(self, generator: torch.Generator) -> None:
        self.dataset = torch.randint(0, 2, (16,), generator=generator)
        noise = 0.3 * torch.rand(16, 32, 32, generator=generator)
        self._images = noise + 0.5 * self.dataset[:, None, None]

    def views(self) -> list[torch.Tensor]:
        return [self._images[None]]


@pytest.mark.parametrize("learns", ["lora", "head"])
def test_adapters_and_head_learn_each_alone(learns: str, tuning: Any) -> None:
    torch.manual_seed(0)
    labelled = Labelled([], (0, 1), (0, 0), ("dark", "bright"), ("DNA",), "")
    method = Lora(tuning(), Clock(1, 1), torch.device("cpu"), labelled)
    for name, parameter in method.trained.named_parameters():
        parameter.requires_grad_(learns in name)
        if name == "head.weight" and learns == "lora":
            torch.nn.init.normal_(parameter)
    optimizer = build_optimizer(method.trained, torch.device("cpu"))
    set_rates(optimizer, 0.01, 0.0)
    generator = torch.Generator().manual_seed(0)
    alone = Processes(torch.device("cpu"))
    found = []
    for step in range(60):
        losses = method.losses(method.trained, Lamps(generator), step).losses  # type: ignore[arg-type]
        optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        method.after_update(step, alone)
        found.append(float(losses.detach().mean()))
    assert np.mean(found[-10:]) < 0.2 < found[0]
    assert method.signs()["crop_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init": None}, "method lora needs init, the weights that it starts from"),
        ({"lora__hold_out": ["four"]}, "lora.hold_out four is no dataset: use one, two, three"),
        ({"lora__hold_out": []}, "nothing held out to be judged by: name datasets in lora.hold"),
        ({"lora__hold_out": list(PLATES)}, "lora.hold_out names every dataset: leave one"),
        ({"lora__hold_out_rows": ["A"]}, "holds out plates, and hold_out_rows or _columns wells"),
        ({"lora__hold_out_rows": ["a"]}, "lora.hold_out_rows.0 'a' is not allowed"),
        ({"machine__parallel": "fsdp"}, "has nothing to share out with method lora: use ddp"),
        ({"lora__rank": 0}, "lora.rank 0 is not allowed"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(changes: dict[str, Any], said: str, tuning: Any) -> None:
    with pytest.raises(UsageError) as caught:
        tuning(**changes)
    assert said in str(caught.value)


def test_data_that_does_not_fit(tuning: Any, tmp_path: Path, image_folders: Any) -> None:
    documents = [source.model_dump() for source in tuning().data]
    images = {"name": "i", "path": str(image_folders["large"]), "label": "Role", "platemap": "x"}
    for data, said in (
        ([images, documents[2]], "dataset i is no plate, which method lora needs for its wells"),
        ([{**documents[0], "label": "Rle"}, documents[2]], "dataset one: .*did you mean .*Role"),
        ([{**documents[0], "platemap": "/none.csv"}, documents[2]], r"dataset one: .*none\.csv"),
    ):
        with pytest.raises(TrainingError, match=said):
            train(tuning(data=data), tmp_path / "r")
    one_well = {"lora__hold_out_columns": [1, 2, 3], "lora__hold_out_rows": ["A", "B"]}
    with pytest.raises(TrainingError, match="all wells to train on have the label"):
        train(tuning(("one",), lora__hold_out=[], **one_well), tmp_path / "r2")


def test_a_plate_is_not_learnt_from_under_another_name(
    tuning: Any, folder: Path, tmp_path: Path
) -> None:
    """By a link, as a copy of a configuration's line or with another slash."""
    config = tuning()
    (tmp_path / "link.zarr").symlink_to(folder / "three.zarr")
    for path in (tmp_path / "link.zarr", folder / "three.zarr", f"{folder}/./three.zarr/"):
        same = config.data[0].model_copy(update={"name": "again", "path": str(path)})
        with pytest.raises(
            UsageError, match=r"datasets three and again are one plate, .* held out"
        ):
            train(config.model_copy(update={"data": (*config.data, same)}), tmp_path / "r")


def test_the_shipped_config_is_valid() -> None:
    names = ("plate1", "plate2", "plate3")
    given = {f"{name}{more}": "x" for name in names for more in ("", ".platemap")}
    config = load_config(ROOT / "configs" / "lora.toml", data=given)
    assert config.lora.hold_out == ("plate3",)


def test_paths_of_platemaps(tmp_path: Path) -> None:
    text = """
method = "lora"
init = "random:0"
[lora]
hold_out = ["b"]
[[data]]
name = "a"
path = "a.zarr"
platemap = "a.csv"
label = "MoA"
[[data]]
name = "b"
path = "b.zarr"
label = "MoA"
"""
    (tmp_path / "run.toml").write_text(text)
    config = load_config(tmp_path / "run.toml", data={"b.platemap": "/b.csv"})
    assert [source.platemap for source in config.data] == [str(tmp_path / "a.csv"), "/b.csv"]
    with pytest.raises(UsageError, match=r"platemap of dataset b .* --data b\.platemap=PATH"):
        load_config(tmp_path / "run.toml")
