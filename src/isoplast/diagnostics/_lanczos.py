"""Eigenvalues, spectral densities and traces of a symmetric operator that is known by its products alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.isometry import effective_rank

Product = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A random estimate and its standard error (NaN from a single probe)."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class Ritz:
    """What Lanczos iterations found out about a symmetric operator.

    Attributes:
        values: float64 (probes, steps), descending: Ritz values, one row per starting vector.
        weights: like `values`; each row sums to one: the Gauss quadrature of the spectral density.
        residuals: like `values`: within this distance of each value lies an eigenvalue. Rounding of the
            products comes on top, about eps times the largest eigenvalue.
        size: number of rows of the operator.
    """

    values: Tensor
    weights: Tensor
    residuals: Tensor
    size: int

    @property
    def finite(self) -> bool:
        """Whether every product was finite; otherwise all values are NaN."""
        return bool(self.values.isfinite().all())

    @property
    def largest(self) -> Estimate:
        """The largest Ritz value, a lower bound of the largest eigenvalue, with its residual."""
        probe = int(self.values[:, 0].argmax())
        return Estimate(float(self.values[probe, 0]), float(self.residuals[probe, 0]))

    @property
    def smallest(self) -> Estimate:
        """The smallest Ritz value, an upper bound of the smallest eigenvalue, with its residual."""
        probe = int(self.values[:, -1].argmin())
        return Estimate(float(self.values[probe, -1]), float(self.residuals[probe, -1]))

    def trace_of(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        r"""Stochastic Lanczos quadrature of :math:`\operatorname{tr} f(A)`; for f(x) = x Hutchinson's trace.

        Args:
            function: f, from a tensor of eigenvalues to a tensor of the same shape.
        """
        # Directions without weight do not count, whatever the function makes of them (log 0, say).
        terms = torch.where(self.weights != 0, self.weights * function(self.values), 0.0)
        found = self.size * terms.sum(1)
        return Estimate(float(found.mean()), _standard_error(found))

    def effective_rank(self) -> float:
        """Estimate of the exponential of the entropy of the absolute eigenvalues over their sum."""
        counts = self.size * self.weights / len(self.values)
        return float(effective_rank(self.values.abs().flatten(), counts.flatten()))

    def density(self, points: Tensor, width: float) -> Tensor:
        """Spectral density, smoothed by Gaussians, at each of the points; it integrates to one.

        Args:
            points: where to evaluate it (any shape).
            width: standard deviation of the Gaussians, > 0, in units of the eigenvalues.
        """
        centres, weights = self.values.flatten(), self.weights.flatten() / len(self.values)
        distance = (points.double().unsqueeze(-1) - centres) / width
        return (weights * torch.exp(-0.5 * distance**2)).sum(-1) / (width * math.sqrt(2 * math.pi))


def lanczos(
    matvec: Product,
    size: int,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    probes: int = 1,
    rounding: float | None = None,
    until: Callable[[Tensor, Tensor], bool] | None = None,
) -> Ritz:
    r"""Ritz values and quadrature weights of a symmetric operator A.

    From a random unit vector q, k steps build an orthonormal basis Q of span(q, Aq, ..., A^(k-1) q) in
    which A is tridiagonal, :math:`T = Q^T A Q`. Eigenvalues of T are the Ritz values; the squared first
    entries of its eigenvectors are the weights of the Gauss quadrature for q's spectral measure; the last
    entries times the norm of the remainder are the residuals.

    Every new vector is orthogonalised against all the earlier ones, twice, so no eigenvalue appears as a
    ghost copy. Where the space closes (A q stays inside), the iteration goes on from a new random
    direction with weight zero: multiple eigenvalues are found, and `size` steps find the whole spectrum.

    Args:
        matvec: v (size,) to A v (size,), of the given dtype and device.
        size: rows of A, >= 1.
        steps: k, >= 1; more than `size` count as `size`. Memory: steps * size entries.
        generator: source of the starting vectors; None seeds a fresh one with 0.
        dtype: of the vectors. The coefficients are float64 whatever it is.
        device: of the vectors.
        probes: independent starting vectors, >= 1: one for extreme eigenvalues, several for densities
            and traces with an error.
        rounding: relative error of the products; None for that of `dtype`.
        until: stops the iteration of the single probe early; asked after every step for the Ritz values,
            descending, and their residuals so far.

    Returns:
        The Ritz values; all NaN where a product is not finite.

    Raises:
        IsoplastError: for a size, steps or probes below 1, and where the products show by more than
            rounding that A is not symmetric.

    Example:
        >>> found = lanczos(lambda v: torch.tensor([3.0, 2.0, 1.0]).double() * v, 3, steps=3)
        >>> [round(value, 6) for value in found.values[0].tolist()]
        [3.0, 2.0, 1.0]

    Reference:
        Golub and Van Loan, "Matrix computations", section 10.1; Ubaru, Chen and Saad, "Fast estimation
        of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal. Appl. 2017.
    """
    for name, value in (("size", size), ("steps", steps), ("probes", probes)):
        if value < 1:
            raise IsoplastError(f"lanczos with {name}={value}: it must be at least 1")
    source = _Source(size, generator, dtype, device)
    rounding = torch.finfo(dtype).eps if rounding is None else rounding
    if until is not None and probes != 1:
        raise IsoplastError(f"lanczos with probes={probes} and until: an early end is for one probe")
    rows = [_one_probe(matvec, min(steps, size), source, rounding, until) for _ in range(probes)]
    values, weights, residuals = (torch.stack(column) for column in zip(*rows, strict=True))
    return Ritz(values, weights, residuals, size)


@dataclasses.dataclass
class _Source:
    """Random vectors, the same on every device."""

    size: int
    generator: torch.Generator | None
    dtype: torch.dtype
    device: torch.device | str

    def __post_init__(self) -> None:
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(0)

    def normal(self) -> Tensor:
        assert self.generator is not None
        draw = torch.randn(
            self.size, dtype=self.dtype, generator=self.generator, device=self.generator.device
        )
        return draw.to(self.device)


def _one_probe(
    matvec: Product,
    steps: int,
    source: _Source,
    rounding: float,
    until: Callable[[Tensor, Tensor], bool] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, weights and residuals of one starting vector."""
    basis = torch.empty(steps, source.size, dtype=source.dtype, device=source.device)
    start = source.normal()
    basis[0] = start / start.norm()
    diagonal = torch.zeros(steps, dtype=torch.float64)
    beside = torch.zeros(steps, dtype=torch.float64)
    # Below this share of the operator's size a remainder is rounding.
    closed = 10 * torch.finfo(source.dtype).eps
    scale = 0.0
    for step in range(steps):
        vector = matvec(basis[step])
        diagonal[step] = (vector.double() * basis[step].double()).sum()
        scale = max(scale, float(torch.linalg.vector_norm(vector, dtype=torch.float64)))
        vector, along = _without(vector, basis[: step + 1])
        if step:
            _check_symmetry(along[:-1], float(beside[step - 1]), 10 * rounding**0.5 * scale)
        vector, _ = _without(vector, basis[: step + 1])
        beside[step] = vector.double().norm()
        if not torch.isfinite(diagonal[step] + beside[step]):
            nothing = torch.full((steps,), torch.nan, dtype=torch.float64)
            return nothing, nothing, nothing
        gone = beside[step] <= closed * diagonal.abs().max()
        if gone or step + 1 == source.size:
            beside[step] = 0.0
        if until is not None:
            values, _, residuals = _ritz(diagonal[: step + 1], beside[: step + 1])
            if until(values, residuals):
                steps = step + 1
        if step + 1 == steps:
            break
        if gone:
            vector = orthogonalized(source.normal(), basis[: step + 1])
        basis[step + 1] = vector / vector.norm()
    return _ritz(diagonal[:steps], beside[:steps])


