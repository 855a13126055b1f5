"""What one parameter adds to the empirical NTK, without forming the Jacobian where that is cheaper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import torch
from torch import Tensor

# Entries converted to float64 at a time: 8 MB.
CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Explicit:
    """Gradients of every output of every sample with respect to one parameter: (n, C, entries)."""

    gradients: Tensor

    def combined(self, weights: Tensor) -> Tensor:
        """The gradient of the outputs' sum with weights (n, C): (entries,)."""
        return weights.flatten() @ self.gradients.flatten(0, 1)

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return self.gradients.nbytes


@dataclasses.dataclass(frozen=True)
class Outer:
    """The same for a matrix that is applied at T positions: sum over t of b_t h_t^T.

    Attributes:
        inputs: h, (n, T, d_in): what the matrix is applied to.
        signals: b, (n, C, T, d_out): derivative of each output by the matrix's output.
        transposed: whether the parameter is the matrix transposed, (d_in, d_out).
    """

    inputs: Tensor
    signals: Tensor
    transposed: bool = False

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        return self.inputs.nbytes + self.signals.nbytes

    def combined(self, weights: Tensor) -> Tensor:
        """The gradient of the outputs' sum with weights (n, C), in the order of the parameter's entries."""
        n, outputs, positions, height = self.signals.shape
        signals = torch.bmm(weights[:, None], self.signals.reshape(n, outputs, -1)).view(-1, height)
        matrix = signals.t() @ self.inputs.reshape(n * positions, -1)
        return (matrix.t() if self.transposed else matrix).flatten()

    def gradients(self, start: int, stop: int) -> Tensor:
        """Return the gradients (n, C, entries) of the rows start to stop of the matrix."""
        n, outputs, positions, _ = self.signals.shape
        signals = self.signals[..., start:stop].transpose(2, 3).reshape(n, -1, positions)
        return torch.bmm(signals, self.inputs).reshape(n, outputs, -1)

    def explicit(self) -> Explicit:
        """Return all the gradients, in the order of the parameter's entries."""
        gradients = self.gradients(0, self.signals.shape[3])
        if self.transposed:
            matrices = gradients.view(*gradients.shape[:2], -1, self.inputs.shape[2])
            gradients = matrices.transpose(2, 3).flatten(2)
        return Explicit(gradients)

    def compact(self) -> Term:
        """Return the gradients themselves where they are smaller and no dearer to multiply."""
        n, outputs, _, height = self.signals.shape
        size = n * outputs * height * self.inputs.shape[2] * self.signals.element_size()
        return self.explicit() if size <= self.nbytes and not self.by_positions(n) else self

    def by_positions(self, others: int) -> bool:
        """Whether Gram matrices of the positions cost less than the gradients do.

        Multiplications per pair of samples: T^2 (d_in + C d_out) + C^2 T d_out against
        C^2 d_in d_out, plus C T d_in d_out per sample for the gradients themselves.
        """
        n, outputs, positions, height = self.signals.shape
        width = self.inputs.shape[2]
        grams = positions**2 * (width + outputs * height) + outputs**2 * positions * height
        gradients = outputs**2 * width * height
        forming = outputs * positions * width * height * (1 / n + 1 / others)
        return grams < gradients + forming


Term = Explicit | Outer


def agree(own: Tensor, expected: Tensor, whole: float) -> bool:
    """Whether a gradient by a formula is autograd's, up to the rounding of two ways to add up.

    A wrong formula is off by its own size. Gradients that vanish in theory (of the keys' biases in attention)
    are rounding alone, which is relative to the others.

    Args:
        own, expected: the two, with the same entries.
        whole: the norm of autograd's gradient by all parameters.
    """
    eps = torch.finfo(own.dtype).eps
    allowed = 10 * eps**0.5 * float(expected.norm()) + 100 * eps * whole
    return bool((own.flatten() - expected.flatten()).norm() <= allowed)


def whole_norm(gradients: Iterable[Tensor]) -> float:
    """The norm of gradients by several parameters together."""
    return math.sqrt(sum(float(gradient.norm()) ** 2 for gradient in gradients))


