r"""The differentiable map from a raw weight to its orthogonal factor, forward and backward by hand.

Newton-Schulz iterations :math:`X \leftarrow h(X X^T) X` on the wide side, from X = W / s, in two programs:

* Far from isometry, and always on an accelerator (no number has to reach the host): a fixed number of cubic
  steps, each with its best scale. With all singular values in [l, 1],

  .. math:: h(G) = \tfrac32 \mu - \tfrac12 \mu^3 G, \qquad \mu^2 = 3 / (1 + l + l^2)

  maps them into [l', 1] with the largest possible l'. (The plain iteration, mu = 1, needs 12 steps where
  this needs 7.) l is known in advance, so the coefficients are plain numbers.

* Close to isometry, where a training loop stays: quintic steps :math:`h(G) = (15 - 10 G + 3 G^2) / 8` until
  the next one would change nothing, mostly one. e = G - I shrinks to 5/8 e^3 in three products; the cubic
  step takes two for 3/4 e^2.

The scale s is rigorous in both: with r the root mean square of the singular values and d = |G/r^2 - I|_F,
the largest singular value is at most r (1 + d)^(1/2). All of it comes out of the Gram matrix that the first
step needs anyway. The paper takes one power iteration instead: a lower bound, which after a jump of the
weights (a reset, a checkpoint) can be too low for the iteration to converge.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from isoplast.isometry import no_autocast, working

# The condition number of the raw weight up to which the fixed program is tuned.
_CONDITION = 10.0
# Largest |G/r^2 - I|_F for the quintic steps: with it r (1 + d)^(1/2) / 2^(1/2) scales into their basin, and
# from a condition number of 10 they arrive within 7 steps (1.875^6 * 0.07 > 1).
_NEAR = 3.0
# The last quintic step is the one that starts from |e| <= ...: it leaves singular values 5/16 |e|^3 off one.
_LAST = {torch.float32: 0.14, torch.float64: 5e-5}

_QUINTIC = (15 / 8, -10 / 8, 3 / 8)


def cubic_program(rows: int, iterations: int) -> tuple[tuple[float, float], ...]:
    """Return (a, b) of h(G) = a + b G for every step of the fixed program.

    Args:
        rows: the smaller side k of the matrix. The scale may be k^(1/4) times too large.
        iterations: how many, >= 1.

    Returns:
        One pair per step. After 7, singular values are within 2e-6 of one for a condition number of 10
        and 512 rows, within 2e-4 for 4096 and 1e-3 for 8192 rows.
    """
    lowest = rows**-0.25 / _CONDITION
    pairs = []
    for _ in range(iterations):
        mu = (3.0 / (1.0 + lowest + lowest**2)) ** 0.5
        a, b = 1.5 * mu, -0.5 * mu**3
        pairs.append((a, b))
        lowest = a * lowest + b * lowest**3
    return tuple(pairs)


@dataclasses.dataclass(frozen=True)
class Step:
    """X <- h X with h = c0 + c1 G + c2 G^2 and G = X X^T."""

    x: Tensor
    gram: Tensor
    h: Tensor
    c1: float
    c2: float


@dataclasses.dataclass(frozen=True)
class Iterates:
    """What the backward pass needs, and the raw weight's scale.

    Attributes:
        tall: whether the matrix was transposed.
        scale: X = W / scale at the start.
        rms: root mean square of the singular values of W.
        steps: the steps in order.
    """

    tall: bool
    scale: Tensor
    rms: Tensor
    steps: list[Step]

    def raw(self) -> Tensor:
        """Return the weight that was orthogonalised."""
        weight = self.steps[0].x * self.scale
        return weight.mT if self.tall else weight


def orthogonal_factor(weight: Tensor, iterations: int) -> Tensor:
    """Return the orthogonal factor of a matrix by the fixed program, differentiated by autograd.

    Args:
        weight: shape (m, n), any floating dtype; computed in float32 for half precision.
        iterations: number of steps, >= 1.

    Returns:
        The factor in the dtype and shape of the weight. What lies in the null space of the weight
        stays there: a zero matrix comes out zero.
    """
    with no_autocast(weight.device):
        w = working(weight)
        x = w.mT if _is_tall(w) else w
        start = _Start.of(x.detach())
        x = x / start.far_scale()
        for a, b in cubic_program(x.shape[0], iterations):
            x = a * x + b * (x @ x.mT @ x)
        return (x.mT if _is_tall(w) else x).to(weight.dtype)


@torch.no_grad()
def orthogonalize(weight: Tensor, iterations: int, *, keep: bool) -> tuple[Tensor, Iterates | None]:
    """Return the orthogonal factor of a matrix without a graph and, if `keep`, how it came about.

    Args:
        weight: shape (m, n), any floating dtype; computed in float32 for half precision.
        iterations: number of steps of the fixed program, the most for the other.
        keep: whether to return the iterates: three matrices a step.
    """
    with no_autocast(weight.device):
        w = working(weight)
        start = _Start.of(w.mT if _is_tall(w) else w)
        near = w.device.type == "cpu" and float(start.deviation) <= _NEAR
        scale = start.near_scale() if near else start.far_scale()
        x = start.matrix / scale
        gram = start.gram * (start.rms / scale).square()
        x, steps = _quintic(x, gram, iterations) if near else _cubic(x, gram, iterations)
        factor = (x.mT.contiguous() if _is_tall(w) else x).to(weight.dtype)
        return factor, Iterates(_is_tall(w), scale, start.rms, steps) if keep else None


def pull_back(gradient: Tensor, iterates: Iterates) -> Tensor:
    r"""Return the gradient with respect to the weight, given the one with respect to its factor.

    For :math:`Y = h(G) X, \ G = X X^T`, the gradient E of Y and :math:`S = E X^T + X E^T`, that of X is

    .. math:: h E + [c_1 S + c_2 (S G + G S)] X

    three products for a cubic and four for a quintic step, where autograd takes four and six. The scale
    counts as a constant: beyond the error of the iteration the factor does not depend on it.
    """
    with no_autocast(gradient.device):
        e = working(gradient)
        e = e.mT if iterates.tall else e
        for step in reversed(iterates.steps):
            s = e @ step.x.mT
            s = s + s.mT
            through_gram = s * step.c1
            if step.c2:
                product = s @ step.gram
                through_gram.add_(product, alpha=step.c2).add_(product.mT, alpha=step.c2)
            e = torch.addmm(step.h @ e, through_gram, step.x)
        e = e / iterates.scale
        return (e.mT if iterates.tall else e).to(gradient.dtype)


class AttachFactor(torch.autograd.Function):
    """(weight, its factor, iterates) -> the factor as a function of the weight.

    The iterates hang on the node as a plain attribute, not as saved tensors: autograd frees those after
    the first backward, while here every micro-batch of an accumulated gradient needs them again.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor, iterates: Iterates, iterations: int) -> Tensor:
        """Return the factor, attached to the weight."""
        ctx.weight = weight
        ctx.iterates = iterates
        ctx.iterations = iterations
        return factor.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the weight; through autograd if it is to be differentiated again."""
        if not torch.is_grad_enabled():
            return pull_back(gradient, ctx.iterates), None, None, None
        factor = orthogonal_factor(ctx.weight, ctx.iterations)
        (again,) = torch.autograd.grad(factor, ctx.weight, gradient, create_graph=True)
        return again, None, None, None


def _is_tall(weight: Tensor) -> bool:
    return weight.shape[-2] > weight.shape[-1]


@dataclasses.dataclass(frozen=True)
class _Start:
    """A wide matrix, its Gram matrix over rms^2, the rms of its singular values, and |gram - I|_F."""

    matrix: Tensor
    gram: Tensor
    rms: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, wide: Tensor) -> _Start:
        # Dividing by the largest entry first keeps the Gram matrix of 1e30 and of 1e-30 representable.
        largest = wide.abs().amax()
        largest = torch.where(largest > 0, largest, 1.0)
        scaled = wide / largest
        gram = scaled @ scaled.mT
        mean_square = gram.diagonal().mean()
        mean_square = torch.where(mean_square > 0, mean_square, 1.0)
        gram = gram / mean_square
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return cls(wide, gram, largest * mean_square.sqrt(), torch.linalg.matrix_norm(gram - identity))

    def near_scale(self) -> Tensor:
        """Return a scale that puts squared singular values below 2; the basin ends at 7/3."""
        return self.rms * ((1.0 + self.deviation) / 2.0).clamp(min=1.0).sqrt()

    def far_scale(self) -> Tensor:
        """Return an upper bound of the largest singular value, at most k^(1/4) times too high."""
        return self.rms * (1.0 + self.deviation).sqrt()


def _cubic(x: Tensor, gram: Tensor, iterations: int) -> tuple[Tensor, list[Step]]:
    steps: list[Step] = []
    for a, b in cubic_program(x.shape[0], iterations):
        if steps:
            gram = x @ x.mT
        h = gram * b
        h.diagonal().add_(a)
        steps.append(Step(x, gram, h, b, 0.0))
        x = h @ x
    return x, steps


def _quintic(x: Tensor, gram: Tensor, iterations: int) -> tuple[Tensor, list[Step]]:
    steps: list[Step] = []
    c0, c1, c2 = _QUINTIC
    converged = False
    while len(steps) < iterations and not converged:
        if steps:
            gram = x @ x.mT
        square = gram @ gram
        # |e|_2^2 <= |e^2|_F with e^2 = G^2 - 2 G + I: sharper than |e|_F by up to k^(1/4).
        deviation = torch.sub(square, gram, alpha=2.0)
        deviation.diagonal().add_(1.0)
        converged = float(torch.linalg.matrix_norm(deviation)) <= _LAST[x.dtype] ** 2
        h = (c2 * square).add_(gram, alpha=c1)
        h.diagonal().add_(c0)
        steps.append(Step(x, gram, h, c1, c2))
        x = h @ x
    return x, steps
