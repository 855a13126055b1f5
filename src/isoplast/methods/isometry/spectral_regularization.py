"""Spectral regularisation: the largest singular value of every layer near one."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.isometry import matrix_views, no_autocast, power_iteration, working
from isoplast.methods._protocol import Inputs, Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.model import Decision, decide

# Iterations from the random vector before the first estimate, as in torch's spectral_norm: without them the
# first steps would pull up a direction that is not the largest.
_WARM_UP = 15


@register
@dataclasses.dataclass(frozen=True)
class SpectralRegularization(Method):
    r"""Adam on the task loss plus spectral regularisation (arXiv:2406.06811, Eq 1 and appendix A).

    .. math:: \ell(\theta) + \lambda \Bigl[ \sum_l (\sigma_{max}(W_l)^k - 1)^2 + \sum_l \|b_l\|^{2k}
              + \sum_l \|g_l - 1\|^2 \Bigr]

    over all weight matrices (kernels flattened to (out, in * k * k)), biases, and gains g of normalisation
    layers; k = 2 is the largest term of the isometry penalty.

    The right singular vector v is estimated by power iteration from its value in the step before; the
    gradient is that of :math:`\|W v\|` with v fixed, :math:`u v^T`.

    Args:
        strength: lambda, >= 0. 1e-3 in arXiv:2606.09762, appendix B.1.
        exponent: k, >= 1. The source's 2.
        iterations: power iterations in each step, >= 1. The source's 1.

    Deviations: 15 iterations before the first estimate; embeddings and depthwise kernels are left alone.
    """

    name: ClassVar[str] = "spectral-regularization"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Spectral regularisation",
        source="Lewandowski et al., arXiv:2406.06811, Eq 1; strength of arXiv:2606.09762, appendix B.1",
        controls="the largest singular value (towards 1)",
        spectrum="largest",
        family="isometry",
        cost="three products of a matrix and a vector for each weight matrix",
        strength="strength",
    )

    strength: float = 1e-3
    exponent: float = 2.0
    iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")
        at_least(self, 1, "exponent", "iterations")

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Make a first estimate of the singular vectors."""
        if self.strength == 0:
            return
        self.state["vectors"] = {}
        for decision in decide(model):
            for name, view in _matrices(decision):
                with no_autocast(view.device):
                    w = working(view.detach())
                    # Drawn on the host, so that a seed means the same vectors on every device.
                    start = torch.randn(*w.shape[:-2], w.shape[-1]).to(w)
                    _, self.state["vectors"][name] = power_iteration(w, start, _WARM_UP)

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return lambda times the sum over matrices, biases and gains."""
        if self.strength == 0:
            return None
        terms = [term for decision in decide(model) for term in self._terms(decision)]
        return self.strength * torch.stack(terms).sum() if terms else None

    def _terms(self, decision: Decision) -> list[Tensor]:
        if decision.isometric:
            found = [self._largest(view, name) for name, view in _matrices(decision)]
            return [(sigma**self.exponent - 1).square().sum() for sigma in found]
        parameter = decision.parameter
        if decision.role == "norm" and decision.name.endswith("weight"):
            return [(parameter - 1).square().sum()]
        if decision.role in ("norm", "bias"):
            return [parameter.square().sum() ** self.exponent]
        return []

    def _largest(self, matrix: Tensor, name: str) -> Tensor:
        """The largest singular value of each matrix of a stack, shape (...), with a graph."""
        vectors = self.state["vectors"]
        with no_autocast(matrix.device):
            w = working(matrix)
            _, vectors[name] = power_iteration(w, vectors[name], self.iterations)
            image: Tensor = (w @ vectors[name][..., None])[..., 0]
            largest: Tensor = torch.linalg.vector_norm(image, dim=-1)
            return largest


def _matrices(decision: Decision) -> list[tuple[str, Tensor]]:
    """The stacks of matrices of a parameter under isometry, each with a name of its own."""
    if not decision.isometric:
        return []
    views = matrix_views(decision.parameter, **decision.layout)
    return [(f"{decision.name}:{index}", view) for index, view in enumerate(views)]
