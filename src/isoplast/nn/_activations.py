"""Nonlinearities that keep signals and gradients alive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isoplast._errors import IsoplastError


class MaxMin(nn.Module):
    """Sort pairs of neighbouring features (GroupSort with groups of two).

    Args:
        dim: the feature dimension of the input.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a tensor of the inputs' shape with every pair in descending order."""
        features = inputs.shape[self.dim]
        if features % 2:
            raise IsoplastError(f"MaxMin got {features} features: it pairs them, so give an even number")
        dim = self.dim % inputs.dim()
        first, second = inputs.movedim(dim, -1).reshape(-1, features // 2, 2).unbind(-1)
        paired = torch.stack((torch.maximum(first, second), torch.minimum(first, second)), -1)
        return paired.view(inputs.movedim(dim, -1).shape).movedim(-1, dim)
