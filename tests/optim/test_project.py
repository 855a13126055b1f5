"""The penalty of a whole model and its projection onto isometric weights."""

import pytest
import torch
from torch import nn

from isoplast import isometry_penalty, orthogonalize_
from isoplast._core.errors import IsoplastError
from isoplast.isometry import matrix_views, penalty, singular_values


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 6),
            "attention": nn.MultiheadAttention(6, 2),
            "conv": nn.Conv2d(4, 8, 3, groups=2).to(memory_format=torch.channels_last),
            "norm": nn.LayerNorm(6),
            "head": nn.Linear(6, 3),
        }
    ).double()


KEPT = {"attention.in_proj_weight": 3, "attention.out_proj.weight": 1, "conv.weight": 2, "head.weight": 1}


def test_penalty_is_the_sum_over_the_kept_matrices():
    model = network()
    expected = sum(
        float(penalty(view).sum())
        for name, split in KEPT.items()
        for view in matrix_views(model.get_parameter(name).detach(), split=split)
    )
    assert isometry_penalty(model).item() == pytest.approx(expected, rel=1e-12)


def test_penalty_trains_the_kept_matrices_and_nothing_else():
    model = network()
    isometry_penalty(model).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(KEPT)


def test_penalty_of_tensors():
    w, kernel, vector = torch.ones(2, 2), torch.zeros(2, 3, 3, 3), torch.ones(5)
    assert isometry_penalty(w).item() == 10
    assert isometry_penalty([w, kernel, vector]).item() == 12
    assert isometry_penalty(p for p in (w, w)).item() == 20
    assert isometry_penalty([vector]).item() == 0
    assert isometry_penalty([]).item() == 0
    assert isometry_penalty(nn.LayerNorm(3)).item() == 0


def test_projection_makes_every_kept_matrix_isometric_and_moves_nothing_else():
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    distance = orthogonalize_(model)
    moved = 0.0
    for name, p in model.named_parameters():
        if name in KEPT:
            for view in matrix_views(p.detach(), split=KEPT[name]):
                values = singular_values(view)
                torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-12)
            moved += float((p.detach() - before[name]).square().sum())
        else:
            assert torch.equal(p.detach(), before[name])
    # The distance is summed in float32.
    assert distance == pytest.approx(moved**0.5, rel=1e-6)
    assert model["conv"].weight.is_contiguous(memory_format=torch.channels_last)
    assert isometry_penalty(model).item() < 1e-20
    assert orthogonalize_(model) < 1e-6


def test_projection_repairs_dead_matrices():
    layer = nn.Linear(5, 5)
    with torch.no_grad():
        layer.weight.zero_()
    assert orthogonalize_(layer) == pytest.approx(5**0.5, rel=1e-6)
    torch.testing.assert_close(singular_values(layer.weight.detach()), torch.ones(5))


def test_projection_of_tensors_keeps_dtype_and_grad():
    p = nn.Parameter(torch.randn(6, 4).bfloat16())
    p.grad = torch.ones_like(p)
    vector = torch.ones(3)
    orthogonalize_([p, vector])
    assert p.dtype == torch.bfloat16
    assert torch.equal(p.grad, torch.ones_like(p))
    assert torch.equal(vector, torch.ones(3))
    torch.testing.assert_close(singular_values(p.detach()), torch.ones(4), rtol=0, atol=0.02)


def test_nothing_is_changed_where_one_weight_is_not_finite():
    model = network()
    with torch.no_grad():
        model["head"].weight[0, 0] = torch.nan
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(IsoplastError, match=r"head\.weight holds a non-finite value"):
        orthogonalize_(model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], rtol=0, atol=0, equal_nan=True)
