"""A stream, a network and a method of one's own, in one module; own_study.yaml names them.

Put this file where Python finds it (PYTHONPATH, an installed package), or name its folder under `path` in the
study, as own_study.yaml does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from isoplast.methods import Method, MethodInfo, StepContext
from isoplast.nn import NetSpec
from isoplast.streams import Objective, Regression, Stream, Task, TaskSequence


@dataclass(frozen=True, kw_only=True)
class DriftingSine(Stream):
    """Regression without a data set: y = sin(w_t x + b_t), other frequencies and phases for every task.

    Args:
        tasks: how many, >= 1.
        samples: points of a task.
        frequency: the largest frequency.
    """

    takes_data: ClassVar[bool] = False

    samples: int = 256
    frequency: float = 3.0

    def objective(self, data: None) -> Objective:
        return Regression(dimensions=1)

    def input_shape(self, data: None) -> tuple[int, ...]:
        return (1,)

    def make_task(self, source: TaskSequence, index: int) -> Task:
        # Uniform numbers in [0, 1) that belong to this stream, its seed and this task, on every machine.
        uniform = torch.from_numpy((source.bits(index, self.samples + 2) >> 11) / 2.0**53).float()
        inputs = 2 * uniform[2:, None] - 1
        targets = torch.sin(self.frequency * (1 + uniform[0]) * inputs + 6.283 * uniform[1])
        return Task(index, inputs, targets)


@dataclass(frozen=True, kw_only=True)
class TwoLayers(NetSpec):
    """A network with two hidden layers."""

    width: int = 32

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        size = torch.Size(input_shape).numel()
        first, second = nn.Linear(size, self.width), nn.Linear(self.width, self.width)
        head = nn.Linear(self.width, classes)
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Tanh(), head)


@dataclass(frozen=True)
class WeightNoise(Method):
    """Adam, and after every step a little noise on all weights: theta <- theta + sigma xi.

    Args:
        sigma: standard deviation of the noise, >= 0.
    """

    name: ClassVar[str] = "weight-noise"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Weight noise", source="this example", controls="nothing of the spectrum", strength="sigma"
    )

    sigma: float = 1e-4

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        if self.sigma:
            for parameter in step.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=self.sigma)
