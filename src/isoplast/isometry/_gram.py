"""The Gram deviation, the isometry penalty and its gradient in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from isoplast.isometry._precision import no_autocast, working
from isoplast.isometry._products import gram

# torch.bmm takes out_dtype from 2.8 on, with CUDA alone.
_SUMS_HALVES_IN_FLOAT32 = torch.version.cuda is not None and tuple(
    map(int, torch.__version__.split(".")[:2])
) >= (2, 8)


def gram_deviation(matrix: Tensor) -> Tensor:
    r"""The deviation from isometry on the smaller side.

    .. math:: S = W^T W - I \ (m > n), \qquad S = W W^T - I \ (m \le n)

    Its eigenvalues are :math:`\sigma_i^2 - 1` over the min(m, n) singular values of W.

    Args:
        matrix: shape (..., m, n), any floating dtype, any strides.

    Returns:
        Shape (..., k, k) with k = min(m, n), symmetric; float32 for half-precision input, else the
        input's dtype. Differentiable.

    Example:
        >>> gram_deviation(2 * torch.eye(2))
        tensor([[3., 0.],
                [0., 3.]])

    Reference:
        arXiv:2606.09762, Eq 16.
    """
    with no_autocast(matrix.device):
        w = working(matrix)
        x = w if w.shape[-2] <= w.shape[-1] else w.mT
        if torch.is_grad_enabled() and x.requires_grad:
            return x @ x.mT - torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        # Written as X @ X.mT: compilers recognise this form as symmetric.
        deviation = x @ x.mT
        deviation.diagonal(dim1=-2, dim2=-1).sub_(1)
        return deviation


@torch.no_grad()
def gram_deviation_in_strips(matrix: Tensor) -> Tensor:
    """:func:`gram_deviation` for the in-place steps: without a graph, by the cheapest product."""
    with no_autocast(matrix.device):
        x = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
        halves = x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cuda"
        deviation = _gram_of_halves(x) if halves and _SUMS_HALVES_IN_FLOAT32 else gram(working(x))
        deviation.diagonal(dim1=-2, dim2=-1).sub_(1)
        return deviation


def _gram_of_halves(x: Tensor) -> Tensor:
    """X X^T in float32 from half precision: tensor cores form the products exactly and sum in float32."""
    flat = x.reshape(-1, *x.shape[-2:])
    found: Tensor = torch.bmm(flat, flat.mT, out_dtype=torch.float32)
    return found.view(*x.shape[:-1], x.shape[-2])


def penalty(matrix: Tensor) -> Tensor:
    r"""The isometry penalty.

    .. math:: R_\mathrm{iso}(W) = \|S\|_F^2 = \sum_{i=1}^{\min(m, n)} (\sigma_i^2 - 1)^2

    Args:
        matrix: shape (..., m, n).

    Returns:
        Shape (...): one value >= 0 per matrix, 0 exactly for isometries. Differentiable.

    Example:
        >>> penalty(torch.ones(2, 2))
        tensor(10.)

    Reference:
        arXiv:2606.09762, Eq 16 and 17 (no factor 1/2, no division by the width).
    """
    return gram_deviation(matrix).square().sum((-2, -1))


def penalty_gradient(matrix: Tensor) -> Tensor:
    r"""The gradient of the penalty, in closed form.

    .. math:: \nabla R_\mathrm{iso}(W) = 4 (W W^T W - W) = 4 W S \ \text{or} \ 4 S W

    The two cases of Eq 16 differ by the constant |m - n|, so one formula holds for every shape.

    Args:
        matrix: shape (..., m, n).

    Returns:
        Shape (..., m, n), in the dtype of :func:`gram_deviation`.

    Example:
        >>> penalty_gradient(2 * torch.eye(2))
        tensor([[24.,  0.],
                [ 0., 24.]])

    Reference:
        arXiv:2606.09762, Eq 16 and 20.
    """
    return 4 * times_small_side(matrix, gram_deviation(matrix))


def times_small_side(matrix: Tensor, small: Tensor) -> Tensor:
    """W S for a tall W (m > n), S W for a wide or square one: shape (..., m, n)."""
    with no_autocast(matrix.device):
        w = working(matrix)
        return w @ small if w.shape[-2] > w.shape[-1] else small @ w
