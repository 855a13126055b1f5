"""Nonlinearities that no class and no function of torch names are seen where they stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoplast.diagnostics import activity, inspect
from isoplast.methods import get, trace_units
from isoplast.nn import Activation, IntervalDropout, build

UNITS, DEAD = 16, 8


class Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * (x > 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (ctx.saved_tensors[0] > 0)


class Elsewhere(torch.autograd.Function):
    """A kernel of one's own: no function of torch is called on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().clip(0, None))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0.0
    return x


# Each is 0 for a unit whose pre-activation is always very negative, and only then.
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda x: torch.where(x > 0, x * x, torch.zeros_like(x)),
    "where of a number": lambda x: torch.where(x > 0, x, 0.0),
    "where as a method": lambda x: x.where(x > 0, torch.zeros_like(x)),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "mask": lambda x: x * (x > 0),
    "mask of floats": lambda x: (x > 0).to(x.dtype) * x,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "in place": in_place,
    "abs": lambda x: (x + x.abs()) / 2,
    "clamp of two sides": lambda x: x.clamp(0, 6),
    "autograd.Function": Rectify.apply,
    "swish": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "square of relu": lambda x: F.relu(x) ** 2,
    "halves": lambda x: torch.cat(
        [torch.maximum(part, torch.zeros_like(part)) for part in x.chunk(2, -1)], -1
    ),
}


class Own(nn.Module):
    """A module without parameters that does what a function does."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class WithParameter(Own):
    """The same with a parameter, so that it is no function of its inputs alone."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(function)
        self.scale = nn.Parameter(torch.ones(UNITS))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * self.scale


class Inline(nn.Module):
    """The function is called in the forward method of the network, between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(10, UNITS), nn.Linear(UNITS, 5), function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.function(self.first(x)), training=self.training))


def chain(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(10, UNITS), activation, nn.Linear(UNITS, 5))


NETWORKS: dict[str, Callable[[Callable[[Tensor], Tensor]], nn.Module]] = {
    "module": lambda function: chain(Own(function)),
    "module with a parameter": lambda function: chain(WithParameter(function)),
    "forward method": Inline,
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("function", RECTIFIERS.values(), ids=RECTIFIERS)
def test_half_of_the_units_are_dead(function: Callable[[Tensor], Tensor], network: Any) -> None:
    torch.manual_seed(0)
    model, x = network(function), torch.randn(64, 10)
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    first.bias.data[:DEAD] = -1000.0
    found = activity(model, x)
    assert (found.dead, found.units) == (DEAD / UNITS, UNITS)
    assert len(found) == 1, list(found)
    inspection = inspect(model, x)
    (said,) = [one.what for one in inspection.findings if "units are dead" in one.what]
    assert said.startswith(f"{DEAD / UNITS:.0%} of {UNITS} units")
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert set(inspection.evidence.producers.values()) == {layers[0]}


def test_a_kernel_of_ones_own_is_an_activation() -> None:
    model = chain(Own(Elsewhere.apply))
    model[0].bias.data[:DEAD] = -1000.0
    assert activity(model, torch.randn(64, 10))["1"].dead == DEAD / UNITS


def test_channels_are_units_behind_convolutions() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 9, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.max_pool2d(torch.maximum(self.conv(x), torch.zeros(())), 2)
            return self.head(hidden.flatten(1))

    model = Convolutional()
    model.conv.bias.data[:2] = -1000.0
    found = activity(model, torch.randn(4, 3, 8, 8))
    assert list(found) == ["maximum"]
    assert (found["maximum"].units, found.dead) == (6, 2 / 6)


class Residual(nn.Module):
    """Two places of one kind, the second behind a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.where((first := self.layers[0](x)) > 0, first, 0.1 * first)
        hidden = hidden + torch.where((second := self.layers[1](hidden)) > 0, second, 0.1 * second)
        return self.layers[2](hidden)


def test_places_are_numbered_in_their_order_and_sums_are_none() -> None:
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(20, 8)
    found = activity(model, x)
    assert list(found) == ["where", "where_1"]
    expected = F.leaky_relu(model.layers[0](x), 0.1).detach().double().abs().mean(0)
    torch.testing.assert_close(found["where"].scores, expected / expected.mean(), rtol=1e-6, atol=0)


