"""The isometry step on the weights of every layer kind: sigma map, fixed points, isometry time (7e)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isoplast import AdamO, param_groups
from isoplast.isometry import matrix_views
from isoplast.nn import build, isometric_init_

# layer, name of one of its weights, how many matrices are in it
KINDS = {
    "linear": (lambda: nn.Linear(7, 5), "weight", 1),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3), "weight", 1),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3), "weight", 1),
    "grouped conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), "weight", 2),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(4, 3, 3), "weight", 1),
    "fused attention": (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight", 3),
    "lstm": (lambda: nn.LSTM(6, 4), "weight_ih_l0", 4),
    "gru": (lambda: nn.GRU(6, 4), "weight_hh_l0", 3),
    "vit query": (
        lambda: build("vit", input_shape=(1, 4, 4), classes=2, width=8, depth=1),
        "blocks.0.attention.query.weight",
        1,
    ),
    "cnn kernel": (
        lambda: build("cnn", input_shape=(1, 4, 4), classes=2, channels=4, width=4),
        "convs.1.weight",
        1,
    ),
}


def matrices(module: nn.Module, kind: str) -> torch.Tensor:
    _, name, blocks = KINDS[kind]
    (stack,) = matrix_views(module.get_parameter(name).detach().clone(), split=blocks)
    return stack if blocks > 1 else stack[None]


def pure_isometry_steps(module: nn.Module, strength: float, steps: int, every: int = 1) -> None:
    """AdamO with a zero task gradient: only the isometry step moves anything; c = lr * lambda."""
    opt = AdamO(param_groups(module, isometry=strength / 1e-2), lr=1e-2, isometry_every=every)
    for _ in range(steps):
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        opt.step()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(strength=st.floats(1e-4, 0.12), scale=st.floats(0.3, 1.5), seed=st.integers(0, 100))
def test_singular_values_follow_the_map_and_singular_vectors_stay(kind, strength, scale, seed):
    torch.manual_seed(seed)
    module = KINDS[kind][0]().double()
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() > 1:
                p.normal_()
                p.mul_(scale / p.norm())  # far below the guard, which begins at |W| = 2.2 for c = 0.12
    before = matrices(module, kind)
    pure_isometry_steps(module, strength, 1)
    u, s, vh = torch.linalg.svd(before, full_matrices=False)
    s = s * (1 + 4 * strength - 4 * strength * s.square())
    assert torch.allclose(matrices(module, kind), (u * s[..., None, :]) @ vh, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_isometries_and_zero_are_fixed_points(kind):
    torch.manual_seed(0)
    module = isometric_init_(KINDS[kind][0]().double())
    before = matrices(module, kind)
    pure_isometry_steps(module, 0.05, 10)
    assert torch.allclose(matrices(module, kind), before, atol=1e-12)
    with torch.no_grad():
        module.get_parameter(KINDS[kind][1]).zero_()
    pure_isometry_steps(module, 0.05, 10)
    assert not matrices(module, kind).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [1, 7])
def test_deviation_decays_by_e_in_one_isometry_time(kind, every):
    torch.manual_seed(1)
    module = isometric_init_(KINDS[kind][0]().double(), 1.001, head_gain=1.001)
    strength = 1e-3
    pure_isometry_steps(module, strength, math.ceil(1 / (8 * strength * every)) * every, every)
    remaining = (torch.linalg.svdvals(matrices(module, kind)) - 1) / 0.001
    # Euler's (1 - 8c)^(1/8c) is 0.4 % below 1/e; the cubic term and whole steps of 7 add as much each.
    assert torch.allclose(remaining, torch.full_like(remaining, math.exp(-1)), rtol=0.06)


def test_large_singular_values_come_down_first():
    layer = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([10.0, 0.1])))
    pure_isometry_steps(layer, 1e-5, 1000)
    down, up = layer.weight.detach().diagonal().tolist()
    # u = sigma^2 is logistic: u(T) = 1 / (1 + (1/u0 - 1) exp(-8cT)), here 8cT = 0.08.
    expected = [(1 / (1 + (1 / u - 1) * math.exp(-0.08))) ** 0.5 for u in (100.0, 0.01)]
    assert down == pytest.approx(expected[0], rel=1e-2)
    assert up == pytest.approx(expected[1], rel=1e-3)
    assert 10 - down > 6 > 0.1 > up - 0.1
