"""Dead ReLU units under AdamO, against closed forms: when each comes back, and what keeps it dead.

tests/nn/test_revival.py shows the cases; here, in float64, the step at which things happen is predicted.
Everywhere a dead unit has no task gradient, so that only the isometry step moves its row.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from isoplast import AdamO
from isoplast.isometry import flow_step, penalty

LR = 1e-2
F64 = torch.float64
both_modes = pytest.mark.parametrize("every", [1, "auto"])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=F64)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def with_first_row(row: Tensor, seed: int = 0) -> Tensor:
    """An orthogonal matrix with this unit row."""
    q = torch.linalg.qr(torch.cat([row[:, None], normal(len(row), len(row) - 1, seed=seed)], 1)).Q.mT
    return q * torch.sign(q[0] @ row)


def optimizer(params: list[Parameter], strength: float, every: Any = 1, **settings: float) -> AdamO:
    return AdamO(params, lr=LR, isometry=strength / LR, isometry_every=every, **settings)


def idle(adamo: AdamO, steps: int = 1) -> None:
    """Steps with a zero task gradient."""
    for _ in range(steps):
        for group in adamo.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        adamo.step()


def logistic(sigma: Tensor, time: float) -> Tensor:
    """The singular values after the penalty's gradient flow over a total strength c T."""
    return (1 / (1 + (1 / sigma.square() - 1) * math.exp(-8 * time))).sqrt()


