"""A rectifier that lets the other half of the line through at random."""

from __future__ import annotations

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import Activation


class IntervalDropout(Activation):
    r"""ReLU with probability p, min(x, 0) else, drawn for every entry.

    .. math:: y = b \max(x, 0) + (1 - b) \min(x, 0), \quad b \sim \mathrm{Bernoulli}(p)

    that is dropout with another rate on each side of zero. Outside of training the mean,
    :math:`y = p \max(x, 0) + (1 - p) \min(x, 0)`, a leaky rectifier. Jacobian: diagonal; in training 0 or 1,
    for every entry with some probability 1. Features: d -> d.

    Args:
        p: probability of the ReLU, in [0, 1]. 1 is ReLU itself and draws nothing.

    Example:
        >>> IntervalDropout(0.75).eval()(torch.tensor([-4.0, 4.0]))
        tensor([-1.,  3.])

    Reference:
        Park et al., "Activation by interval-wise dropout", arXiv:2502.01342.
    """

    def __init__(self, p: float = 0.9) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise IsoplastError(f"p of IntervalDropout is {p}: it must be in [0, 1]")
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the activations, shaped like the inputs."""
        if self.p == 1.0:
            return inputs.relu()
        right = inputs >= 0
        if not self.training:
            return inputs * torch.where(right, self.p, 1.0 - self.p).to(inputs.dtype)
        return inputs * (right == (torch.rand_like(inputs) < self.p))

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"p={self.p}"
