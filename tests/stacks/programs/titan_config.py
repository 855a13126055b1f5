"""An optimizer named in a configuration, one for each part of the model, as torchtitan builds them.

torchtitan itself needs a GPU; this is what its OptimizersContainer and its trainer do with a class.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from common import SETTINGS, batch, mine, mlp, must_be_equal, train
from sharded import line, sharded
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer

from isoplast import AdamO


@dataclass
class OptimizerConfig:
    """The section [optimizer] of a configuration."""

    name: str = "AdamO"
    lr: float = SETTINGS["lr"]
    implementation: str = "foreach"
    extra: dict[str, Any] = field(
        default_factory=lambda: {"isometry": SETTINGS["isometry"], "isometry_every": 3}
    )


CLASSES: dict[str, type[Optimizer]] = {"AdamO": AdamO, "AdamW": torch.optim.AdamW}
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class Container(Optimizer, Stateful):
    """One optimizer for each part, and their states as one flat dictionary by parameter name."""

    def __init__(self, parts: list[nn.Module], config: OptimizerConfig) -> None:
        kind = {config.implementation: True}
        cls = CLASSES[config.name]
        self.parts = parts
        self.optimizers = [cls(part.parameters(), lr=config.lr, **kind, **config.extra) for part in parts]
        super().__init__([p for part in parts for p in part.parameters()], {"lr": config.lr})

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        ask = functools.partial(get_optimizer_state_dict, options=FLAT)
        found: dict[str, Any] = {}
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            found.update(ask(part, optimizer))
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            set_optimizer_state_dict(part, optimizer, state_dict, options=FLAT)


class Parts(nn.Module):
    """A network in two parts, of two pipeline stages, say, with names of their own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"first": mlp((20, 33, 17))})
        self.second = nn.ModuleDict({"second": mlp((17, 12, 3))})
        for p in self.parameters():
            p.data.mul_(1 + 0.1 * seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second["second"](self.first["first"](x).relu())

    def spread(self) -> Parts:
        for part in (self.first["first"], self.second["second"]):
            sharded(part, line())
        return self


def configured(folder: Path, **_: Any) -> None:
    """Foreach and fused by the configuration; a resumed run goes on to the same bits."""
    for implementation in ("foreach", "fused"):
        config = OptimizerConfig(implementation=implementation)
        model = Parts().spread()
        container = Container([model.first, model.second], config)
        train(model, container, *map(mine, batch()), steps=10)
        place = folder / implementation
        dcp.save({"model": model.state_dict(), "optimizer": container}, checkpoint_id=place)
        train(model, container, *map(mine, batch()), steps=10)
        again = Parts(seed=1).spread()
        other = Container([again.first, again.second], config)
        weights = again.state_dict()
        dcp.load({"model": weights, "optimizer": other}, checkpoint_id=place)
        again.load_state_dict(weights)
        train(again, other, *map(mine, batch()), steps=10)
        must_be_equal(again, model, tolerance=0.0)
        single = Parts()
        train(single, Container([single.first, single.second], config), *batch(), steps=20)
        must_be_equal(model, single)
        dist.barrier()
