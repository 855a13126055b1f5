"""AdamO: isometry of every weight matrix, beside Adam."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from isoplast import optim
from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import moments
from isoplast.optim import DEFAULT_ISOMETRY


@register
@dataclasses.dataclass(frozen=True)
class AdamO(Method):
    """Adam with a decoupled isometry step on every weight matrix (arXiv:2606.09762, Eq 19 and 20).

    Controls every singular value (all of them towards 1); is not told of tasks. The matrices are those that
    `isoplast.param_groups` finds, the head among them, as in the paper.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the root of the second moment, >= 0.
        isometry: the strength lambda, >= 0. None: that of `isometry_time`, else the optimizer's default.
        isometry_time: the time constant 1 / (8 lr lambda) in steps, > 0, instead of the strength.
        isometry_every: steps between two isometry steps on a matrix; "auto" lets the optimizer choose.
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
    isometry: float | None = None
    isometry_time: float | None = None
    isometry_every: int | Literal["auto"] = "auto"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        moments(self, self.betas, self.eps)
        if self.isometry is not None and self.isometry_time is not None:
            raise IsoplastError(
                f"method adamo got isometry={self.isometry} and isometry_time={self.isometry_time}: "
                "they set the same strength, give one of them"
            )
        if self.isometry is None and self.isometry_time is None:
            object.__setattr__(self, "isometry", DEFAULT_ISOMETRY)
        for field, low in (("isometry", 0.0), ("weight_decay", 0.0)):
            value = getattr(self, field)
            if value is not None and value < low:
                raise IsoplastError(f"{field} of method adamo is {value}: it must not be negative")
        if self.isometry_time is not None and self.isometry_time <= 0:
            raise IsoplastError(f"isometry_time of method adamo is {self.isometry_time}: it must be positive")
        if isinstance(self.isometry_every, int) and self.isometry_every < 1:
            raise IsoplastError(
                f"isometry_every of method adamo is {self.isometry_every}: "
                "give 'auto' or a number of steps >= 1"
            )

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return `isoplast.AdamO` on the groups of `isoplast.param_groups`."""
        return optim.AdamO(
            optim.param_groups(model),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            isometry=self.isometry,
            isometry_time=self.isometry_time,
            isometry_every=self.isometry_every,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return what is under isometry, and a warning if the run is too short for its strength."""
        assert isinstance(optimizer, optim.AdamO)
        report = optimizer.report()
        warning = report.warning(steps) if self.isometry != 0 else None
        return [str(report)] if warning is None else [str(report), f"warning: {warning}"]
