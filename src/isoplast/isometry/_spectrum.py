"""Singular values and what is said about them in one number."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from isoplast.isometry._precision import no_autocast, working


def svdvals(matrix: Tensor) -> Tensor:
    """What `torch.linalg.svdvals` gives, of matrices that are finite.

    LAPACK takes a wide matrix much longer than its transpose: 512 x 3072 takes 229 ms, 3072 x 512 53 ms.

    Args:
        matrix: shape (..., m, n), float32, float64 or complex; no entry is infinite or NaN.

    Returns:
        Shape (..., min(m, n)), descending. Differentiable.

    Example:
        >>> svdvals(torch.tensor([[0.0, 3.0, 4.0]]))
        tensor([5.])
    """
    wide = matrix.device.type == "cpu" and matrix.shape[-2] < matrix.shape[-1]
    found: Tensor = torch.linalg.svdvals(matrix.mT if wide else matrix)
    return found


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values, largest first.

    Args:
        matrix: shape (..., m, n), any floating dtype.

    Returns:
        Shape (..., min(m, n)), float32 for half-precision input. A matrix that holds a non-finite
        entry has NaN for all of them, never a number that looks healthy. Differentiable.

    Example:
        >>> singular_values(torch.diag(torch.tensor([3.0, 4.0])))
        tensor([4., 3.])
    """
    with no_autocast(matrix.device):
        w = working(matrix)
        finite = w.isfinite().all(-1).all(-1)[..., None]
        values = svdvals(torch.where(finite[..., None], w, 0.0))
        return torch.where(finite, values, torch.nan)


@dataclass(frozen=True)
class Spectrum:
    r"""A summary of the singular values of one matrix, or of a stack of them (every field (...)).

    Attributes:
        smallest: :math:`\sigma_{min}`.
        mean: the mean of the singular values.
        largest: :math:`\sigma_{max}`, the operator norm.
        std: their standard deviation (over all of them: divided by k, not k - 1).
        condition_number: :math:`\sigma_{max} / \sigma_{min}`, infinite for a rank-deficient matrix.
        effective_rank: see :func:`effective_rank`.
        effective_rank_energy: see :func:`effective_rank_energy`.
        stable_rank: see :func:`stable_rank`.
        distance_to_isometry: :math:`\sqrt{\sum_i (\sigma_i - 1)^2}`, the Frobenius distance to the
            nearest matrix with all singular values one.
    """

    smallest: Tensor
    mean: Tensor
    largest: Tensor
    std: Tensor
    condition_number: Tensor
    effective_rank: Tensor
    effective_rank_energy: Tensor
    stable_rank: Tensor
    distance_to_isometry: Tensor

    def as_dict(self) -> dict[str, float | list[float]]:
        """The fields as plain numbers, or nested lists of numbers for a stack of matrices."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}


def spectrum(matrix: Tensor) -> Spectrum:
    """Summarises the singular values of a matrix.

    Args:
        matrix: shape (..., m, n) with min(m, n) >= 1.

    Returns:
        A :class:`Spectrum` whose fields have shape (...); NaN for a matrix with non-finite entries.

    Raises:
        ValueError: for an empty matrix, which has no singular values.

    Example:
        >>> spectrum(torch.diag(torch.tensor([3.0, 4.0]))).condition_number
        tensor(1.3333)
    """
    if 0 in matrix.shape[-2:]:
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} has no singular values")
    values = singular_values(matrix)
    return Spectrum(
        smallest=values[..., -1],
        mean=values.mean(-1),
        largest=values[..., 0],
        std=values.std(-1, correction=0),
        condition_number=values[..., 0] / values[..., -1],
        effective_rank=effective_rank(values),
        effective_rank_energy=effective_rank_energy(values),
        stable_rank=stable_rank(values),
        distance_to_isometry=(values - 1).square().sum(-1).sqrt(),
    )


def effective_rank(values: Tensor, multiplicity: Tensor | None = None) -> Tensor:
    r"""The entropy rank of the singular values.

    .. math:: \exp\Bigl(-\sum_i m_i p_i \log p_i\Bigr), \qquad p_i = \sigma_i / \textstyle\sum_j m_j \sigma_j

    Args:
        values: singular values, shape (..., k), >= 0.
        multiplicity: how often each value counts, shape like the values, >= 0: the weights of a quadrature
            times the size of the matrix, say; None for once.

    Returns:
        Shape (...), between 1 and k; 0 if all values are zero.

    Example:
        >>> effective_rank(torch.tensor([1.0, 1.0, 0.0]))
        tensor(2.)

    Reference:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    ones = torch.ones_like(values) if multiplicity is None else multiplicity
    total = (ones * values).sum(-1, keepdim=True)
    rank = torch.exp((ones * torch.special.entr(_or_zero(values, total))).sum(-1))
    return torch.where(total[..., 0] == 0, 0.0, rank)


def effective_rank_energy(values: Tensor, multiplicity: Tensor | None = None) -> Tensor:
    r"""The entropy rank of the squared singular values, :math:`p_i = \sigma_i^2 / \sum_j \sigma_j^2`.

    The same name "effective rank" is used for both in the literature; this one weighs large
    singular values more and is never above :func:`effective_rank`.

    Args:
        values, multiplicity: as for :func:`effective_rank`.

    Returns:
        Shape (...), between 1 and k; 0 if all values are zero.

    Example:
        >>> effective_rank_energy(torch.tensor([2.0, 1.0]))  # p = (0.8, 0.2)
        tensor(1.6494)
    """
    return effective_rank(values.square(), multiplicity)


def stable_rank(values: Tensor) -> Tensor:
    r"""The stable rank :math:`\|W\|_F^2 / \sigma_{max}^2`, not to be confused with srank(0.99).

    Args:
        values: singular values, shape (..., k), >= 0.

    Returns:
        Shape (...), between 1 and k; 0 if all values are zero.

    Example:
        >>> stable_rank(torch.tensor([2.0, 1.0]))
        tensor(1.2500)

    Reference:
        Rudelson and Vershynin, "Sampling from large matrices", J. ACM 2007.
    """
    energy = values.square()
    return _or_zero(energy.sum(-1), energy.amax(-1))


def _or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, or zero where the denominator is zero."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))
