"""Adam: the optimizer whose loss of plasticity everything here is measured against."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import moments


@register
@dataclasses.dataclass(frozen=True)
class Adam(Method):
    """Adam (arXiv:1412.6980, algorithm 1) as in torch, in its fused form: the baseline.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the root of the second moment, >= 0.
    """

    name: ClassVar[str] = "adam"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Adam",
        source="Kingma and Ba, arXiv:1412.6980, algorithm 1",
        controls="nothing",
        claims=frozenset({"optimizer"}),
    )

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        moments(self, self.betas, self.eps)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return `torch.optim.Adam` on all parameters."""
        return torch.optim.Adam(model.parameters(), lr=lr, betas=self.betas, eps=self.eps, fused=True)
