"""Small networks of every kind that a method can meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.nn import build

_BATCH = 5
_TOKENS, _LENGTH = 7, 4


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to try a method on.

    Args:
        build: makes it, from torch's global generator.
        inputs: draws a batch from a generator, as the network takes it: a tensor, a tuple of positional or a
            mapping of keyword arguments.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Any]


class Agent(nn.Module):
    """An actor-critic: outputs of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.policy, self.value = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, 3) and values (n,)."""
        hidden = self.body(observations)
        return self.policy(hidden), self.value(hidden).squeeze(-1)


class Shared(nn.Module):
    """A module registered twice, modules in a list and in a dict, inputs by name, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Linear(8, 8)
        self.start = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([block, block])
        self.activations = nn.ModuleDict({name: nn.ReLU() for name in ("start", "first", "second")})
        self.heads = nn.ModuleDict({"end": nn.Linear(8, 3)})

    def forward(self, features: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """Return {"logits": (n, 3)}."""
        hidden = self.activations["start"](self.start(features * scale))
        hidden = self.activations["first"](self.blocks[0](hidden))
        hidden = self.activations["second"](self.blocks[1](hidden))
        return {"logits": self.heads["end"](hidden)}


class Tied(nn.Module):
    """Tokens in and out through one table, and a layer that got its shape from its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(_TOKENS, 8)
        self.hidden = nn.LazyLinear(12)
        self.activation = nn.ReLU()
        self.back = nn.Linear(12, 8)
        self.out = nn.Linear(8, _TOKENS, bias=False)
        self.out.weight = self.table.weight
        self(torch.zeros(1, _LENGTH, dtype=torch.long))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (n, length, tokens)."""
        hidden = self.table(tokens)
        logits: Tensor = self.out(hidden + self.back(self.activation(self.hidden(hidden))))
        return logits


def _vectors(generator: torch.Generator) -> Tensor:
    return torch.randn(_BATCH, 6, generator=generator)


def _images(generator: torch.Generator) -> Tensor:
    return torch.randn(_BATCH, 2, 5, 5, generator=generator)


def _tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(_TOKENS, (_BATCH, _LENGTH), generator=generator)


def _named(generator: torch.Generator) -> dict[str, Tensor]:
    return {"features": _vectors(generator), "scale": torch.rand(1, generator=generator)}


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def _gpt() -> nn.Module:
    return build("gpt", input_shape=(_LENGTH,), classes=_TOKENS, width=16, depth=2, heads=2)


NETWORKS: dict[str, Network] = {
    "mlp": Network(_mlp, _vectors),
    "cnn": Network(_cnn, _images),
    "gpt": Network(_gpt, _tokens),
    "agent": Network(Agent, _vectors),
    "shared": Network(Shared, _named),
    "tied": Network(Tied, _tokens),
}
"""The networks that `check_method` tries by default: a perceptron, a convolutional network with BatchNorm, a
language model, an actor-critic, one with shared modules and named inputs, one with tied weights."""
