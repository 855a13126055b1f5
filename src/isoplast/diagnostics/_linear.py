"""The Jacobian of some outputs as a linear map, by reverse differentiation alone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.model import dense


class NotTwice(IsoplastError):
    """An operation whose derivative cannot be differentiated again."""


class Linearised:
    """u -> J^T u and v -> J v for the derivative J of some outputs by tensors that they were computed from.

    J v is the derivative of the linear map u -> J^T u by u, and not a forward derivative: where a network
    takes something as constant (no_grad, detached tensors, an autograd.Function with a backward of its own)
    the two modes disagree, and the reverse one is what training sees. Both maps are made of one graph, so
    J v and J^T u belong together whatever the network does.

    Args:
        values: the outputs, (n, ...).
        at: the tensors, which require gradients.
    """

    def __init__(self, values: Tensor, at: Sequence[Tensor]) -> None:
        self.values, self.at = values, list(at)
        self._pulled: tuple[Tensor, list[Tensor | None]] | None = None

    @property
    def connected(self) -> bool:
        """Whether the outputs depend on any of the tensors by a gradient at all."""
        if not self.values.requires_grad:
            return False
        zeros = torch.zeros_like(self.values)
        found = torch.autograd.grad(self.values, self.at, zeros, retain_graph=True, allow_unused=True)
        return any(gradient is not None for gradient in found)

    def pull(self, cotangent: Tensor) -> list[Tensor]:
        """Return J^T u, one piece for each tensor, for u like the outputs."""
        if not self.values.requires_grad:
            return [torch.zeros_like(tensor) for tensor in self.at]
        found = torch.autograd.grad(self.values, self.at, cotangent, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(tensor) if gradient is None else dense(gradient)
            for tensor, gradient in zip(self.at, found, strict=True)
        ]

    def push(self, tangents: Sequence[Tensor]) -> Tensor:
        """Return J v, like the outputs, for one piece of v for each of the tensors.

        Raises:
            NotTwice: where the network has an operation without a second derivative.
        """
        cotangent, pulled = self._linear()
        pairs = [
            (gradient, tangent)
            for gradient, tangent in zip(pulled, tangents, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not pairs:
            return torch.zeros_like(self.values)
        with second_derivatives():
            (found,) = torch.autograd.grad(
                [gradient for gradient, _ in pairs], cotangent, [v for _, v in pairs], retain_graph=True
            )
        return found

    def _linear(self) -> tuple[Tensor, list[Tensor | None]]:
        """A cotangent u, and J^T u as a function of it."""
        if self._pulled is None:
            cotangent = torch.zeros_like(self.values, requires_grad=True)
            pulled: list[Tensor | None] = [None] * len(self.at)
            if self.values.requires_grad:
                with second_derivatives():
                    pulled = list(
                        torch.autograd.grad(
                            self.values, self.at, cotangent, create_graph=True, allow_unused=True
                        )
                    )
            self._pulled = cotangent, pulled
        return self._pulled

    def rows(self, units: Iterator[Tensor] | Sequence[Tensor], chunk: int) -> Iterator[Tensor]:
        """Yield J^T u by the only tensor for every u, stacked for at most `chunk` of them."""
        (at,) = self.at
        for stack in _stacks(units, chunk):
            yield _batched(self.values, at, stack, zeros=at)

    def columns(self, units: Iterator[Tensor] | Sequence[Tensor], chunk: int) -> Iterator[Tensor]:
        """Yield J v by the only tensor for every v, stacked for at most `chunk` of them.

        Raises:
            NotTwice: as for `push`.
        """
        cotangent, (pulled,) = self._linear()
        for stack in _stacks(units, chunk):
            if pulled is None or not pulled.requires_grad:
                yield stack.new_zeros(len(stack), *self.values.shape)
                continue
            with second_derivatives():
                yield _batched(pulled, cotangent, stack, zeros=self.values)


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Say what is missing where a second derivative is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise NotTwice(f"the model has an operation without a second derivative: {reason}") from error


def _stacks(units: Iterator[Tensor] | Sequence[Tensor], chunk: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for unit in units:
        held.append(unit)
        if len(held) == chunk:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)


def _batched(values: Tensor, at: Tensor, cotangents: Tensor, zeros: Tensor) -> Tensor:
    """The products of all cotangents at once, or one by one where an operation has no rule for that."""

    def one(cotangent: Tensor, batched: bool) -> Tensor:
        (found,) = torch.autograd.grad(
            values, at, cotangent, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        shape = (*cotangent.shape[: len(cotangent.shape) - values.dim()], *zeros.shape)
        return cotangent.new_zeros(shape) if found is None else found

    if len(cotangents) == 1:
        return one(cotangents[0], batched=False)[None]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return one(cotangents, batched=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return torch.stack([one(cotangent, batched=False) for cotangent in cotangents])
