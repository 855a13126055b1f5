"""The mean loss of a network on a batch, as a function of its trainable parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.model import applied, dense, outputs, refuse_scripted, sample_count, take_samples, usable

Loss = Callable[[Tensor, Any], Tensor]


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the samples, and their share of all."""

    inputs: Any
    targets: Any
    share: float


class Objective:
    """L(theta) = mean loss over the samples; theta are aliases of the parameters, with graphs of their own.

    Hooks on the parameters themselves are therefore not called, and no gradient reaches them.

    Args:
        network: in the mode to measure it in.
        inputs: a batch of n samples.
        targets: theirs.
        loss: of (outputs, targets), the mean over the samples.
        batch_size: samples in a forward pass, >= 1.

    Raises:
        IsoplastError: for inputs or targets that do not fit, and for nothing to differentiate.
    """

    def __init__(self, network: nn.Module, inputs: Any, targets: Any, loss: Loss, batch_size: int) -> None:
        refuse_scripted(network)
        if batch_size < 1:
            raise IsoplastError(f"batch_size is {batch_size}: a pass takes at least one sample")
        self.network, self.samples = network, sample_count(inputs)
        if sample_count(targets, "targets") != self.samples:
            raise IsoplastError(
                f"{self.samples} inputs have {sample_count(targets, 'targets')} targets: give as many"
            )
        self.inputs, self.targets = usable(inputs), usable(targets)
        self._loss, self._batch_size = loss, batch_size
        trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not trainable:
            raise IsoplastError(f"{type(network).__name__} has no trainable parameter to differentiate by")
        for name, parameter in trainable.items():
            if parameter.is_complex():
                raise IsoplastError(f"{name} is complex: derivatives are taken by real parameters only")
        self.parameters = {name: p.detach().requires_grad_() for name, p in trainable.items()}
        first = slice(0, min(2, self.samples))
        with torch.no_grad():
            found = outputs(network, take_samples(self.inputs, first))
            self.mean_loss(found, take_samples(self.targets, first))
        widest = max((p.dtype for p in self.parameters.values()), key=lambda dtype: torch.finfo(dtype).bits)
        self.dtype = torch.promote_types(widest, torch.float32)
        self.rounding = max(torch.finfo(p.dtype).eps for p in self.parameters.values())
        self.device = next(iter(self.parameters.values())).device

    @property
    def size(self) -> int:
        """The number of trainable numbers."""
        return sum(p.numel() for p in self.parameters.values())

    def parts(self) -> Iterator[Part]:
        """All samples, a pass at a time."""
        for start in range(0, self.samples, self._batch_size):
            stop = min(start + self._batch_size, self.samples)
            rows = slice(start, stop)
            yield Part(
                take_samples(self.inputs, rows),
                take_samples(self.targets, rows),
                (stop - start) / self.samples,
            )

    def outputs(self, inputs: Any) -> Tensor:
        """The outputs, with a graph to `parameters`."""
        return applied(self.network, self.parameters, inputs)

    def mean_loss(self, found: Tensor, targets: Any) -> Tensor:
        """The loss of outputs, a single number.

        Raises:
            IsoplastError: for targets that do not fit the outputs, and for a loss that is no single number.
        """
        try:
            value = self._loss(found, targets)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise IsoplastError(
                f"the targets do not fit outputs of shape {tuple(found.shape)}: {reason}"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise IsoplastError("the loss must return one number, the mean over the samples")
        return value.reshape(())

    def split(self, vector: Tensor) -> list[Tensor]:
        """A flat vector as tensors like the parameters."""
        pieces = torch.split(vector, [p.numel() for p in self.parameters.values()])
        return [
            piece.view(p.shape).to(p.dtype) for piece, p in zip(pieces, self.parameters.values(), strict=True)
        ]

    def join(self, tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
        """Tensors like the parameters as one flat vector."""
        return torch.cat([tensor.detach().reshape(-1).to(self.dtype) for tensor in tensors])

    def differentiated(
        self, value: Tensor, weight: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, ...]:
        """The derivatives by the parameters; zeros by those that the value does not depend on."""
        at = list(self.parameters.values())
        if not value.requires_grad:
            return tuple(torch.zeros_like(p) for p in at)
        found = torch.autograd.grad(value, at, weight, materialize_grads=True, **options)
        return tuple(map(dense, found))

    def gradient(self) -> dict[str, Tensor]:
        """The gradient of the mean loss over all samples, by parameter."""
        total = [torch.zeros_like(p, requires_grad=False) for p in self.parameters.values()]
        for part in self.parts():
            loss = part.share * self.mean_loss(self.outputs(part.inputs), part.targets)
            for sum_, piece in zip(total, self.differentiated(loss), strict=True):
                sum_ += piece
        return dict(zip(self.parameters, total, strict=True))


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are: a saturating activation hides infinite weights from the loss."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def layer_of(parameter: str) -> str:
    """The name of the layer that a parameter belongs to; a parameter of the network itself is its own."""
    owner, _, name = parameter.rpartition(".")
    return owner or name


def norm(tensors: list[Tensor]) -> float:
    """The norm of all tensors together, accumulated in float64."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))
