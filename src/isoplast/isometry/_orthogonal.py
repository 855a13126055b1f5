"""The nearest isometry, exactly and by iteration, and the largest singular value by iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from isoplast.isometry._gram import times_small_side
from isoplast.isometry._precision import no_autocast, working


def polar_factor(matrix: Tensor) -> Tensor:
    r"""The nearest matrix with all singular values one.

    .. math:: Q = U V^T \ \text{for} \ W = U \Sigma V^T, \qquad
              Q = \arg\min_{Q^T Q = I} \|W - Q\|_F

    (:math:`Q Q^T = I` for a wide W). A rank-deficient W has many nearest ones; this returns one of
    them, so zero matrices and dead directions come out orthonormal too.

    Args:
        matrix: shape (..., m, n).

    Returns:
        Shape (..., m, n), the dtype of the input.

    Raises:
        ValueError: if an entry is not finite.

    Example:
        >>> polar_factor(torch.diag(torch.tensor([3.0, 0.1])))
        tensor([[1., 0.],
                [0., 1.]])

    Reference:
        Higham, "Computing the polar decomposition", 1986.
    """
    if not bool(matrix.isfinite().all()):
        raise ValueError("the polar factor of a matrix with non-finite entries does not exist")
    with no_autocast(matrix.device):
        u, _, vh = torch.linalg.svd(working(matrix), full_matrices=False)
        factor: Tensor = u @ vh
        return factor.to(matrix.dtype)


def newton_schulz(matrix: Tensor, steps: int = 7, scale: Tensor | float | None = None) -> Tensor:
    r"""Orthogonalises by the Newton-Schulz iteration.

    .. math:: X_0 = W / s, \qquad X_{j+1} = \tfrac32 X_j - \tfrac12 X_j X_j^T X_j

    A singular value starts at :math:`\sigma / s` and converges to one from anywhere in
    (0, :math:`\sqrt 3`); it grows by 3/2 per step while small, so 7 steps bring 0.1 to 0.966 and
    0.2 to 0.99997, and what starts at zero stays there.

    Args:
        matrix: shape (..., m, n).
        steps: number of iterations, >= 0.
        scale: s, shape (...) or a number, at least :math:`\sigma_{max} / \sqrt 3`; by default the
            Frobenius norm, which is always enough but slow for matrices of high rank.

    Returns:
        Shape (..., m, n), the dtype of the input. Differentiable. A zero matrix stays zero.

    Example:
        >>> newton_schulz(torch.diag(torch.tensor([2.0, 1.0])), scale=2.0).diagonal()
        tensor([1.0000, 1.0000])

    Reference:
        Björck and Bowie 1971; Anil et al. 2019; arXiv:2606.09762, Appendix B.1 (7 iterations).
    """
    with no_autocast(matrix.device):
        x = working(matrix)
        if scale is None:
            scale = torch.linalg.matrix_norm(x)[..., None, None]
        elif isinstance(scale, Tensor):
            scale = scale[..., None, None]
        x = x / (scale + torch.finfo(x.dtype).tiny)
        wide = x.shape[-2] <= x.shape[-1]
        for _ in range(steps):
            gram = x @ x.mT if wide else x.mT @ x
            x = 1.5 * x - times_small_side(x, 0.5 * gram)
        return x.to(matrix.dtype)


@torch.no_grad()
def power_iteration(matrix: Tensor, vector: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
    r"""Improves an estimate of the largest singular value and its right singular vector.

    .. math:: u = W v / \|W v\|, \quad v \leftarrow W^T u / \|W^T u\|, \quad
              \hat\sigma = \|W^T u\| \le \sigma_{max}

    Args:
        matrix: shape (..., m, n).
        vector: shape (..., n), not zero; keep it between calls.
        steps: number of iterations, >= 1.

    Returns:
        The estimate, shape (...), never above the true value, and the new unit vector, shape (..., n).

    Example:
        >>> sigma, v = power_iteration(torch.diag(torch.tensor([3.0, 1.0])), torch.ones(2), steps=20)
        >>> sigma
        tensor(3.)

    Reference:
        Golub and Van Loan, "Matrix computations", section 8.2.
    """
    with no_autocast(matrix.device):
        w = working(matrix)
        v = working(vector)
        sigma = v.new_zeros(v.shape[:-1])
        tiny = torch.finfo(w.dtype).tiny
        for _ in range(steps):
            u = torch.einsum("...mn,...n->...m", w, v)
            u = u / (torch.linalg.vector_norm(u, dim=-1, keepdim=True) + tiny)
            v = torch.einsum("...mn,...m->...n", w, u)
            sigma = torch.linalg.vector_norm(v, dim=-1)
            v = v / (sigma[..., None] + tiny)
        return sigma, v.to(vector.dtype)
