"""Singular values of the derivative of a map at many points at once: all of them, or the extremes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast._core.text import text_table
from isoplast.diagnostics._lanczos import orthogonalized
from isoplast.diagnostics._linear import Linearised, NotTwice
from isoplast.diagnostics._result import Result, format_number
from isoplast.isometry import effective_rank, effective_rank_energy, svdvals
from isoplast.model import usable

Map = Callable[[Tensor], Tensor]
# Entries of derivatives in memory at a time: 64 MB in float32.
_CHUNK = 2**24
# A dense spectrum up to this many singular values (0.2 s per sample on one core) and entries (64 MB).
_DENSE_SIDE = 1024
_DENSE_ENTRIES = 2**23


@dataclasses.dataclass(frozen=True)
class JacobianSpectrum(Result):
    r"""Singular values :math:`\sigma` of the Jacobian of a map at n samples, k = min(d_in, d_out) each.

    Where a number speaks of all samples it is the mean over them, except as said.

    Attributes:
        shape: (d_out, d_in).
        singular_values: float64, descending: (n, k), or the extremes (n, 2) if not complete.
        complete: whether these are all. Else smallest and largest are found by iteration, and mean,
            mean_square, distance_to_isometry and the effective ranks are unbiased up to convergence: random
            estimates from one vector per sample.
        largest_error, smallest_error: bounds on the distance of the extremes from a singular value; 0 where
            computed exactly. The smallest converges slowly.
        smallest, mean, largest: of all singular values of all samples.
        mean_square: mean of sigma^2.
        condition_number: median over the samples of largest / smallest; infinite where the smallest is
            not above rounding (max(d_in, d_out) eps of the largest).
        rank: singular values above rounding; NaN if not complete.
        distance_to_isometry: :math:`\sqrt{\sum (\sigma - 1)^2}`, to the nearest isometry.
        effective_rank: entropy rank of sigma.
        effective_rank_energy: entropy rank of sigma^2.
        finite: whether every derivative and every output is; otherwise values of the samples concerned are
            NaN, and so is everything said about all of them.
    """

    shape: tuple[int, int]
    singular_values: Tensor
    complete: bool
    largest_error: float
    smallest_error: float
    smallest: float
    mean: float
    largest: float
    mean_square: float
    condition_number: float
    rank: float
    distance_to_isometry: float
    effective_rank: float
    effective_rank_energy: float
    finite: bool

    def unknown(self) -> JacobianSpectrum:
        """The same with NaN for every number: of a network some of whose weights are none."""
        nothing = torch.full_like(self.singular_values, torch.nan)
        nans: dict[str, Any] = dict.fromkeys(NUMBERS, math.nan)
        return dataclasses.replace(self, singular_values=nothing, finite=False, **nans)

    def as_dict(self) -> dict[str, float]:
        """Return every number under a name of its own."""
        return {name: float(getattr(self, name)) for name in NUMBERS}

    def __str__(self) -> str:
        return text_table(
            ("", "value"), [(name, format_number(value)) for name, value in self.as_dict().items()]
        )


NUMBERS = tuple(
    field.name
    for field in dataclasses.fields(JacobianSpectrum)
    if field.name not in ("shape", "singular_values", "complete", "finite")
)


class Disconnected(IsoplastError):
    """A map whose outputs depend on its inputs by no gradient."""


def spectrum(function: Map, points: Tensor, *, exact: bool | None, steps: int) -> JacobianSpectrum:
    """Return the spectrum of the derivative of a map at each of n points.

    Args:
        function: (n, ...) to (n, ...), every sample by itself.
        points: (n, ...), floating.
        exact: True for all singular values, False for the extremes, None for what the size suggests.
        steps: most iterations for the extremes.

    Raises:
        Disconnected: where no gradient leads from the outputs to the points; in one line.
        NotTwice: for the extremes of a map without a second derivative.
    """
    one = _linearised(function, points[:1])
    if not one.connected:
        raise Disconnected(
            "no gradient leads from the outputs to the inputs (tokens given as numbers, features taken under "
            "no_grad, detached tensors): measure the part of the model behind that"
        )
    shape = (one.values.numel(), points[0].numel())
    side = min(shape)
    if exact or (exact is None and side <= _DENSE_SIDE and math.prod(shape) <= _DENSE_ENTRIES):
        step = max(1, _CHUNK // math.prod(shape))
        found = [_dense(_linearised(function, points[i : i + step])) for i in range(0, len(points), step)]
        values = torch.cat(found)
        weights, residuals = torch.ones_like(values), torch.zeros_like(values)
    else:
        values, weights, residuals = _extremes(_linearised(function, points), min(steps, side))
    complete = values.shape[1] == side
    if complete:
        weights = torch.full_like(values, 1.0 / side)
    return _summary(shape, values, weights, residuals, complete, torch.finfo(points.dtype).eps)


def _summary(
    shape: tuple[int, int], values: Tensor, weights: Tensor, residuals: Tensor, complete: bool, eps: float
) -> JacobianSpectrum:
    side = min(shape)

    def total(function: Map) -> Tensor:
        return side * torch.where(weights > 0, weights * function(values), 0.0).sum(1)

    first, square = total(lambda v: v), total(torch.square)
    largest, smallest = values[:, 0], values[:, -1]
    floor = max(shape) * eps * largest
    conditions = torch.where(smallest > floor, largest / smallest, torch.inf)

    finite = bool(values.isfinite().all())
    return JacobianSpectrum(
        shape=shape,
        singular_values=values if complete else values[:, [0, -1]],
        complete=complete,
        largest_error=float(residuals[:, 0].max()),
        smallest_error=float(residuals[:, -1].max()),
        smallest=float(smallest.min()),
        mean=float(first.mean()) / side,
        largest=float(largest.max()),
        mean_square=float(square.mean()) / side,
        condition_number=float(conditions.median()) if finite else math.nan,
        rank=float((values > floor.unsqueeze(1)).sum(1).double().mean()) if complete and finite else math.nan,
        distance_to_isometry=float(total(lambda v: (v - 1).square()).sqrt().mean()),
        effective_rank=float(effective_rank(values, side * weights).mean()),
        effective_rank_energy=float(effective_rank_energy(values, side * weights).mean()),
        finite=finite,
    )


def _linearised(function: Map, points: Tensor) -> Linearised:
    with torch.enable_grad():
        at = usable(points).requires_grad_()
        return Linearised(function(at.clone()), [at])  # the copy may be overwritten in place


def _sizes(map_: Linearised) -> tuple[int, int, int]:
    """Samples, outputs and inputs of each."""
    return len(map_.values), map_.values[0].numel(), map_.at[0][0].numel()


def _dense(map_: Linearised) -> Tensor:
    """Return all singular values (n, k) in float64, through the smaller side of the matrices."""
    n, d_out, d_in = _sizes(map_)
    # Rows or columns in flight: each carries a copy of the whole batch through the map.
    chunk = max(1, _CHUNK // (4 * n * max(d_out, d_in)))
    if d_out > d_in:
        try:
            columns = torch.cat(list(map_.columns(_units(map_.at[0]), chunk)))
            return _svdvals(map_.values, columns.reshape(d_in, n, d_out).movedim(0, 2))
        except NotTwice:
            pass  # the rows need one derivative
    rows = torch.cat(list(map_.rows(_units(map_.values), chunk)))
    return _svdvals(map_.values, rows.reshape(d_out, n, d_in).movedim(0, 1))


def _units(like: Tensor) -> Iterator[Tensor]:
    """Yield every unit vector of a sample, for all samples at once: they do not see each other."""
    for index in range(like[0].numel()):
        unit = torch.zeros_like(like, requires_grad=False).reshape(len(like), -1)
        unit[:, index] = 1.0
        yield unit.view_as(like)


def _sound(outputs: Tensor) -> Tensor:
    """Whether the outputs of each sample are finite: the derivative of a ReLU is a number even at NaN."""
    return outputs.detach().reshape(len(outputs), -1).isfinite().all(1)


def _svdvals(outputs: Tensor, matrices: Tensor) -> Tensor:
    """Return singular values in float64; NaN for samples where anything is not finite."""
    sound = matrices.isfinite().flatten(1).all(1) & _sound(outputs)
    values = svdvals(torch.where(sound[:, None, None], matrices, 0.0).double())
    return torch.where(sound[:, None], values, torch.nan)


def _extremes(map_: Linearised, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return singular values, quadrature weights and residuals (n, steps) by bidiagonalisation."""
    (points,), (n, d_out, d_in) = map_.at, _sizes(map_)

    def backward(rows: Tensor) -> Tensor:
        return map_.pull(rows.reshape(map_.values.shape))[0].reshape(n, -1)

    def forward(rows: Tensor) -> Tensor:
        return map_.push([rows.reshape(points.shape)]).reshape(n, -1)

    # Begin on the smaller side: there `steps` vectors may fill the whole space.
    operators = (backward, forward) if d_out <= d_in else (forward, backward)
    sizes = (n, min(d_out, d_in), max(d_out, d_in))
    values, weights, residuals = _bidiagonal(*operators, sizes, steps, points.detach())
    return torch.where(_sound(map_.values)[:, None], values, torch.nan), weights, residuals


