"""AdamW: weight decay, the method everybody already uses."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, moments


@register
@dataclasses.dataclass(frozen=True)
class AdamW(Method):
    """Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2) as in torch, in its fused form.

    Shrinks all singular values alike, with no regard to how they are spread.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: every step multiplies all parameters by 1 - lr * weight_decay; >= 0.
    """

    name: ClassVar[str] = "adamw"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="AdamW",
        source="Loshchilov and Hutter, arXiv:1711.05101, algorithm 2",
        controls="the mean square of the singular values (towards 0)",
        spectrum="mean square",
        family="initial state",
        strength="weight_decay",
        claims=frozenset({"optimizer"}),
    )

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        moments(self, self.betas, self.eps)
        at_least(self, 0.0, "weight_decay")

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return `torch.optim.AdamW` on all parameters."""
        return torch.optim.AdamW(
            model.parameters(),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