class Attention(nn.Module):
    """Attention, a normalisation, dropout and a gate written out: none of them is an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        angle = torch.arange(x.shape[1])[:, None] * 0.1
        q, k = q * angle.cos() + q.roll(1, -1) * angle.sin(), k * angle.cos()
        scores = (q @ k.mT / 2.0).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -1e9)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        mixed = mixed * torch.rsqrt(mixed.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        mixed = (mixed - mixed.mean(-1, keepdim=True)) / (mixed.var(-1, keepdim=True) + 1e-5).sqrt()
        mixed = mixed * (torch.rand_like(mixed) < 0.9) / 0.9
        return self.out(mixed)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.up, self.down = Attention(), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.attention(x)
        return (hidden + self.down(F.relu(self.up(hidden)))).tanh().exp().log1p()


def test_what_is_no_activation_is_not_taken_for_one() -> None:
    found = activity(Model(), torch.randn(3, 5, 8))
    assert list(found) == ["relu", "tanh"], (
        "the outputs' tanh is a function of torch; exp and log1p nobody reads"
    )


class Pass(Own):
    pass


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: x.unflatten(-1, (4, 4)).transpose(1, 2).flatten(1),
        lambda x: 0.5 * x,
        lambda x: x - x.mean(0),
        lambda x: F.normalize(x, dim=-1),
        lambda x: x,
        lambda x: x + torch.ones(UNITS),
        lambda x: torch.cat([x[:, 8:], x[:, :8]], 1),
        lambda x: x.roll(1, -1),
        lambda x: x.float().clone(),
        lambda x: F.pad(x[:, 1:], (0, 1)),
        lambda x: x.softmax(-1),
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: torch.where(torch.arange(UNITS) > 3, x, 0.0),
    ],
)
def test_a_module_of_ones_own_that_is_seen_to_be_linear_is_none(function: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(
        nn.Linear(10, UNITS), Pass(function), nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, 2)
    )
    assert list(activity(model, torch.randn(12, 10))) == ["3"]


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(UNITS))

    def forward(self, x: Tensor) -> Tensor:
        return self.table


def test_a_module_that_returns_its_table_is_none() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.table, self.act, self.last = (
                nn.Linear(10, UNITS),
                Table(),
                nn.ReLU(),
                nn.Linear(UNITS, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.last(self.act(hidden + self.table(hidden)))

    assert list(activity(Net(), torch.randn(12, 10))) == ["act"]


class Bent(Activation):
    """A user's own class, which tells everybody what it is."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.0)


@pytest.mark.parametrize("activation", [Bent(), IntervalDropout(0.9)])
def test_a_class_derived_from_activation_is_known_to_everybody(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = chain(activation), torch.randn(64, 10)
    with torch.no_grad():
        model[0].bias[:DEAD] = -1000.0
    found = activity(model, x)
    assert list(found) == ["1"]
    expected = activation.eval()(model[0](x)).detach().double().abs().mean(0)
    torch.testing.assert_close(found["1"].scores, expected / (expected.mean() + 1e-9), rtol=1e-6, atol=0)
    assert [(group.activation, group.size) for group in trace_units(model)] == [("1", UNITS)]
    prepared = get("crelu").prepare(chain(Bent()))
    assert prepared(x).shape == (64, 5)


@pytest.mark.parametrize("name", ["interval-dropout"])
def test_interval_dropout_is_watched_and_not_the_layer_in_front(name: str) -> None:
    model = get(name).prepare(build("mlp", input_shape=(10,), classes=3, width=8))
    found = activity(model, torch.randn(20, 10))
    assert {one.kind for one in found.values()} == {"intervaldropout"}
    assert list(found) == [
        name for name, module in model.named_modules() if isinstance(module, IntervalDropout)
    ]


class Steps(nn.Module):
    """A cell that is called for every step of a sequence."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (nn.LSTMCell(3, 6), "lstm"),
        (nn.GRUCell(3, 6), "gru"),
        (nn.RNNCell(3, 6), "tanh"),
        (nn.RNNCell(3, 6, nonlinearity="relu"), "relu"),
    ],
)
def test_cells_are_one_place_for_all_steps(cell: nn.Module, kind: str) -> None:
    found = activity(Steps(cell), torch.randn(4, 7, 3))
    assert [(name, one.kind, one.units, one.samples) for name, one in found.items()] == [
        ("cell", kind, 6, 28)
    ]


class Pairs(Activation):
    """A user's own class that sorts pairs of features, and says so."""

    group_size = 2

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], -1)


class Twice(Activation):
    expansion = 2
    dim = -1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.relu(), (-x).relu()], -1)


def test_units_behind_a_class_of_ones_own_are_what_it_says() -> None:
    pairs = trace_units(chain(Pairs(-1)))[0]
    assert (pairs.size, pairs.members) == (UNITS // 2, 2)
    assert "acts along another dimension" in str(trace_units(chain(Pairs(None))))
    twice = trace_units(nn.Sequential(nn.Linear(10, 8), Twice(), nn.Linear(16, 5)))[0]
    assert (twice.size, twice.expansion) == (8, 2)
