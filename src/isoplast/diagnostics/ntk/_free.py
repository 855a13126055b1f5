"""Products with the empirical NTK, without the matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isoplast.diagnostics._linear import Samples
from isoplast.diagnostics.ntk._exact import blocks
from isoplast.model import sample_count, take_samples


class Products:
    """v -> K v = J (J^T v) for the outputs of one network on one batch.

    Args:
        network: in evaluation mode.
        inputs: a batch of n samples.
        parameters: those K is about.
        size: samples to differentiate at a time. If that is all of them, one graph serves every product.

    Raises:
        NotTwice: where the network has an operation without a second derivative; in one line.
    """

    def __init__(self, network: nn.Module, inputs: Any, parameters: dict[str, Tensor], size: int) -> None:
        self._parameters = list(parameters.values())
        parts = blocks(sample_count(inputs), size)
        self._parts = [Samples(network, take_samples(inputs, part), parameters) for part in parts]
        self._kept = self._parts[0].linearised() if len(self._parts) == 1 else None

    def __call__(self, vector: Tensor) -> Tensor:
        """Return K v for v (n, ...) shaped like the outputs."""
        if self._kept is not None:
            return self._kept.push(self._kept.pull(vector))
        total = [torch.zeros_like(parameter) for parameter in self._parameters]
        start = 0
        for part in self._parts:
            map_ = part.linearised()
            piece = vector[start : start + len(map_.values)]
            start += len(piece)
            for sum_, gradient in zip(total, map_.pull(piece), strict=True):
                sum_ += gradient
        return torch.cat([part.pushed(total, graph=False)[1] for part in self._parts])
