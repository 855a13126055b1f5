"""How the isometry step wakes dead ReLU units, and when it cannot (arXiv:2606.09762, section 4.3).

One layer of 64 units on 64 non-negative inputs; half the rows are pushed by -3 along the mean input u, which
kills those units. Only the isometry step acts then: a dead unit has no task gradient.
"""

import pytest
import torch
from torch import Tensor, nn

from isoplast import AdamO, attach

UNITS = 64
PUSHED = 32


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(2000, UNITS, generator=torch.Generator().manual_seed(0)).relu()


def mean_direction(inputs: Tensor) -> Tensor:
    mean = inputs.mean(0)
    return mean / mean.norm()


def ruined(inputs: Tensor, bias: float) -> nn.Linear:
    torch.manual_seed(1)
    layer = nn.Linear(UNITS, UNITS)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight)
        layer.weight[:PUSHED] -= 3.0 * mean_direction(inputs)
        layer.bias.zero_()
        layer.bias[:PUSHED] = bias
    return layer


def dead(layer: nn.Linear, inputs: Tensor) -> int:
    with torch.no_grad():
        return int((layer(inputs) <= 0).all(0).sum())


def train_without_gradient(layer: nn.Linear, flow: float, **settings: float) -> None:
    """AdamO with a zero task gradient for the flow time 4 lr lambda T, in 250 steps."""
    steps, lr = 250, 1e-2
    opt = AdamO(layer.parameters(), lr=lr, isometry=flow / (4 * lr * steps), isometry_every=1, **settings)
    for _ in range(steps):
        for p in layer.parameters():
            p.grad = torch.zeros_like(p)
        opt.step()


@pytest.mark.parametrize("bias", [0.0, -1.0])
def test_units_without_a_large_bias_are_woken(inputs, bias):
    layer = ruined(inputs, bias)
    assert dead(layer, inputs) == PUSHED
    train_without_gradient(layer, flow=0.5)
    assert dead(layer, inputs) == 0


def test_a_moderate_bias_leaves_most_asleep(inputs):
    layer = ruined(inputs, -3.0)
    train_without_gradient(layer, flow=0.5)
    assert dead(layer, inputs) > PUSHED / 2


@pytest.mark.filterwarnings("ignore:isometry=0.4 at the learning rate")
def test_below_the_bias_barrier_nothing_wakes_a_unit_but_bias_decay_does(inputs):
    """b <= -max |h|: no rotation of a unit row reaches a positive pre-activation."""
    barrier = -1.05 * float(inputs.norm(dim=1).max())
    layer = ruined(inputs, barrier)
    train_without_gradient(layer, flow=4.0)
    assert dead(layer, inputs) == PUSHED
    assert torch.equal(layer.bias[:PUSHED], torch.full((PUSHED,), barrier))  # frozen: no gradient
    decayed = ruined(inputs, barrier)
    train_without_gradient(decayed, flow=4.0, bias_decay=1.0)  # b shrinks by exp(-2.5)
    assert dead(decayed, inputs) == 0


def test_without_the_penalty_nothing_moves(inputs):
    layer = ruined(inputs, 0.0)
    before = layer.weight.detach().clone()
    train_without_gradient(layer, flow=0.0)
    assert torch.equal(layer.weight, before)
    assert dead(layer, inputs) == PUSHED


def test_the_norm_term_alone_wakes_nobody(inputs):
    """A short row against u and orthogonal to all others grows to -u and stays dead."""
    u = mean_direction(inputs)
    layer = nn.Linear(UNITS, UNITS, bias=False)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight)
        others = layer.weight[1:] - torch.outer(layer.weight[1:] @ u, u)
        layer.weight[1:] = torch.linalg.qr(others.t()).Q.t()
        layer.weight[0] = -0.3 * u
    train_without_gradient(layer, flow=8.0)
    assert torch.allclose(layer.weight[0], -u, atol=1e-3)
    assert dead(layer, inputs) >= 1
    assert (layer(inputs)[:, 0] <= 0).all()


@pytest.mark.parametrize(
    ("drift", "revived"), [("towards u", True), ("inside the orthogonal complement of u", False)]
)
def test_an_isolated_dead_unit_follows_only_rows_that_move_into_its_direction(inputs, drift, revived):
    """Row = -u in an orthogonal matrix: a fixed point until active rows, driven by the task, move."""
    u = mean_direction(inputs)
    torch.manual_seed(2)
    layer = nn.Linear(UNITS, UNITS, bias=False)
    with torch.no_grad():
        basis = torch.linalg.qr(torch.cat((u[:, None], torch.randn(UNITS, UNITS - 1)), 1)).Q.t()
        basis[0] = -u
        layer.weight.copy_(basis)
    assert (layer(inputs)[:, 0] <= 0).all()
    push = u.expand(UNITS, UNITS).clone()
    if not revived:
        push = torch.randn(UNITS, UNITS)
        push -= torch.outer(push @ u, u)
    push[0] = 0.0  # the dead unit has no gradient of its own
    opt = torch.optim.SGD(layer.parameters(), lr=1e-3)  # Adam's signs would leave the complement
    attach(opt, isometry=5.0, every=1)
    for _ in range(400):
        layer.weight.grad = -push
        opt.step()
    assert (layer(inputs)[:, 0] > 0).any().item() == revived
    if not revived:
        assert layer.weight[0] @ u < -0.999


def test_outgoing_weights_of_dead_units_are_kept_at_unit_norm(inputs):
    """So that a woken unit acts at once; methods that reset units zero them instead."""
    torch.manual_seed(3)
    net = nn.Sequential(ruined(inputs, 0.0), nn.ReLU(), nn.Linear(UNITS, UNITS))
    with torch.no_grad():
        nn.init.orthogonal_(net[2].weight)
        net[2].weight[:, :PUSHED] *= 0.5
    train_without_gradient(net[2], flow=4.0)
    assert torch.allclose(net[2].weight.norm(dim=0), torch.ones(UNITS), atol=1e-2)
