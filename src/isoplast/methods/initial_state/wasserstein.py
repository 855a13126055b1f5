"""Wasserstein regularisation: the weights may move, their distribution may not."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast.methods._protocol import MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._penalised import penalised, quadratic
from isoplast.methods._tools._regulariser import TargetRegulariser


@register
@dataclasses.dataclass(frozen=True)
class Wasserstein(TargetRegulariser):
    r"""Adam with a penalty on how far the entries of each parameter are from those it started with, as a set.

    .. math:: L(\theta) + \lambda \sum_l \frac{1}{n_l} \|\text{sort}(\theta_l) - \text{sort}(\theta_{0,l})\|^2

    is the squared 2-Wasserstein distance of the two empirical distributions. No singular value is held by
    itself: a matrix of rank one can have the entries of an orthogonal one.

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

    every: int = 100

    def regulariser(self, parameters: dict[str, nn.Parameter]) -> Tensor:
        """Return the strength times the distance between the distributions of entries."""
        weights = {name: 2 * self.strength / parameter.numel() for name, parameter in parameters.items()}
        return quadratic(parameters, self.state["target"], weights)

    def look(self, model: nn.Module) -> None:
        """Remember the sorted entries of the initial parameters."""
        self.state["sorted"] = {
            name: parameter.detach().flatten().sort().values for name, parameter in penalised(model).items()
        }

    @torch.no_grad()
    def target(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """For each parameter return the initial entries, in the order that its own entries have now."""
        ordered = self.state["sorted"]
        return {
            name: torch.empty_like(ordered[name])
            .scatter_(0, parameter.flatten().argsort(), ordered[name])
            .view(parameter.shape)
            for name, parameter in parameters.items()
        }
