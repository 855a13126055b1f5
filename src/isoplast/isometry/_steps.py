"""The isometry step of AdamO, and the closed form of many of them at once.

Both keep the singular vectors and move the singular values towards one. They are written in
residual form, W <- W + (small correction): W <- W ((1 + 4c) I - 4c G) would round W anew in every
step, and under TF32 or bfloat16 that rounding is as large as the correction itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from isoplast.isometry._gram import gram_deviation, gram_deviation_in_strips, times_small_side
from isoplast.isometry._precision import no_autocast, scalar
from isoplast.isometry._products import add_product_, rough_square, takes_bfloat16

Strength = float | Tensor

# The largest condition number of I + a S that a float32 Cholesky factorisation of a few thousand
# rows takes without losing positive definiteness: rounding moves its eigenvalues, which are at
# least 1/4, by about sqrt(k) * 6e-8 * 1e4 = 0.04 for k = 4096.
_WELL_CONDITIONED = 1e4

# What a product of bfloat16 numbers with a bfloat16 result is off by, in the Frobenius norm: three roundings
# of 2^-9 at most make 0.0034.
_ROUGH = 0.005
# Below, there is nothing to save.
_POLYNOMIAL_FROM = 32
_ALONE_FROM = 128


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
        deviation, fits = _finite(deviation)
        bound = _largest_deviation(deviation)
        step = torch.where(fits, deviation * _euler_scale(bound, strength), _half(deviation))
        return (matrix + times_small_side(matrix, step)).to(matrix.dtype)


@torch.no_grad()
def isometry_step_(
    matrix: Tensor, strength: Strength, *, on_guard: Callable[[], object] | None = None
) -> Tensor:
    """:func:`isometry_step` in place.

    Needs one Gram matrix and one copy of the matrix beside it. The product never has its operand
    as output: in-place ``addmm`` on an own operand is silently wrong from about 130 x 70 on.

    Args:
        matrix: shape (..., m, n), changed in place.
        strength: c = lr * isometry, >= 0.
        on_guard: called where the guard shortened the step of a matrix on a CPU (elsewhere the host
            would have to wait for the device to know).

    Returns:
        The same tensor.
    """
    if _goes_one_by_one(matrix):
        for part in matrix:
            isometry_step_(part, strength, on_guard=on_guard)
        return matrix
    deviation = gram_deviation_in_strips(matrix)
    with no_autocast(matrix.device):
        if _is_read_freely(deviation, strength):
            factor = _euler_factor_on_host(deviation, float(strength), on_guard)
        else:
            bound = _largest_deviation(deviation)
            factor = deviation.mul_(_euler_scale(bound, strength))
            _halve_overflowed_(factor, bound)
        return add_product_(matrix, factor)


def _euler_factor_on_host(
    deviation: Tensor, strength: float, on_guard: Callable[[], object] | None
) -> Tensor:
    """-4 c S, written over the deviation. The bounds are numbers here, and the dearer one rarely needed."""
    c = strength if strength < 0.25 else 0.125
    norm = _frobenius(deviation)
    if c == strength and 2 * c * norm <= 1:
        return deviation.mul_(-4 * c)
    bound = _largest_deviation(deviation)
    shortened = 2 * c * float(bound.max())
    if on_guard is not None and (c != strength or not shortened <= 1):
        on_guard()
    deviation.mul_(_euler_scale(bound, strength))
    if not shortened < math.inf:
        _halve_overflowed_(deviation, bound)
    return deviation


def _euler_scale(bound: Tensor, strength: Strength) -> Tensor:
    """-4 c, shape (..., 1, 1), with c shortened where the step would diverge."""
    c = scalar(strength, bound)
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
        deviation, fits = _finite(deviation)
        bound = _largest_deviation(deviation)
        epsilon = _flow_epsilon(bound, strength)[..., None, None]
        eye = torch.eye(deviation.shape[-1], dtype=deviation.dtype, device=deviation.device)
        factor = torch.linalg.solve(eye + 0.75 * epsilon * deviation, -0.5 * epsilon * deviation)
        step = torch.where(fits, factor, _half(deviation))
        return (matrix + times_small_side(matrix, step)).to(matrix.dtype)


@torch.no_grad()
def flow_step_(matrix: Tensor, strength: Strength, *, tolerance: float = 0.0) -> Tensor:
    r""":func:`flow_step` in place, in the memory of two Gram matrices or one Gram and one copy.

    Where a bound x on :math:`\epsilon |u|` is small, a polynomial replaces the factorisation: with
    :math:`\beta = 0.75 / (1 + 0.75 x)`

    .. math:: \sigma \leftarrow \sigma - \tfrac{\epsilon}{2} \sigma u (1 - \beta \epsilon u)

    is the closed form at :math:`\epsilon u = 0` and x, and moves every singular value by the same
    amount up to a relative error of :math:`0.14 x^2` above one. It needs one product more, where a
    factorisation and two triangular solutions took three times as long.

    Args:
        matrix: shape (..., m, n), changed in place.
        strength: C, the sum of lr * isometry over the steps, >= 0.
        tolerance: the relative error of the move that is allowed, >= 0. A matrix on a CPU takes the
            polynomial where it is within; elsewhere the host would have to wait to know the bound. From
            0.005 on a large one may be moved by a product in bfloat16, summed in float32.

    Returns:
        The same tensor.

    Example:
        >>> w = torch.diag(torch.tensor([0.5, 3.0]))
        >>> flow_step_(w, 1e9) is w
        True
    """
    if _goes_one_by_one(matrix):
        for part in matrix:
            flow_step_(part, strength, tolerance=tolerance)
        return matrix
    deviation = gram_deviation_in_strips(matrix)
    with no_autocast(matrix.device):
        rough = tolerance > _ROUGH and takes_bfloat16(deviation)
        factor = None
        if tolerance > 0 and _is_worth_a_polynomial(deviation) and _is_read_freely(deviation, strength):
            factor = _flow_polynomial(deviation, float(strength), tolerance - _ROUGH * rough)
        if factor is None:
            bound = _largest_deviation(deviation)
            factor = _flow_factor(deviation, _flow_epsilon(bound, strength))
            if not (_is_read_freely(deviation, strength) and float(bound.max()) < math.inf):
                _halve_overflowed_(factor, bound)
        return add_product_(matrix, factor, rough=rough)


def _flow_polynomial(deviation: Tensor, strength: float, tolerance: float) -> Tensor | None:
    """-(eps/2) (S - beta eps S^2), written over the deviation; None where that may be too far off.

    (1 - beta y) (1 + 3y/4) - 1 = 3/4 beta y (x - y) is its relative error at y = eps u; y is in [0, x] for
    sigma > 1 and in [-min(eps, x), 0] for sigma < 1.
    """
    epsilon = -math.expm1(-8 * strength)
    x = epsilon * _frobenius(deviation)
    # The Frobenius norm may be 20 times the spectral one; what the square tells is much closer.
    if not 0.14 * (x / 20) ** 2 <= tolerance:
        return None
    square = rough_square(deviation)
    x = min(x, 1.01 * epsilon * math.sqrt(_frobenius(square)))  # the square may be rounded to 8 bits
    below = min(epsilon, x)
    if max(0.14 * x**2, 0.57 * below * (x + below)) > tolerance:
        return None
    beta = 0.75 / (1 + 0.75 * x)
    return deviation.mul_(-0.5 * epsilon).add_(square, alpha=0.5 * epsilon**2 * beta)


def _flow_factor(deviation: Tensor, epsilon: Tensor) -> Tensor:
    """-(eps/2) S (I + 3 eps S / 4)^-1, written over the deviation."""
    epsilon = epsilon[..., None, None]
    shifted = deviation * (0.75 * epsilon)
    shifted.diagonal(dim1=-2, dim2=-1).add_(1)
    # Row-major symmetric matrices are read as column-major ones, so that LAPACK works in place.
    lower = shifted.mT
    torch.linalg.cholesky_ex(lower, out=(lower, torch.empty(0, dtype=torch.int32, device=lower.device)))
    # X L^T = S, then X L = X: from the right, which took half of the time from the left at k = 512.
    factor = deviation.mul_(-0.5 * epsilon).mT
    torch.linalg.solve_triangular(lower.mT, factor, upper=True, left=False, out=factor)
    torch.linalg.solve_triangular(lower, factor, upper=False, left=False, out=factor)
    return factor.mT  # symmetric, and row-major again


def _flow_epsilon(bound: Tensor, strength: Strength) -> Tensor:
    """1 - exp(-8 C), reduced where I + 3 eps S / 4 could not be factorised.

    At the limit 3 eps u / 4 = 1e4 the largest singular value is divided by 3, as it would be
    without the limit; only the smaller ones move less than they could.
    """
    return torch.minimum(-torch.expm1(-8 * scalar(strength, bound)), _WELL_CONDITIONED / 0.75 / bound)


def _goes_one_by_one(matrix: Tensor) -> bool:
    """Whether a stack holds matrices so large that a CPU does better with one after the other."""
    return matrix.ndim > 2 and matrix.device.type == "cpu" and min(matrix.shape[-2:]) >= _ALONE_FROM


def _is_worth_a_polynomial(deviation: Tensor) -> bool:
    """Not of a stack: one bound for all of its matrices would let each decide for the others."""
    return deviation.ndim == 2 and deviation.shape[-1] >= _POLYNOMIAL_FROM


def _is_read_freely(tensor: Tensor, strength: Strength) -> bool:
    """Whether the host may look at values: on a CPU it need not wait for them."""
    here = tensor.device.type == "cpu" and type(tensor.data) is Tensor and tensor.numel() > 0
    return here and not (isinstance(strength, Tensor) and strength.device.type != "cpu")


def _frobenius(deviation: Tensor) -> float:
    """The largest Frobenius norm, over the matrices of a batch."""
    norms = torch.linalg.vector_norm(deviation, dim=(-2, -1)) if deviation.ndim > 2 else deviation.norm()
    return float(norms.max())


def _largest_deviation(deviation: Tensor) -> Tensor:
    """An upper bound >= 1 of the largest |sigma^2 - 1|, shape (...), from norms already at hand.

    No limit that it is for is reached below 1, and no gradient comes from a division by zero.
    """
    if deviation.shape[-1] == 0:
        return deviation.new_ones(deviation.shape[:-2])
    row_sum = torch.linalg.matrix_norm(deviation, ord=float("inf"))
    return torch.minimum(row_sum, torch.linalg.matrix_norm(deviation, ord="fro")).clamp_min(1)


# A float32 Gram matrix overflows from sigma = 1.8e19 on. Singular values below 6e-8 of the largest are
# rounding there, so every one that means anything is far above 1: such a matrix is halved.


def _finite(deviation: Tensor) -> tuple[Tensor, Tensor]:
    """The deviation with zeros where it is not finite, so that every gradient is, and where it was."""
    fits = _largest_deviation(deviation.detach()).isfinite()[..., None, None]
    return torch.where(fits, deviation, 0), fits


def _half(like: Tensor) -> Tensor:
    return -0.5 * torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _halve_overflowed_(factor: Tensor, bound: Tensor) -> None:
    """Puts -I / 2 in place of a factor whose deviation was not finite."""
    lost = ~bound.isfinite()[..., None]
    factor.masked_fill_(lost[..., None], 0.0)
    factor.diagonal(dim1=-2, dim2=-1).sub_(0.5 * lost)
