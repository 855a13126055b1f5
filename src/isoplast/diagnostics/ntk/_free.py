"""Products with the empirical NTK, without the matrix: one backward and one forward derivative each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics.ntk._exact import blocks
from isoplast.diagnostics.ntk._samples import applied
from isoplast.model import outputs, sample_count, take_samples


class Products:
    """v -> K v = J (J^T v) for the outputs of one network on one batch.

    Args:
        network: in evaluation mode.
        inputs: a batch of n samples.
        parameters: those K is about.
        size: samples to differentiate at a time.
    """

    def __init__(
        self, network: nn.Module, inputs: Any, parameters: dict[str, nn.Parameter], size: int
    ) -> None:
        self._network = network
        self._parameters = parameters
        self._forward_mode = True
        self._inputs = [take_samples(inputs, part) for part in blocks(sample_count(inputs), size)]

    def __call__(self, vector: Tensor) -> Tensor:
        """Return K v for v (n, ...) shaped like the outputs."""
        return self._push(self._pull(vector))

    def _pull(self, vector: Tensor) -> dict[str, Tensor]:
        """Return J^T v."""
        total = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        start = 0
        for part in self._inputs:
            values = outputs(self._network, part)
            piece = vector[start : start + len(values)].view_as(values)
            start += len(values)
            gradients = torch.autograd.grad(values, list(self._parameters.values()), piece, allow_unused=True)
            for name, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient
        return total

    def _push(self, direction: dict[str, Tensor]) -> Tensor:
        """Return J w."""
        push = self._forwards if self._forward_mode else self._twice
        try:
            return torch.cat([push(part, direction) for part in self._inputs])
        except (RuntimeError, IsoplastError):
            # Operations without a forward derivative, and modules that count their calls.
            if not self._forward_mode:
                raise
        self._forward_mode = False
        return self._push(direction)

    def _forwards(self, part: Any, direction: dict[str, Tensor]) -> Tensor:
        at = {name: parameter.detach() for name, parameter in self._parameters.items()}
        with torch.no_grad():
            found: Tensor = jvp(lambda values: applied(self._network, values, part), (at,), (direction,))[1]
        return found

    def _twice(self, part: Any, direction: dict[str, Tensor]) -> Tensor:
        """J w as the derivative of u -> w^T (J^T u): two backward passes."""
        values = outputs(self._network, part)
        weights = torch.zeros_like(values, requires_grad=True)
        pulled = torch.autograd.grad(
            values, list(self._parameters.values()), weights, create_graph=True, allow_unused=True
        )
        terms = [
            (gradient * direction[name]).sum()
            for name, gradient in zip(self._parameters, pulled, strict=True)
            if gradient is not None
        ]
        return torch.autograd.grad(torch.stack(terms).sum(), weights)[0]
