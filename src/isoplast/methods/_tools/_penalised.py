"""Which parameters regularisers act on, and the quadratic penalty that many of them share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from isoplast._core.layer_kinds import is_normalisation


def affine_names(model: nn.Module) -> set[str]:
    """Names of the gains and offsets of normalisation layers."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if is_normalisation(module)
        for name, _ in module.named_parameters(recurse=False)
    }


def penalised(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters that regularisers act on: all but gains and offsets of normalisations."""
    left_out = affine_names(model)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in left_out
    }


class Frozen(RemovableHandle):
    """Parameters that are not to be trained for as long as a method is in force.

    Args:
        parameters: what is frozen; those that were not trained anyway stay so afterwards.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(OrderedDict())
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def remove(self) -> None:
        """Let them be trained again."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def quadratic(
    parameters: Mapping[str, Tensor],
    targets: Mapping[str, Tensor] | None,
    weights: Mapping[str, float] | float,
) -> Tensor:
    r"""Half the weighted squared distance of all parameters from their targets.

    .. math:: \sum_l \tfrac{w_l}{2} \|\theta_l - a_l\|^2, \qquad \nabla_{\theta_l} = w_l (\theta_l - a_l)

    With its gradient in closed form: one pass over the weights forward and one backward.

    Args:
        parameters: theta by name.
        targets: a by name; None: zero.
        weights: w by name, or one number for all.
    """
    factors = [weights if isinstance(weights, float) else weights[name] for name in parameters]
    anchors = None if targets is None else [targets[name] for name in parameters]
    value: Tensor = _Quadratic.apply(factors, anchors, *parameters.values())  # type: ignore[no-untyped-call]
    return value


class _Quadratic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: list[float], anchors: list[Tensor] | None, *parameters: Tensor) -> Tensor:
        differences = parameters
        if anchors is not None:
            differences = tuple(p - anchor for p, anchor in zip(parameters, anchors, strict=True))
        ctx.factors = factors
        ctx.save_for_backward(*differences)
        terms = [
            0.5 * factor * torch.linalg.vector_norm(difference).square()
            for factor, difference in zip(factors, differences, strict=True)
        ]
        return torch.stack([term.to(terms[0]) for term in terms]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        differences = ctx.saved_tensors
        scaled = (
            d * (gradient * factor).to(d.dtype) for factor, d in zip(ctx.factors, differences, strict=True)
        )
        return None, None, *scaled