def _ritz(diagonal: Tensor, beside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, weights and residuals of a tridiagonal matrix and the remainder of its last vector."""
    matrix = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
    values, vectors = torch.linalg.eigh(matrix)
    residuals = beside[-1] * vectors[-1].abs()
    return values.flip(0), (vectors[0] ** 2).flip(0), residuals.flip(0)


def _check_symmetry(along: Tensor, remainder: float, allowed: float) -> None:
    """Of a symmetric A, q_i^T A q_k = (A q_i)^T q_k is 0 for i < k - 1, and the last remainder for i = k - 1.

    Raises:
        IsoplastError: where it is not.
    """
    difference = along.double()
    difference[-1] -= remainder
    if float(difference.abs().max()) > allowed:
        raise IsoplastError(
            "the products are not those of a symmetric matrix: an operation of the model or of the loss has "
            "a backward pass that is not its derivative (a straight-through estimator, say)"
        )


def orthogonalized(vector: Tensor, basis: Tensor) -> Tensor:
    """Return the vector without its parts along the rows of an orthonormal basis.

    Batched over leading dimensions: vectors (..., size), bases (..., rows, size).
    """
    for _ in range(2):  # twice is enough for orthogonality to rounding
        vector, _ = _without(vector, basis)
    return vector


def _without(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `orthogonalized` does up to rounding, and the vector's parts along the rows."""
    along = (basis @ vector.unsqueeze(-1)).squeeze(-1)
    return vector - (along.unsqueeze(-2) @ basis).squeeze(-2), along


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
