"""AdamO: isometry of every weight matrix, beside Adam."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn
from torch.optim import Optimizer

from isoplast import optim
from isoplast.methods._protocol import MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, moments
from isoplast.methods.isometry._isometry_step import IsometryStep


@register
@dataclasses.dataclass(frozen=True)
class AdamO(IsometryStep):
    """Adam with a decoupled isometry step on every weight matrix (arXiv:2606.09762, Eq 19 and 20).

    The matrices are those that `isoplast.param_groups` finds, the head among them, as in the paper.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the root of the second moment, >= 0.
        isometry: the strength lambda, >= 0. None: that of `isometry_time`, else the optimizer's default.
        isometry_time: the time constant 1 / (8 lr lambda) in steps, > 0, instead of the strength.
        isometry_every: steps between two isometry steps on a matrix; "auto" lets the optimizer choose.
        head: the strength for output layers alone, >= 0, 0 leaves them free; None: that of the others. An
            agent's value head needs to be free: with norm 1 it cannot reach large returns.
        weight_decay: decoupled, on all parameters, >= 0. It pulls the singular values below 1.
    """

    name: ClassVar[str] = "adamo"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="AdamO",
        source="Rosseau, Müller and Nowé, arXiv:2606.09762, Eq 19 and 20",
        controls="every singular value (towards 1)",
        spectrum="all",
        family="isometry",
        cost="one product with a Gram matrix for each weight matrix, amortised over steps",
        strength="isometry",
        claims=frozenset({"optimizer"}),
    )

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    head: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        moments(self, self.betas, self.eps)
        at_least(self, 0.0, "weight_decay", "head")

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return `isoplast.AdamO` on the groups of `isoplast.param_groups`."""
        return optim.AdamO(
            optim.param_groups(model, head=self.head),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            isometry=self.isometry,
            isometry_time=self.isometry_time,
            isometry_every=self.isometry_every,
            weight_decay=self.weight_decay,
            fused=True,
        )
