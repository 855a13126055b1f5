"""Regularisation towards the initial parameters: L2-Init and its variants."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._fresh import drawn, initial
from isoplast.methods._tools._penalised import penalised, quadratic

_SOURCE = "Kumar, Marklund and Van Roy, arXiv:2308.11958"


@register
@dataclasses.dataclass(frozen=True)
class L2Init(Method):
    r"""Adam with L2 regularisation towards the initial parameters.

    .. math:: L(\theta) + \tfrac{\lambda}{2} \|\theta - \theta_0\|^2

    Pins the singular vectors of every weight to those of its initial value along with its singular values:
    from an orthogonal start it holds all of them near one, at the price of the rotations that isometry
    leaves free. Is not told of tasks; costs two passes over the weights per step.

    All parameters are regularised, biases too, but not the gains and offsets of normalisation layers.
    "Initial" are the parameters in the first step since the method took over; they are saved with a
    checkpoint.

    Args:
        strength: lambda, >= 0.

    Deviations: none known. The paper writes the penalty without the factor 1/2, its authors' code with it;
    1e-3 is what arXiv:2606.09762 uses, inside the authors' grid of 1e-2 to 1e-5.

    Reference:
        Kumar, Marklund and Van Roy, "Maintaining plasticity in continual learning via regenerative
        regularization", CoLLAs 2024, arXiv:2308.11958.
    """

    name: ClassVar[str] = "l2init"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="L2-Init",
        source=f"{_SOURCE}, section 4",
        controls="the distance of each weight from its initial value, singular vectors included",
        spectrum="all",
        family="initial state",
        cost="two passes over the weights",
        strength="strength",
    )

    strength: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return half the strength times the squared distance from the initial parameters."""
        if self.strength == 0:
            return None
        parameters = penalised(model)
        return quadratic(parameters, initial(self, model, parameters), self.strength)


@register
@dataclasses.dataclass(frozen=True)
class L1Init(Method):
    r"""Adam with L1 regularisation towards the initial parameters.

    .. math:: L(\theta) + \lambda \|\theta - \theta_0\|_1

    As L2-Init, but most parameters stay at their initial value exactly and a few go as far as they like.
    Under Adam an entry stays once lambda outweighs the gradient of the task, whatever its distance. Is
    not told of tasks; costs three passes over the weights per step.

    Args:
        strength: lambda, >= 0. The pull on every entry is lambda itself, not lambda times its distance, so
            the default is the weakest of the authors' grid of 1e-2 to 1e-5.

    Reference:
        arXiv:2308.11958, the ablation of the norm.
    """

    name: ClassVar[str] = "l1init"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="L1-Init",
        source=f"{_SOURCE}, ablation of the norm",
        controls="how many weights leave their initial value",
        spectrum="all",
        family="initial state",
        cost="three passes over the weights",
        strength="strength",
    )

    strength: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return the strength times the sum of absolute differences from the initial parameters."""
        if self.strength == 0:
            return None
        parameters = penalised(model)
        started = initial(self, model, parameters)
        terms = [torch.linalg.vector_norm(p - started[name], 1) for name, p in parameters.items()]
        return self.strength * torch.stack(terms).sum()


@register
@dataclasses.dataclass(frozen=True)
class L2InitResampled(Method):
    r"""Adam with L2 regularisation towards parameters that are drawn anew all the time.

    .. math:: L(\theta) + \tfrac{\lambda}{2} \|\theta - \theta'_t\|^2, \qquad \theta'_t \sim p_{\text{init}}

    In expectation this is L2 regularisation towards zero plus noise: it holds the mean square of the singular
    values, as the noise balances the decay, and no direction. In the paper it does worse than L2-Init. Is
    not told of tasks; costs a random number for every weight per step.

    Args:
        strength: lambda, >= 0.
        every: steps for which a target is kept, >= 1. The source draws one in each step.

    Deviations: the target's entries are normal with the mean and the variance that each parameter has in a
    freshly initialised network, instead of another initialisation (a QR factorisation of every orthogonal
    weight in every step). The penalty's mean and the noise's covariance, to leading order in 1/width, are the
    same.

    Reference:
        arXiv:2308.11958, the ablation that resamples.
    """

    name: ClassVar[str] = "l2init-resampled"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="L2-Init, resampled",
        source=f"{_SOURCE}, ablation of the target",
        controls="the mean square of the singular values (of noise that replaces the weights)",
        spectrum="mean square",
        family="initial state",
        cost="a random number for every weight, every `every` steps",
        strength="strength",
    )

    strength: float = 1e-3
    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")
        at_least(self, 1, "every")

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return half the strength times the squared distance from a random target."""
        if self.strength == 0:
            return None
        parameters = penalised(model)
        if "moments" not in self.state:
            fresh = drawn(self, model)
            self.state["moments"] = {name: _moments(fresh[name]) for name in parameters}
            self.state["age"] = 0
        if self.state["age"] % self.every == 0:
            self.state["target"] = {
                name: torch.randn_like(parameter).mul_(std).add_(mean)
                for name, parameter in parameters.items()
                for mean, std in [self.state["moments"][name]]
            }
        self.state["age"] += 1
        return quadratic(parameters, self.state["target"], self.strength)


def _moments(value: Tensor) -> list[float]:
    return [float(value.mean()), float(value.std(correction=0))]
