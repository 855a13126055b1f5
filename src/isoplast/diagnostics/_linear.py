"""The Jacobian of some outputs as a linear map, by reverse differentiation alone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from isoplast._core.errors import IsoplastError
from isoplast.model import applied, dense


class NotTwice(IsoplastError):
    """An operation whose derivative cannot be differentiated again."""


@contextlib.contextmanager
def derivatives(second: bool = False) -> Iterator[None]:
    """Say in one line what cannot be differentiated.

    Raises:
        IsoplastError: for what torch raises where a derivative is missing.
        NotTwice: the same for second derivatives.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        if second:
            raise NotTwice(f"the model has an operation without a second derivative: {reason}") from error
        raise IsoplastError(f"the model cannot be differentiated: {reason}") from error


def refuse_once_differentiable(gradients: Iterable[Tensor | None]) -> None:
    """Refuse gradients that lead past an operation marked `once_differentiable`.

    Torch raises when such an operation is differentiated itself; a second derivative that has other ways
    goes round it, and is wrong without a word.

    Args:
        gradients: with graphs of their own.

    Raises:
        NotTwice: in one line.
    """
    waiting = [g.grad_fn for g in gradients if g is not None and g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == "Error":
            raise NotTwice(
                "the model has an operation without a second derivative: an autograd.Function whose backward "
                "is marked once_differentiable"
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


class Linearised:
    """u -> J^T u and v -> J v for the derivative J of some outputs by tensors that they were computed from.

    J v is the derivative of the linear map u -> J^T u by u, and not a forward derivative: where a network
    takes something as constant (no_grad, detached tensors, an autograd.Function with a backward of its own)
    the two modes disagree, and the reverse one is what training sees.

    Args:
        values: the outputs, (n, ...).
        at: the tensors, which require gradients.
        check: whether to check the second derivatives; not where the same graph was checked before.
    """

    def __init__(self, values: Tensor, at: Sequence[Tensor], *, check: bool = True) -> None:
        self.values, self.at, self._unchecked = values, list(at), check
        self._pulled: tuple[Tensor, Sequence[Tensor | None]] | None = None

    @property
    def connected(self) -> bool:
        """Whether the outputs depend on any of the tensors by a gradient at all."""
        return any(gradient is not None for gradient in self._gradients(torch.zeros_like(self.values)))

    def pull(self, cotangent: Tensor) -> list[Tensor]:
        """Return J^T u, one piece for each tensor, for u like the outputs.

        Raises:
            IsoplastError: where the network cannot be differentiated.
        """
        return [
            torch.zeros_like(tensor) if gradient is None else dense(gradient)
            for tensor, gradient in zip(self.at, self._gradients(cotangent), strict=True)
        ]

    def _gradients(self, cotangent: Tensor, **options: bool) -> Sequence[Tensor | None]:
        if not self.values.requires_grad:
            return [None] * len(self.at)
        options = {"retain_graph": True, "allow_unused": True, **options}
        with derivatives(second="create_graph" in options):
            return torch.autograd.grad(self.values, self.at, cotangent, **options)

    def push(self, tangents: Sequence[Tensor]) -> Tensor:
        """Return J v, like the outputs, for one piece of v for each of the tensors.

        Raises:
            NotTwice: where the network has an operation without a second derivative.
        """
        return self._pushed(*self._linear(), tangents)

    def _pushed(
        self, cotangent: Tensor, pulled: Sequence[Tensor | None], tangents: Sequence[Tensor]
    ) -> Tensor:
        pairs = [
            (gradient, tangent)
            for gradient, tangent in zip(pulled, tangents, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not pairs:
            return torch.zeros_like(self.values)
        by, along = (list(column) for column in zip(*pairs, strict=True))
        with derivatives(second=True):
            return torch.autograd.grad(by, cotangent, along, retain_graph=True)[0]

    def _linear(self) -> tuple[Tensor, Sequence[Tensor | None]]:
        """A cotangent u, and J^T u as a function of it."""
        if self._pulled is None:
            cotangent = torch.zeros_like(self.values, requires_grad=True)
            pulled = self._gradients(cotangent, create_graph=True)
            if self._unchecked:
                refuse_once_differentiable(pulled)
                self._check(cotangent, pulled)
            self._pulled = cotangent, pulled
        return self._pulled

    def _check(self, cotangent: Tensor, pulled: Sequence[Tensor | None]) -> None:
        """Compare w^T (J v) with (J^T w)^T v for random v and w.

        They differ where a backward pass leaves autograd, and J v with it. Two normal w miss a part of J v
        that is larger than 10 sqrt(eps) of the whole once in 10^5.

        Raises:
            NotTwice: in one line.
        """
        generator = torch.Generator().manual_seed(0)

        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        tangents = [normal(tensor) for tensor in self.at]
        pushed = self._pushed(cotangent, pulled, tangents)
        for _ in range(2):
            weights = normal(self.values)
            back = self.pull(weights)
            difference = _inner([pushed], [weights]) - _inner(back, tangents)
            size = max(_inner([pushed], [pushed]), _inner(back, back)) ** 0.5
            if abs(difference) > 10 * torch.finfo(self.values.dtype).eps ** 0.5 * size:
                raise NotTwice(
                    "the model has an operation without a second derivative: its backward pass leaves "
                    "autograd"
                )

    def rows(self, units: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
        """Yield J^T u by the only tensor for every u, stacked for at most `chunk` of them."""
        (at,) = self.at
        for stack in _stacks(units, chunk):
            with derivatives():
                found = _batched(self.values, at, stack)
            yield stack.new_zeros(len(stack), *at.shape) if found is None else found

    def columns(self, units: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
        """Yield J v by the only tensor for every v, stacked for at most `chunk` of them.

        Raises:
            NotTwice: as for `push`.
        """
        cotangent, (pulled,) = self._linear()
        for stack in _stacks(units, chunk):
            found = None
            if pulled is not None and pulled.requires_grad:
                with derivatives(second=True):
                    found = _batched(pulled, cotangent, stack)
            yield stack.new_zeros(len(stack), *self.values.shape) if found is None else found


class Samples:
    """A network on some samples as a function of its parameters, run anew at each use: no graph is kept.

    Forward derivatives are cheaper then, and are taken where they have been seen to be those of reverse
    differentiation, on the first vector.

    Args:
        network: any module.
        inputs: the samples.
        parameters: those to differentiate by, by name; they require gradients.
    """

    def __init__(self, network: nn.Module, inputs: Any, parameters: Mapping[str, Tensor]) -> None:
        self._network, self._inputs, self._parameters = network, inputs, parameters
        self._forwards: bool | None = None

    def linearised(self) -> Linearised:
        """Return the derivative of the outputs, with a graph of its own."""
        values = applied(self._network, self._parameters, self._inputs)
        return Linearised(values, list(self._parameters.values()), check=self._forwards is None)

    def pushed(self, tangents: Sequence[Tensor], *, graph: bool = True) -> tuple[Linearised, Tensor]:
        """Return the derivative, for more products if it is to have a graph, and J v.

        Raises:
            NotTwice: where the network has an operation without a second derivative.
        """
        if self._forwards:
            return self._dual(tangents, graph)
        map_ = self.linearised()
        found = map_.push(tangents)
        if self._forwards is None:
            self._forwards = self._agrees(tangents, found)
        return map_, found

    def _dual(self, tangents: Sequence[Tensor], graph: bool) -> tuple[Linearised, Tensor]:
        with torch.set_grad_enabled(graph), forward_ad.dual_level():
            pairs = zip(self._parameters.items(), tangents, strict=True)
            duals = {name: forward_ad.make_dual(at, tangent) for (name, at), tangent in pairs}  # type: ignore[no-untyped-call]
            found = forward_ad.unpack_dual(applied(self._network, duals, self._inputs))  # type: ignore[no-untyped-call]
            tangent = torch.zeros_like(found.primal) if found.tangent is None else found.tangent
        return Linearised(found.primal, list(self._parameters.values()), check=False), tangent.detach()

    def _agrees(self, tangents: Sequence[Tensor], expected: Tensor) -> bool:
        """Whether the forward derivative exists and is the reverse one; it goes on where no gradient does."""
        try:
            _, found = self._dual(tangents, graph=False)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IsoplastError):
            return False
        allowed = 10 * torch.finfo(found.dtype).eps ** 0.5 * float(expected.norm())
        return bool((found - expected).norm() <= allowed)


def _inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def _stacks(units: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for unit in units:
        held.append(unit)
        if len(held) == chunk:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)


def _batched(values: Tensor, at: Tensor, cotangents: Tensor) -> Tensor | None:
    """The products of all cotangents at once, or one by one where an operation has no rule for that.

    None where the values do not depend on the tensor.
    """

    def one(cotangent: Tensor, batched: bool) -> Tensor | None:
        return torch.autograd.grad(
            values, at, cotangent, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )[0]

    if len(cotangents) > 1:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                return one(cotangents, batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass
    found = [one(cotangent, batched=False) for cotangent in cotangents]
    return None if found[0] is None else torch.stack(found)  # type: ignore[arg-type]