def shifted(units: int = 64, shift: float = 3.0) -> tuple[Tensor, Tensor]:
    """An orthogonal matrix, half of its rows pushed against the mean of non-negative inputs; the inputs."""
    inputs = normal(2000, units, seed=1).relu()
    w = torch.linalg.qr(normal(units, units, seed=2)).Q
    w[: units // 2] -= shift * unit(inputs.mean(0))
    return w, inputs


@both_modes
def test_length_alone_never_turns_a_row(every):
    """A short row against u, orthogonal to all others, grows to -u along the sigma map and stays dead."""
    u = unit(normal(12).abs())
    w = with_first_row(u)
    w[0] = -0.3 * u
    layer, c, steps = Parameter(w), 1e-3, 800
    adamo = optimizer([layer], c, every)
    length = 0.3
    for _ in range(steps):
        idle(adamo)
        length *= 1 + 4 * c - 4 * c * length**2
    row = layer.detach()[0]
    torch.testing.assert_close(row / row.norm(), -u, rtol=0, atol=1e-12)
    # The amortised step follows the flow, of which the map is the Euler discretisation: 1 - 3e-3 at the end.
    assert row.norm().item() == pytest.approx(length, abs=1e-12 if every == 1 else 2e-3)
    assert length > 0.99


def test_all_shifted_units_come_back_within_flow_time_a_quarter():
    w, inputs = shifted()
    layer, c = Parameter(w), 1e-4
    assert int((inputs @ w.mT <= 0).all(0).sum()) == 32
    idle(optimizer([layer], c), round(0.25 / (4 * c)))
    assert int((inputs @ layer.detach().mT <= 0).all(0).sum()) == 0


@both_modes
def test_each_unit_comes_back_when_the_closed_form_says(every):
    """Singular values are logistic and singular vectors stay: that gives every unit's waking time."""
    w, inputs = shifted()
    bias = -1.0  # spreads the waking out: from 600 steps to 2500 and more
    u, s, vh = torch.linalg.svd(w)

    def fires(matrix: Tensor) -> Tensor:
        return (inputs @ matrix.mT + bias > 0).any(0)

    layer, c, stride = Parameter(w.clone()), 5e-5, 25
    adamo = optimizer([layer], c, every)
    predicted, observed = torch.zeros(64), torch.zeros(64)
    for step in range(0, 2500, stride):
        predicted += ~fires(u @ (logistic(s, c * step)[:, None] * vh))
        observed += ~fires(layer.detach())
        idle(adamo, stride)
    # In strides of 25 steps. The exact mode is the flow's Euler form; "auto" acts every 50 steps here, so it
    # may be two strides late, and one more for its closed form, a Padé approximation, at sigma = 17.
    assert (predicted - observed).abs().max() <= (1 if every == 1 else 3)
    assert (predicted[:32] > 20).all()
    assert (predicted[:32] < 100).sum() >= 30
    assert predicted[:32].std() > 10


def test_overlap_with_the_mean_input_decays_at_the_predicted_rate():
    """Where S u = s u every row's component along u shrinks by 4c (s - 1) of itself per step."""
    u = unit(normal(16).abs())
    vh = with_first_row(u, seed=3)
    s = torch.linspace(3.0, 0.8, 16, dtype=F64)
    w = torch.linalg.qr(normal(16, 16, seed=4)).Q @ (s[:, None] * vh)
    layer, c, steps = Parameter(w.clone()), 1e-5, 4000
    adamo = optimizer([layer], c)
    before = w @ u
    idle(adamo)
    torch.testing.assert_close(layer.detach() @ u, before * (1 - 4 * c * (9 - 1)), rtol=1e-12, atol=0)
    idle(adamo, steps - 1)
    share = logistic(torch.tensor(3.0, dtype=F64), c * steps) / 3
    assert share < 0.6, "too short to test anything"
    # Euler against the flow: a relative error of about the first step's 4c (s - 1) = 3e-4.
    torch.testing.assert_close(layer.detach() @ u, before * share, rtol=1e-3, atol=0)


@both_modes
def test_a_lone_unit_row_is_a_fixed_point_while_the_others_move(every):
    """Orthogonal to all others it does not move, even if it is -u, whatever the others are."""
    u = unit(normal(10).abs())
    w = with_first_row(-u)
    w[1:] = normal(9, 9, seed=5) @ w[1:]
    layer = Parameter(w.clone())
    idle(optimizer([layer], 1e-3, every), 300)
    assert penalty(layer.detach()) < 0.1 * penalty(w)
    torch.testing.assert_close(layer.detach()[0], -u, rtol=0, atol=1e-12)


@both_modes
@pytest.mark.parametrize(("drift", "back"), [("towards u", True), ("inside its complement", False)])
def test_a_lone_dead_row_follows_active_rows_only_out_of_the_hyperplane(every, drift, back):
    """The paper's exception. u is the first axis, so that Adam's step keeps out of it where gradients do."""
    n = 8
    inputs = normal(500, n, seed=6).abs() * 0.1
    inputs[:, 0] = 1.0
    w = torch.eye(n, dtype=F64)
    w[0, 0] = -1
    layer = Parameter(w.clone())
    assert (inputs @ w[0] < 0).all()
    adamo = optimizer([layer], 2e-3, every)
    for step in range(1500):
        push = normal(n, n, seed=100 + step)
        push[:, 0] = 1.0 if back else 0.0
        push[0] = 0  # the dead unit has no gradient
        layer.grad = -push
        adamo.step()
    row = layer.detach()[0]
    assert bool((inputs @ row > 0).any()) is back
    if not back:
        assert (layer.detach() - w)[1:].norm() > 1, "the active rows did not move"
        torch.testing.assert_close(row, w[0], rtol=0, atol=1e-12)


@both_modes
def test_a_bias_below_the_barrier_outlasts_every_rotation(every):
    """No unit row reaches further than max |h|: whatever the task does to the others, the unit stays dead."""
    w, inputs = shifted()
    barrier = -inputs.norm(dim=1).max()
    layer = nn.Linear(64, 64, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(w)
        layer.bias.zero_()
        layer.bias[:4] = barrier
    adamo = optimizer([layer.weight, layer.bias], 1e-3, every)
    for step in range(1500):
        layer.weight.grad = normal(64, 64, seed=step)
        layer.weight.grad[:4] = 0
        layer.bias.grad = torch.zeros(64, dtype=F64)
        adamo.step()
        if step >= 500 and step % 50 == 0:
            dead = (layer(inputs) <= 0).all(0)
            assert dead[:4].all()
            assert layer.weight[:4].norm(dim=1).max() <= 1.001, "the barrier is one for rows of length one"
    assert torch.equal(layer.bias[:4].detach(), barrier.expand(4))
    assert not dead[4:32].any()  # the others with the same start, but no bias, are back


@both_modes
@pytest.mark.parametrize("depth", [1.05, 3.0])
def test_bias_decay_lifts_a_unit_over_the_barrier_at_the_predicted_step(every, depth):
    """A row that points at the longest input fires as soon as b = (1 - lr gamma)^t b_0 is above -max |h|."""
    inputs = normal(200, 16, seed=7).relu()
    longest = inputs[inputs.norm(dim=1).argmax()]
    reach, gamma = longest.norm().item(), 0.5
    layer = nn.Linear(16, 16, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(with_first_row(unit(longest)))  # isometric: the isometry step is at rest
        layer.bias.fill_(-depth * reach)
    adamo = optimizer([layer.weight, layer.bias], 1e-3, every, bias_decay=gamma)
    expected = math.floor(math.log(depth) / -math.log1p(-LR * gamma)) + 1
    idle(adamo, expected - 1)
    assert (layer(inputs)[:, 0] <= 0).all()
    assert layer.bias[0].item() == pytest.approx(-depth * reach * (1 - LR * gamma) ** (expected - 1))
    idle(adamo)
    assert (layer(inputs)[:, 0] > 0).any()


def test_without_the_penalty_only_adams_leftovers_move_a_dead_row():
    """They shrink by beta_1 / sqrt(beta_2) = 0.90045 per step and are gone after a few hundred steps."""
    layer = Parameter(normal(6, 6))
    adamo = optimizer([layer], 0.0)
    for step in range(200):
        layer.grad = normal(6, 6, seed=step)
        adamo.step()
    # Long after the start, where the bias corrections 1 - beta^t are one.
    adamo.state[layer]["step"].fill_(1e6)
    moves = []
    for _ in range(400):
        before = layer.detach().clone()
        idle(adamo)
        moves.append(before - layer.detach())
    for one, next_one in pairwise(moves[:60]):
        # eps = 1e-8 against sqrt(v) of order 0.1 to 1, and the weights' own rounding
        torch.testing.assert_close(next_one, one * 0.9 / math.sqrt(0.999), rtol=1e-6, atol=1e-15)
    assert torch.equal(moves[-1], torch.zeros_like(moves[-1]))
    total = moves[0] / (1 - 0.9 / math.sqrt(0.999))
    torch.testing.assert_close(sum(moves), total, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize(
    ("betas", "silence"),
    [((0.9, 0.99), 3000), pytest.param((0.9, 0.999), 20_000, marks=pytest.mark.slow)],
)
@both_modes
def test_first_update_after_revival(every, betas, silence):
    """(1 - beta_1) / sqrt(1 - beta_2) times lr in every weight: 3.16 lr for Adam's defaults."""
    layer = nn.Linear(6, 6, bias=False, dtype=F64)
    inputs = 0.5 + normal(64, 6, seed=8).abs()
    targets = normal(64, 6, seed=9)
    adamo = AdamO([layer.weight], lr=LR, betas=betas, isometry=0.1, isometry_every=every)

    def step(h: Tensor) -> Tensor:
        adamo.zero_grad()
        (layer(h).relu() - targets).square().mean().backward()
        gradient = layer.weight.grad.clone()
        adamo.step()
        return gradient

    for _ in range(20):
        step(inputs)  # a life before death: moments of the size of its gradients
    with torch.no_grad():
        layer.weight[0] = -layer.weight[0].abs() - 0.1
    for _ in range(silence):
        # Only the other units live, and are told to stay: no task gradient anywhere, isometry at work.
        layer.weight.grad = torch.zeros_like(layer.weight)
        adamo.step()
    with torch.no_grad():
        layer.weight.copy_(with_first_row(-unit(inputs.mean(0))))  # isometric, so that it is at rest now
    assert (layer(inputs)[:, 0] < 0).all()
    before = layer.weight.detach().clone()
    gradient = step(-inputs)  # the inputs change, and the unit is back
    assert (gradient[0] != 0).all()
    size = (1 - betas[0]) / math.sqrt(1 - betas[1])
    moved = layer.weight.detach() - before
    # The remains of the old second moment, beta_2^silence <= 2e-9 of it, and eps = 1e-8 against 0.03 |g|.
    torch.testing.assert_close(moved[0], -size * LR * gradient[0].sign(), rtol=1e-3, atol=0)
    if betas == (0.9, 0.999):
        assert size == pytest.approx(3.1623, abs=1e-4)


def test_amortised_steps_wait_no_longer_than_the_waking_takes():
    """At the strength of these tests "auto" must really wait, else both modes are one."""
    layer = Parameter(normal(6, 6))
    adamo = optimizer([layer], 5e-5, "auto")
    idle(adamo)
    expected = flow_step(normal(6, 6), 5e-5)
    torch.testing.assert_close(layer.detach(), expected, rtol=0, atol=1e-14)
    idle(adamo)
    torch.testing.assert_close(layer.detach(), expected, rtol=0, atol=1e-14)
