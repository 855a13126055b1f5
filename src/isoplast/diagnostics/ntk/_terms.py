"""What one parameter adds to the empirical NTK, without forming the Jacobian where that is cheaper."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Explicit:
    """Gradients of every output of every sample with respect to one parameter: (n, C, entries)."""

    gradients: Tensor

    def sketch(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """The sketch of the gradient of the outputs' sum with weights (n, C); `shape` is the parameter's."""
        return sketch((weights.flatten() @ self.gradients.flatten(0, 1)).view(shape))


@dataclasses.dataclass(frozen=True)
class Outer:
    """The same for a matrix that is applied at T positions: sum over t of b_t h_t^T.

    Attributes:
        inputs: h, (n, T, d_in): what the matrix is applied to.
        signals: b, (n, C, T, d_out): derivative of each output by the matrix's output.
        transposed: whether the parameter is the matrix transposed, (d_in, d_out).
        call: the number of the layer's call that they are from, None for several: terms of one call have the
            same signals.
    """

    inputs: Tensor
    signals: Tensor
    transposed: bool = False
    call: int | None = None

    @property
    def positions(self) -> int:
        """T."""
        return self.signals.shape[2]

    def sketch(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """The sketch of the gradient of the outputs' sum with weights (n, C), which is not formed itself."""
        n, outputs, positions, height = self.signals.shape
        signals = torch.bmm(weights[:, None], self.signals.reshape(n, outputs, -1)).view(-1, height)
        inputs = self.inputs.reshape(n * positions, -1)
        left, right = (inputs, signals) if self.transposed else (signals, inputs)
        return left.t() @ (right @ _normal(shape[1:].numel(), right))

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

    def compact(self, samples: int) -> Term:
        """Return the gradients themselves where they are smaller and no dearer to multiply.

        Args:
            samples: n of all that will be multiplied, of which these may be a part.
        """
        n, outputs, _, height = self.signals.shape
        size = n * outputs * height * self.inputs.shape[2]
        smaller = size <= self.inputs.numel() + self.signals.numel()
        formed = self.positions > 1 and smaller and not self.by_positions(samples)
        return self.explicit() if formed else self

    def by_positions(self, samples: int) -> bool:
        """Whether Gram matrices of the positions of n samples cost less than the gradients do.

        Multiplications per pair of samples: T^2 (d_in + C d_out) + C^2 T d_out against
        C^2 d_in d_out, plus C T d_in d_out per sample for the gradients themselves.
        """
        _, outputs, positions, height = self.signals.shape
        width = self.inputs.shape[2]
        grams = positions**2 * (width + outputs * height) + outputs**2 * positions * height
        gradients = outputs**2 * width * height
        forming = outputs * positions * width * height * 2 / samples
        return grams < gradients + forming


Term = Explicit | Outer


def sketch(gradient: Tensor) -> Tensor:
    """Eight normal combinations of a gradient's columns: what to compare gradients by.

    The Frobenius norm, over the root of eight, estimates that of the gradient. It falls short of it by more
    than a factor of 1000 once in 10^23 times.
    """
    rows = gradient.reshape(gradient.shape[0] if gradient.dim() else 1, -1)
    return rows @ _normal(rows.shape[1], rows)


def _normal(columns: int, like: Tensor) -> Tensor:
    draws = torch.randn(columns, 8, generator=torch.Generator().manual_seed(0))
    return draws.to(like) / 8**0.5


def agrees(deviation: float, norm: float, whole: float, dtype: torch.dtype) -> bool:
    """Whether a gradient by a formula is autograd's, up to the rounding of two ways to add up.

    A wrong formula is off by its own size. Gradients that vanish in theory (of the keys' biases in attention)
    are rounding alone, which is relative to the others.

    Args:
        deviation: the distance of the two, or of their sketches.
        norm: the norm of autograd's.
        whole: the norm of autograd's gradient by several parameters, this one among them.
        dtype: of the network.
    """
    eps = torch.finfo(dtype).eps
    return bool(deviation <= 10 * eps**0.5 * norm + 100 * eps * whole)


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
