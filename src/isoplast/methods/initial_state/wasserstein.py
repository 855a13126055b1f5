"""Wasserstein regularisation: the weights may move, their distribution may not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._fresh import initial
from isoplast.methods._tools._penalised import penalised, quadratic


@register
@dataclasses.dataclass(frozen=True)
class Wasserstein(Method):
    r"""Adam with a penalty on how far the entries of each parameter are from those it started with, as a set.

    .. math:: L(\theta) + \lambda \sum_l \frac{1}{n_l} \|\text{sort}(\theta_l) - \text{sort}(\theta_{0,l})\|^2

    is the squared 2-Wasserstein distance of the two empirical distributions. It holds the mean square of the
    singular values (a sum over entries), and none of them singly: a matrix of rank one can have the entries
    of an orthogonal one. Is not told of tasks; costs a sort of every parameter, in the steps that sort.

    Args:
        strength: lambda, >= 0.
        every: steps between two sorts, >= 1. In between every entry is drawn to the value it was paired
            with: an upper bound of the distance that is exact in the steps that sort. Sorting 1 M weights
            takes several times as long as a training step of the network they make.

    Deviations: `every`, 1 in the source. The gains and offsets of normalisation layers are left alone.

    Reference:
        Lewandowski et al., "Directions of curvature as an explanation for loss of plasticity",
        arXiv:2312.00246; strength and the division by n_l as in the code of Chung et al., arXiv:2412.07224.
    """

    name: ClassVar[str] = "wasserstein"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Wasserstein regularisation",
        source="Lewandowski et al., arXiv:2312.00246; Chung et al., arXiv:2412.07224",
        controls="the mean square of the singular values (by the distribution of the entries)",
        spectrum="mean square",
        family="initial state",
        cost="a sort of all weights, every `every` steps",
        strength="strength",
    )

    strength: float = 1e-3
    every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")
        at_least(self, 1, "every")

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return the strength times the distance between the distributions of entries."""
        if self.strength == 0:
            return None
        parameters = penalised(model)
        if "sorted" not in self.state:
            started = initial(self, model, parameters)
            self.state["sorted"] = {name: value.flatten().sort().values for name, value in started.items()}
            self.state["age"] = 0
            del self.state["initial"]
        if self.state["age"] % self.every == 0:
            self.state["target"] = _paired(parameters, self.state["sorted"])
        self.state["age"] += 1
        weights = {name: 2 * self.strength / parameter.numel() for name, parameter in parameters.items()}
        return quadratic(parameters, self.state["target"], weights)


@torch.no_grad()
def _paired(parameters: Mapping[str, Tensor], ordered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each parameter the initial entries, in the order that its own entries have now."""
    return {
        name: torch.empty_like(ordered[name])
        .scatter_(0, parameter.flatten().argsort(), ordered[name])
        .view(parameter.shape)
        for name, parameter in parameters.items()
    }
