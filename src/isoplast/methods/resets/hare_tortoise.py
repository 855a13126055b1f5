"""Hare and Tortoise: at intervals the weights go back to their running average."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._fresh import put, tensors


@register
@dataclasses.dataclass(frozen=True)
class HareTortoise(Method):
    r"""Adam on a hare that is put back to the tortoise, the running average of its weights, at intervals.

    .. math:: \tilde\theta \leftarrow m\, \tilde\theta + (1 - m)\, \theta \ \text{each step}, \qquad
              \theta \leftarrow \tilde\theta \ \text{every T steps}

    The tortoise is evaluated. Averaging shortens the spectrum where the steps disagree.

    The tortoise is an average over the last 1 / (1 - m) steps, 1000 at the default: a task much shorter
    than that is over before the network that is evaluated has taken it in, however well the hare learned
    it. Set m and T by the length of the tasks.

    Args:
        momentum: m, in [0, 1]; 0 is Adam.
        every: T in steps, >= 1. The source uses 10 epochs, on CIFAR-10 at a batch size of 256 about 2000
            steps.

    Deviations: the interval is in steps. Floating-point buffers, such as the statistics of batch
    normalisation, are averaged as the weights are. The optimizer's state stays when the hare goes back.

    Reference:
        Lee et al., "Slow and steady wins the race: maintaining plasticity with Hare and Tortoise networks",
        ICML 2024, arXiv:2406.02596, section 4.
    """

    name: ClassVar[str] = "hare-tortoise"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Hare and Tortoise",
        source="Lee et al., arXiv:2406.02596, section 4",
        controls="nothing (weights are averaged over time)",
        family="resets",
        cost="one pass over the weights, and a copy of them",
        strength="momentum",
        claims=frozenset({"evaluation"}),
    )

    momentum: float = 0.999
    every: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "momentum")
        at_least(self, 1, "every")

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return what the evaluated average spans, and a warning if the hare never goes back."""
        span = "all steps" if self.momentum == 1 else f"about {1 / (1 - self.momentum):.0f} steps"
        lines = [f"hare and tortoise: what is evaluated is an average over {span}"]
        if steps < self.every:
            lines.append(f"warning: the hare goes back every {self.every} steps, in a run of {steps} never")
        return lines

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Let the tortoise start where the hare is."""
        self.state["tortoise"] = {name: t.detach().clone() for name, t in tensors(model).items()}

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Let the tortoise follow, and at the interval the hare go back."""
        tortoise = self.state["tortoise"]
        for name, hare in tensors(step.model).items():
            if hare.is_floating_point():
                tortoise[name].lerp_(hare, 1 - self.momentum)
            else:
                tortoise[name].copy_(hare)
        if step.step % self.every == 0:
            put(step.model, tortoise, tortoise)

    @contextlib.contextmanager
    def evaluated(self, model: nn.Module, optimizer: Optimizer) -> Iterator[nn.Module]:
        """Yield the model with the tortoise's weights; afterwards it has the hare's again, to the bit."""
        hare = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
        put(model, self.state["tortoise"], hare)
        try:
            yield model
        finally:
            put(model, hare, hare)