def merged(terms: list[Term]) -> Term:
    """Return the sum of the gradients of several uses of one parameter.

    Uses as the same kind of matrix are further positions; other combinations add up explicitly.
    """
    if len(terms) == 1:
        return terms[0]
    outer = [term for term in terms if isinstance(term, Outer)]
    if len(outer) == len(terms) and len({(term.signals.shape[3], term.transposed) for term in outer}) == 1:
        inputs, signals = [term.inputs for term in outer], [term.signals for term in outer]
        return Outer(torch.cat(inputs, 1), torch.cat(signals, 2), outer[0].transposed)
    gradients = [(t.explicit() if isinstance(t, Outer) else t).gradients for t in terms]
    return Explicit(torch.stack(gradients).sum(0))


def gram(left: Term, right: Term) -> Tensor:
    r"""Inner products of the gradients of two blocks of samples, (n_left C, n_right C) in float64.

    With one position this is the layer-wise formula :math:`(H H^T) \circ (B B^T)`.

    Reference:
        arXiv:2606.09762, Eq 7.
    """
    if isinstance(left, Explicit) and isinstance(right, Explicit):
        return inner(left.gradients.flatten(0, 1), right.gradients.flatten(0, 1))
    if isinstance(left, Explicit) or isinstance(right, Explicit):
        both = [t.explicit() if isinstance(t, Outer) else t for t in (left, right)]
        return inner(both[0].gradients.flatten(0, 1), both[1].gradients.flatten(0, 1))
    if left.signals.shape[2] == right.signals.shape[2] == 1:
        return _one_position(left, right)
    if left.by_positions(len(right.inputs)):
        return _by_positions(left, right)
    return _by_gradients(left, right)


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Return left right^T in float64: (r, d), (s, d) -> (r, s).

    Products of float32 gradients summed in float32 would drown every eigenvalue below 1e-7 of the largest;
    in float64 the gradients' own rounding remains, which moves eigenvalues by 1e-14 of the largest.
    """
    total = left.new_zeros(len(left), len(right), dtype=torch.float64)
    width = max(1, CHUNK // max(len(left), len(right), 1))
    for start in range(0, left.shape[1], width):
        part = left[:, start : start + width].double()
        other = part if right is left else right[:, start : start + width].double()
        total.addmm_(part, other.t())
    return total


def _one_position(left: Outer, right: Outer) -> Tensor:
    same = left is right
    signals = left.signals.flatten(0, 2)
    inputs = left.inputs.flatten(0, 1)
    backward = inner(signals, signals if same else right.signals.flatten(0, 2))
    forward = inner(inputs, inputs if same else right.inputs.flatten(0, 1))
    shape = (len(left.inputs), left.signals.shape[1], len(right.inputs), right.signals.shape[1])
    return backward.view(shape).mul_(forward[:, None, :, None]).flatten(2).flatten(0, 1)


def _by_positions(left: Outer, right: Outer) -> Tensor:
    """K[(i,a),(j,b)] = sum_s <sum_t <h_it, h_js> b_iat, b_jbs>, one sample i at a time."""
    count, outputs, positions, height = right.signals.shape
    rows = []
    pieces = max(1, CHUNK // (outputs * positions * height))
    for signals, inputs in zip(left.signals, left.inputs, strict=True):
        own = signals.double().permute(1, 0, 2).flatten(1)  # (t, a * o)
        blocks = []
        for start in range(0, count, pieces):
            other = right.signals[start : start + pieces].double()  # (j, b, s, o)
            forward = right.inputs[start : start + pieces].double() @ inputs.double().t()  # (j, s, t)
            mixed = (forward @ own).unflatten(2, (len(signals), height))  # (j, s, a, o)
            blocks.append(torch.einsum("jsao,jbso->ajb", mixed, other))
        rows.append(torch.cat(blocks, 1).flatten(1))
    return torch.cat(rows)


def _by_gradients(left: Outer, right: Outer) -> Tensor:
    """Form the gradients of a few rows of the matrix at a time."""
    height, width = left.signals.shape[3], left.inputs.shape[2]
    samples = max(len(left.inputs), len(right.inputs)) * left.signals.shape[1]
    step = max(1, CHUNK // (samples * width))
    total = left.signals.new_zeros(1, dtype=torch.float64)
    for start in range(0, height, step):
        first = left.gradients(start, start + step).flatten(0, 1)
        second = first if right is left else right.gradients(start, start + step).flatten(0, 1)
        total = total + inner(first, second)
    return total
