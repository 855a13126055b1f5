"""The isometry step of AdamO, and the closed form of many of them at once.

Both keep the singular vectors and move the singular values towards one. They are written in
residual form, W <- W + (small correction): W <- W ((1 + 4c) I - 4c G) would round W anew in every
step, and under TF32 or bfloat16 that rounding is as large as the correction itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isoplast.isometry._gram import gram_deviation, gram_deviation_in_strips, times_small_side
from isoplast.isometry._precision import no_autocast

Strength = float | Tensor

# The largest condition number of I + a S that a float32 Cholesky factorisation of a few thousand
# rows takes without losing positive definiteness: rounding moves its eigenvalues, which are at
# least 1/4, by about sqrt(k) * 6e-8 * 1e4 = 0.04 for k = 4096.
_WELL_CONDITIONED = 1e4


def isometry_step(matrix: Tensor, strength: Strength) -> Tensor:
    r"""One gradient step on the isometry penalty, returned as a new tensor.

    .. math:: W \leftarrow W - c \nabla R_\mathrm{iso}(W) = W - 4 c W S, \qquad
              \sigma \leftarrow \sigma (1 + 4c - 4c \sigma^2)

    c = 1/8 is one full Newton-Schulz step, the largest useful strength. From c = 1/4 on no
    isometry would be stable, so such strengths are taken as 1/8. A matrix with
    :math:`\sigma_{max}^2 > 1 + 1/(2c)` would diverge; where a bound on it (the smaller of the
    Frobenius norm and the largest row sum of S) says so, the step is shortened so that no singular
    value loses more than half. Otherwise the guard does not change a bit.

    Args:
        matrix: shape (..., m, n).
        strength: c = lr * isometry, >= 0; a number or a 0-d tensor (never read by the host).

    Returns:
        Shape (..., m, n), the dtype of the input. Differentiable.

    Example:
        >>> isometry_step(torch.diag(torch.tensor([1.0, 2.0])), 0.01).diagonal()
        tensor([1.0000, 1.7600])

    Reference:
        arXiv:2606.09762, Eq 20; Björck and Bowie 1971 (order 1, beta = 4c).
    """
    deviation = gram_deviation(matrix)
    with no_autocast(matrix.device):
        factor = deviation * _euler_scale(deviation, strength)
        return (matrix + times_small_side(matrix, factor)).to(matrix.dtype)


@torch.no_grad()
def isometry_step_(matrix: Tensor, strength: Strength) -> Tensor:
    """:func:`isometry_step` in place.

    Needs one Gram matrix and one copy of the matrix beside it. The product never has its operand
    as output: in-place ``addmm`` on an own operand is silently wrong from about 130 x 70 on.

    Args:
        matrix: shape (..., m, n), changed in place.
        strength: c = lr * isometry, >= 0.

    Returns:
        The same tensor.
    """
    deviation = gram_deviation_in_strips(matrix)
    with no_autocast(matrix.device):
        factor = deviation.mul_(_euler_scale(deviation, strength))
        return matrix.add_(times_small_side(matrix, factor))


def _euler_scale(deviation: Tensor, strength: Strength) -> Tensor:
    """-4 c, shape (..., 1, 1), with c shortened where the step would diverge."""
    bound = _largest_deviation(deviation)
    c = torch.as_tensor(strength, dtype=deviation.dtype, device=deviation.device)
    c = torch.where(c < 0.25, c, 0.125)
    # sigma (1 - 4c (sigma^2 - 1)) with 4c = 1 / (2 bound) keeps at least half of every sigma > 1.
    c = torch.where(2 * c * bound > 1, 0.125 / bound, c)
    return (-4 * c)[..., None, None]


def flow_step(matrix: Tensor, strength: Strength) -> Tensor:
    r"""Many isometry steps at once, returned as a new tensor: the simple form of :func:`flow_step_`.

    The penalty's gradient flow makes :math:`\sigma^2` logistic; over a total strength
    :math:`C = \sum_t lr_t \lambda` it is solved by :math:`W (I + \epsilon S)^{-1/2}`,
    :math:`\epsilon = 1 - e^{-8C}`. Its Padé(1,1) approximation needs one Cholesky factorisation:

    .. math:: W \leftarrow W - \tfrac{\epsilon}{2} W S (I + \tfrac{3 \epsilon}{4} S)^{-1}, \qquad
              \sigma \leftarrow \sigma \frac{1 + \epsilon u / 4}{1 + 3 \epsilon u / 4},
              \quad u = \sigma^2 - 1

    It is stable for every sigma and every strength, keeps the sign and the order of the singular
    values on each side of one, and equals C / c single steps up to second order.

    Args:
        matrix: shape (..., m, n).
        strength: C, the sum of lr * isometry over the steps, >= 0; a number or a 0-d tensor.

    Returns:
        Shape (..., m, n), the dtype of the input. Differentiable.

    Example:
        >>> flow_step(torch.diag(torch.tensor([0.5, 3.0])), 1e9).diagonal()  # any strength is stable
        tensor([0.9286, 1.2857])

    Reference:
        arXiv:2606.09762, Eq 17 and 20 (the penalty); the closed form is isoplast's, docs/adamo.md.
    """
    deviation = gram_deviation(matrix)
    with no_autocast(matrix.device):
        epsilon = _flow_epsilon(deviation, strength)[..., None, None]
        eye = torch.eye(deviation.shape[-1], dtype=deviation.dtype, device=deviation.device)
        factor = torch.linalg.solve(eye + 0.75 * epsilon * deviation, -0.5 * epsilon * deviation)
        return (matrix + times_small_side(matrix, factor)).to(matrix.dtype)


@torch.no_grad()
def flow_step_(matrix: Tensor, strength: Strength) -> Tensor:
    """:func:`flow_step` in place, in the memory of two Gram matrices or one Gram and one copy.

    Args:
        matrix: shape (..., m, n), changed in place.
        strength: C, the sum of lr * isometry over the steps, >= 0.

    Returns:
        The same tensor.

    Example:
        >>> w = torch.diag(torch.tensor([0.5, 3.0]))
        >>> flow_step_(w, 1e9) is w
        True
    """
    deviation = gram_deviation_in_strips(matrix)
    with no_autocast(matrix.device):
        return matrix.add_(times_small_side(matrix, _flow_factor(deviation, strength)))


def _flow_factor(deviation: Tensor, strength: Strength) -> Tensor:
    """-(eps/2) S (I + 3 eps S / 4)^-1, written over the deviation."""
    epsilon = _flow_epsilon(deviation, strength)[..., None, None]
    shifted = deviation * (0.75 * epsilon)
    shifted.diagonal(dim1=-2, dim2=-1).add_(1)
    # Row-major symmetric matrices are read as column-major ones, so that LAPACK works in place.
    lower = shifted.mT
    torch.linalg.cholesky_ex(lower, out=(lower, torch.empty(0, dtype=torch.int32, device=lower.device)))
    # X L^T = S, then X L = X: from the right, which took half of the time from the left at k = 512.
    factor = deviation.mul_(-0.5 * epsilon).mT
    torch.linalg.solve_triangular(lower.mT, factor, upper=True, left=False, out=factor)
    torch.linalg.solve_triangular(lower, factor, upper=False, left=False, out=factor)
    return factor


def _flow_epsilon(deviation: Tensor, strength: Strength) -> Tensor:
    """1 - exp(-8 C), reduced where I + 3 eps S / 4 could not be factorised.

    At the limit 3 eps u / 4 = 1e4 the largest singular value is divided by 3, as it would be
    without the limit; only the smaller ones move less than they could.
    """
    total = torch.as_tensor(strength, dtype=deviation.dtype, device=deviation.device)
    return torch.minimum(-torch.expm1(-8 * total), _WELL_CONDITIONED / 0.75 / _largest_deviation(deviation))


def _largest_deviation(deviation: Tensor) -> Tensor:
    """An upper bound of the largest |sigma^2 - 1|, shape (...), from norms already at hand."""
    if deviation.shape[-1] == 0:
        return deviation.new_zeros(deviation.shape[:-2])
    row_sum = torch.linalg.matrix_norm(deviation, ord=float("inf"))
    return torch.minimum(row_sum, torch.linalg.matrix_norm(deviation, ord="fro"))
