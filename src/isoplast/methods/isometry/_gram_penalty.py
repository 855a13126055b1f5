"""The Gram penalty with its closed-form gradient, for the methods that add it to the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from isoplast.isometry import gram_deviation_in_strips, matrix_views, times_small_side
from isoplast.model import Decision, decide


def gram_penalty(matrix: Tensor, target: float = 1.0) -> Tensor:
    r"""The squared distance of the smaller Gram matrix from a multiple of the identity.

    .. math:: P(W) = \|W W^T - s I\|_F^2 = \sum_i (\sigma_i^2 - s)^2, \qquad \nabla P = 4 (W W^T - s I) W

    (:math:`W^T W` for a tall W.) Two products where autograd takes three, and no temporary but the Gram.

    Args:
        matrix: shape (..., m, n).
        target: s, the squared singular values to be reached.

    Returns:
        Shape (...), differentiable once.
    """
    value: Tensor = _GramPenalty.apply(matrix, target)  # type: ignore[no-untyped-call]
    return value


def kept_matrices(model: nn.Module, *, head: bool) -> list[tuple[Tensor, Decision]]:
    """The stacks of matrices that `isoplast.param_groups` would keep isometric, with the reasons.

    Args:
        model: the network.
        head: whether its output layers count.
    """
    decisions = [d for d in decide(model) if d.isometric and (head or d.role != "head")]
    return [(view, d) for d in decisions for view in matrix_views(d.parameter, **d.layout)]


class _GramPenalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, target: float) -> Tensor:
        deviation = gram_deviation_in_strips(matrix)
        deviation.diagonal(dim1=-2, dim2=-1).sub_(target - 1.0)
        ctx.save_for_backward(matrix, deviation)
        return deviation.square().sum((-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        matrix, deviation = ctx.saved_tensors
        return times_small_side(matrix, deviation * (4.0 * gradient[..., None, None])).to(matrix.dtype), None
