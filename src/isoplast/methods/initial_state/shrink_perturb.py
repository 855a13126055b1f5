"""Shrink and Perturb: towards zero and towards a fresh network, in every step or where tasks begin."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo, StepContext, TaskContext, TaskMethod
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._fresh import drawn, moments, prepare_to_draw


@dataclasses.dataclass(frozen=True)
class _Factors(Method):
    """The two factors, shrink in [0, 1] and perturb >= 0."""

    shrink: float = 1.0
    perturb: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "shrink")
        at_least(self, 0.0, "perturb")

    @property
    def _idle(self) -> bool:
        return self.shrink == 1 and self.perturb == 0


@register
@dataclasses.dataclass(frozen=True)
class ShrinkPerturb(_Factors):
    r"""Adam, after each of whose steps the weights shrink a little and are perturbed by fresh ones.

    .. math:: \theta \leftarrow s\, \theta + p\, \theta', \qquad \theta' \sim p_{\text{init}}

    Every singular value shrinks by the same factor: no spectrum gets flatter.

    Args:
        shrink: s, in [0, 1]. The weights forget in 1 / (1 - s) steps, a million at the default, which is
            meant for runs of that length.
        perturb: p, >= 0.
        every: steps whose shrinking and noise are applied at once, >= 1. The factor is s^T and the noise
            has the variance of T independent draws, so the law of the weights is that of T single steps,
            but for the gradients in between.

    Deviations: `every`, 1 in the source; the entries of theta' are normal with the mean and the variance that
    each parameter has in a freshly initialised network (many draws add up to that law anyway).

    Reference:
        Ash and Adams, "On warm-starting neural network training", NeurIPS 2020, arXiv:1910.08475; in this
        form and with these defaults ("soft") Juliani and Ash, NeurIPS 2024, arXiv:2405.19153.
    """

    name: ClassVar[str] = "shrink-perturb"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Shrink and Perturb, per step",
        source="Ash and Adams, arXiv:1910.08475; Juliani and Ash, arXiv:2405.19153",
        controls="the mean square of the singular values (towards that of noise)",
        spectrum="mean square",
        family="initial state",
        cost="a random number for every weight, every `every` steps",
    )

    shrink: float = 1 - 1e-6
    perturb: float = 1e-6
    every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "every")

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return by how much a run shrinks a weight, with a warning if that is next to nothing."""
        left = self.shrink**steps
        warning = "warning: " if left > 0.9 and not self._idle else ""
        return [f"{warning}shrink-perturb leaves {left:.3g} of a weight after the {steps} steps of this run"]

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note the distribution of fresh parameters."""
        if not self._idle:
            prepare_to_draw(self, model)
            self.state["moments"] = moments(drawn(self, model), dict(model.named_parameters()))
            del self.state["initial"]

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Shrink and perturb all trainable parameters, for the steps since the last time."""
        if self._idle or step.step % self.every:
            return
        shrink = self.shrink**self.every
        # Sums of the geometric series of s and of s^2.
        once = self.every if self.shrink == 1 else (1 - shrink) / (1 - self.shrink)
        twice = self.every if self.shrink == 1 else (1 - shrink**2) / (1 - self.shrink**2)
        for name, parameter in step.model.named_parameters():
            if not parameter.requires_grad:
                continue
            mean, std = self.state["moments"][name]
            parameter.mul_(shrink).add_(self.perturb * once * mean)
            if std > 0:
                parameter.add_(torch.randn_like(parameter), alpha=self.perturb * math.sqrt(twice) * std)


@register
@dataclasses.dataclass(frozen=True)
class ShrinkPerturbTasks(_Factors, TaskMethod):
    r"""Adam, whose weights shrink and are perturbed by a fresh network where a task begins.

    .. math:: \theta \leftarrow s\, \theta + p\, \theta', \qquad \theta' \sim p_{\text{init}}

    Shrinks all singular values by the same factor, and adds a matrix with those of a fresh network, in
    directions of its own: the mean square of the two goes to s^2 of the old and p^2 of the fresh one.

    Args:
        shrink: s, in [0, 1].
        perturb: p, >= 0.

    Deviations: none known. Norms' gains and offsets take part, as parameters of the fresh network; the
    optimizer's state stays, and with it Adam's second moments of the larger weights, which shorten its steps
    for about 1000 steps: combine with `optimizer-reset` where tasks are not much longer than that.

    Reference:
        Ash and Adams, arXiv:1910.08475, section 4; defaults ("hard") of Juliani and Ash, arXiv:2405.19153.
    """

    name: ClassVar[str] = "shrink-perturb-tasks"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Shrink and Perturb, per task",
        source="Ash and Adams, arXiv:1910.08475, section 4; Juliani and Ash, arXiv:2405.19153",
        controls="the mean square of the singular values (towards a fresh network's), where tasks begin",
        spectrum="mean square",
        family="initial state",
        cost="one initialisation per task",
        needs_task_boundaries=True,
    )

    shrink: float = 0.5
    perturb: float = 0.5

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note what fresh parameters are drawn from."""
        if not self._idle:
            prepare_to_draw(self, model)

    @torch.no_grad()
    def between_tasks(self, task: TaskContext) -> None:
        """Shrink and perturb all trainable parameters."""
        if self._idle:
            return
        fresh = drawn(self, task.model)
        for name, parameter in task.model.named_parameters():
            if parameter.requires_grad:
                parameter.mul_(self.shrink).add_(fresh[name], alpha=self.perturb)
