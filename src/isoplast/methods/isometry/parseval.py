"""Parseval regularisation: rows of every hidden layer orthogonal and of one length."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import normalize

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Inputs, Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, positive
from isoplast.methods.isometry._gram_penalty import gram_penalty, kept_matrices

# The width that the source's strengths were tuned at.
_WIDTH = 64


@register
@dataclasses.dataclass(frozen=True)
class Parseval(Method):
    r"""Adam on the task loss plus Parseval regularisation of the hidden layers (arXiv:2412.07224, section 3).

    .. math:: \ell(\theta) + \lambda \sum_l (64 / m_l)^2 \, \|W_l W_l^T - s I\|_F^2, \qquad
              W_l \in \mathbb{R}^{m_l \times n_l}

    For s = 1 and square layers it is the coupled isometry penalty without the head.

    For a tall layer (m > n) the m x m Gram matrix cannot reach s I; the gradient is that of the n x n one all
    the same, which is what is computed (the value differs by the constant :math:`s^2 (m - n)`, added here).

    Args:
        strength: lambda, >= 0. The source's 1e-3 (its other environments: 1e-4).
        scale: s, the squared singular values aimed at, > 0. The source's 2, for networks initialised with
            gain sqrt 2; networks initialised as isometries start at distance m (s - 1)^2 from it.
        groups: rows are orthogonal within each of this many groups of neighbours only, >= 1. Every hidden
            layer's number of rows must be a multiple.
        normalize_rows: whether only the angles between rows count, their lengths being divided out; use
            scale=1 with it.

    Deviations: the source has one width for all layers, here m_l is that of each layer; convolution kernels,
    which the source does not have, are flattened to (out, in * k * k); the diagonal layers it adds in some
    environments are left out.
    """

    name: ClassVar[str] = "parseval"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Parseval regularisation",
        source="Chung, Cherif, Meger and Precup, arXiv:2412.07224, section 3",
        controls="every singular value of the hidden layers (towards the root of scale)",
        spectrum="all",
        family="isometry",
        cost="two products of the size of a Gram matrix for each hidden layer",
        strength="strength",
    )

    strength: float = 1e-3
    scale: float = 2.0
    groups: int = 1
    normalize_rows: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")
        positive(self, "scale")
        at_least(self, 1, "groups")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model, having checked that its layers can be grouped."""
        for view, decision in kept_matrices(model, head=False):
            if view.shape[-2] % self.groups:
                raise IsoplastError(
                    f"method parseval: the {view.shape[-2]} rows of {decision.name} do not divide into "
                    f"groups={self.groups}; choose another number of groups"
                )
        return model

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return lambda times the weighted sum over the hidden layers."""
        if self.strength == 0:
            return None
        terms = [self._term(view) for view, _ in kept_matrices(model, head=False)]
        return self.strength * sum(terms[1:], terms[0]) if terms else None

    def _term(self, matrix: Tensor) -> Tensor:
        """(64 / m)^2 |W W^T - s I|^2, summed over the matrices of a stack, in groups of rows."""
        rows, columns = matrix.shape[-2] // self.groups, matrix.shape[-1]
        blocks = matrix.reshape(*matrix.shape[:-2], self.groups, rows, columns)
        if self.normalize_rows:
            blocks = normalize(blocks, dim=-1)
        value: Tensor = gram_penalty(blocks, self.scale).sum()
        unreachable = max(rows - columns, 0) * self.scale**2 * blocks.shape[:-2].numel()
        weight: float = (_WIDTH / matrix.shape[-2]) ** 2
        return weight * (value + unreachable)
