"""Student, teacher, and what is exported of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from unidino_fast.backbones import open_backbone, save_backbone
from unidino_fast.training.head import DinoHead
from unidino_fast.training.networks import (
    Projected,
    as_backbone,
    follow,
    new_student,
    new_teacher,
    recompute,
    vit_shape,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def student(make_config: Any) -> Any:
    torch.manual_seed(3)
    return new_student(vit_shape(make_config()), 0.0)


def kept_numbers(network: Any, x: torch.Tensor) -> int:
    """How many numbers a forward pass keeps for the way back, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = network(x)
    result.sum().backward()
    return sum(kept.values())


def test_recomputing_keeps_the_input_of_a_block_alone(student: Any) -> None:
    x = torch.rand(4, 1, 32, 32)
    whole = kept_numbers(student, x)
    n_tokens, dim = 4 * (1 + (32 // 8) ** 2), student.embed_dim
    recompute(student)
    less = kept_numbers(student, x)
    # what a block holds within: norms, q, k, v, attention and the MLP, several times its input
    assert whole - less > len(student.blocks) * 8 * n_tokens * dim


def test_views_of_all_sizes_equal_the_backbone_for_that_tile(
    student: Any, make_config: Any
) -> None:
    backbone = as_backbone(student, vit_shape(make_config()), "x", None)
    for size in (32, 16, 8, 40):
        x = torch.rand(3, 1, size, size)
        wanted = backbone.with_tile(size).module(x)
        torch.testing.assert_close(student(x).detach(), wanted, rtol=1e-5, atol=1e-5)


def test_export_loads_strictly_with_the_same_numbers(
    student: Any, make_config: Any, tmp_path: Path
) -> None:
    shape = vit_shape(make_config())
    save_backbone(as_backbone(student, shape, "ours", "CC0-1.0"), tmp_path / "w.safetensors")
    opened = open_backbone(tmp_path / "w.safetensors")
    assert (opened.dim, opened.image_size, opened.patch_size) == (64, 32, 8)
    assert opened.licence == "CC0-1.0"
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(opened.module(x), student.eval()(x).detach())


def test_projected_keeps_views_and_images_in_order(student: Any) -> None:
    torch.manual_seed(1)
    network = Projected(student, DinoHead(64, 16, 8, 10)).eval()
    groups = [torch.rand(2, 3, 32, 32), torch.rand(4, 3, 16, 16)]
    with torch.no_grad():
        features, outputs = network(groups)
        assert features.shape == (6, 3, 64)
        assert outputs.shape == (6, 3, 10)
        for view, image in ((0, 0), (1, 2), (2, 1), (5, 2)):
            group, index = (groups[0], view) if view < 2 else (groups[1], view - 2)
            alone = student(group[index, image][None, None])
            torch.testing.assert_close(features[view, image], alone[0], rtol=1e-4, atol=1e-5)


def test_teacher_follows_as_a_naive_loop_does(student: Any) -> None:
    teacher = new_teacher(student)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    wanted = {name: p.numpy().astype(float).copy() for name, p in teacher.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for momentum in (0.9, 0.99, 0.5):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        follow(teacher, student, momentum)
        for name, parameter in student.named_parameters():
            new = parameter.detach().numpy().astype(float)
            wanted[name] = momentum * wanted[name] + (1 - momentum) * new
    for name, parameter in teacher.named_parameters():
        np.testing.assert_allclose(parameter.numpy(), wanted[name], atol=2e-6)


def test_stochastic_depth_is_the_students_alone(make_config: Any) -> None:
    torch.manual_seed(0)
    student = new_student(vit_shape(make_config()), 0.5)
    teacher = new_teacher(student)
    x = torch.rand(8, 1, 32, 32)
    assert not torch.equal(student(x), student(x))
    assert torch.equal(teacher(x), teacher(x))
    torch.testing.assert_close(teacher(x), student.eval()(x).detach())