def _bidiagonal(
    widen: Map, narrow: Map, sizes: tuple[int, int, int], steps: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Golub-Kahan bidiagonalisation of n operators at once, with full reorthogonalisation.

    From random u_1 on the smaller side: alpha_j v_j = A^T u_j - beta_j v_(j-1) and
    beta_(j+1) u_(j+1) = A v_j - alpha_j u_j. Unlike Lanczos on A A^T it resolves singular values down to
    eps, not its root, of the largest. Where the space closes a coefficient is zero and a random
    direction goes on.

    Reference:
        Golub and Kahan, "Calculating the singular values and pseudo-inverse of a matrix", 1965.
    """
    n, small, large = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(size: int) -> Tensor:
        return torch.randn(n, size, dtype=like.dtype, generator=generator).to(like.device)

    closed = 10 * torch.finfo(like.dtype).eps
    scale = torch.zeros(n, dtype=torch.float64, device=like.device)

    def unit(vector: Tensor, basis: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the vector orthogonal to the basis, normed, and its length: 0 if nothing was left."""
        nonlocal scale
        vector = orthogonalized(vector, basis)
        length = torch.linalg.vector_norm(vector, dim=1, dtype=torch.float64)
        scale = torch.maximum(scale, length)
        gone = length <= closed * scale
        if bool(gone.any()):
            vector = torch.where(gone[:, None], orthogonalized(normal(size), basis), vector)
            length = torch.where(gone, 0.0, length)
        return vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True), length

    left = like.new_zeros(n, steps, small)
    right = like.new_zeros(n, steps, large)
    matrix = torch.zeros(n, steps, steps, dtype=torch.float64, device=like.device)
    left[:, 0], _ = unit(normal(small), left[:, :0], small)
    scale.zero_()
    for step in range(steps):
        vector = widen(left[:, step])
        right[:, step], matrix[:, step, step] = unit(vector, right[:, :step], large)
        vector = narrow(right[:, step])
        if step + 1 < steps:
            left[:, step + 1], matrix[:, step + 1, step] = unit(vector, left[:, : step + 1], small)
    rest = orthogonalized(vector, left) if steps < small else torch.zeros_like(vector)
    remainder = torch.linalg.vector_norm(rest, dim=1, dtype=torch.float64)
    sound = matrix.isfinite().flatten(1).all(1)
    u, values, v = torch.linalg.svd(torch.where(sound[:, None, None], matrix, 0.0))
    nan = torch.where(sound, 0.0, torch.nan)[:, None]
    return values + nan, u[:, 0] ** 2 + nan, remainder[:, None] * v[:, :, -1].abs() + nan
