"""The steps of :mod:`isoplast.isometry` on JAX arrays: the same formulas, guards and precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from jax.typing import ArrayLike

# As in isoplast.isometry: the largest condition number of I + a S that a float32 Cholesky
# factorisation of a few thousand rows takes.
_WELL_CONDITIONED = 1e4
# TF32 and bfloat16 products would round the Gram as much as it differs from the identity.
_EXACT = jax.lax.Precision.HIGHEST


def isometry_step(matrix: Array, strength: ArrayLike) -> Array:
    r"""One gradient step on the isometry penalty.

    .. math:: W \leftarrow W - 4 c W S, \qquad S = W^T W - I \ \text{on the smaller side}

    Args:
        matrix: shape (..., m, n), floating.
        strength: c = lr * isometry, >= 0; a number or a 0-d array. It is shortened where the step would
            diverge, as in :func:`isoplast.isometry.isometry_step`.

    Returns:
        Shape (..., m, n), the dtype of the input.

    Example:
        >>> isometry_step(jnp.diag(jnp.array([1.0, 2.0])), 0.01).diagonal()
        Array([1.  , 1.76], dtype=float32)

    Reference:
        arXiv:2606.09762, Eq 20.
    """
    return (matrix + _euler_change(matrix, strength)).astype(matrix.dtype)


def flow_step(matrix: Array, strength: ArrayLike) -> Array:
    r"""Many isometry steps at once, in the closed form of :func:`isoplast.isometry.flow_step`.

    .. math:: W \leftarrow W - \tfrac{\epsilon}{2} W S (I + \tfrac{3 \epsilon}{4} S)^{-1}, \qquad
              \epsilon = 1 - e^{-8C}

    Args:
        matrix: shape (..., m, n), floating.
        strength: C, the sum of lr * isometry over the steps, >= 0; a number or a 0-d array.

    Returns:
        Shape (..., m, n), the dtype of the input. Any strength is stable.

    Example:
        >>> flow_step(jnp.diag(jnp.array([0.5, 3.0])), 1e9).diagonal().round(3)
        Array([0.929, 1.286], dtype=float32)
    """
    return (matrix + _flow_change(matrix, strength)).astype(matrix.dtype)


def _euler_change(matrix: Array, strength: ArrayLike) -> Array:
    """What the exact step adds, in the precision of the Gram."""
    work, deviation = _gram_deviation(matrix)
    bound = _largest_deviation(deviation)
    c = jnp.asarray(strength, dtype=deviation.dtype)
    c = jnp.where(c < 0.25, c, 0.125)
    # sigma (1 - 4c (sigma^2 - 1)) with 4c = 1 / (2 bound) keeps at least half of every sigma > 1.
    c = jnp.where(2 * c * bound > 1, 0.125 / bound, c)
    return _times_small_side(work, -4 * c[..., None, None] * deviation)


def _flow_change(matrix: Array, strength: ArrayLike) -> Array:
    """What the closed form adds, in the precision of the Gram."""
    work, deviation = _gram_deviation(matrix)
    total = jnp.asarray(strength, dtype=deviation.dtype)
    limit = _WELL_CONDITIONED / 0.75 / _largest_deviation(deviation)
    epsilon = jnp.minimum(-jnp.expm1(-8 * total), limit)[..., None, None]
    shifted = jnp.eye(deviation.shape[-1], dtype=deviation.dtype) + 0.75 * epsilon * deviation
    factor = cho_solve(cho_factor(shifted, lower=True), -0.5 * epsilon * deviation)
    return _times_small_side(work, factor)


def _gram_deviation(matrix: Array) -> tuple[Array, Array]:
    """The matrix in at least float32, and S on its smaller side."""
    work = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))
    small = work if work.shape[-2] <= work.shape[-1] else work.mT
    gram = jnp.matmul(small, small.mT, precision=_EXACT)
    return work, gram - jnp.eye(gram.shape[-1], dtype=gram.dtype)


def _times_small_side(work: Array, factor: Array) -> Array:
    if work.shape[-2] <= work.shape[-1]:
        return jnp.matmul(factor, work, precision=_EXACT)
    return jnp.matmul(work, factor, precision=_EXACT)


def _largest_deviation(deviation: Array) -> Array:
    """An upper bound of the largest |sigma^2 - 1|, shape (...)."""
    row_sum = jnp.abs(deviation).sum(-1).max(-1)
    return jnp.minimum(row_sum, jnp.sqrt(jnp.square(deviation).sum((-2, -1))))
