"""SGDO: stochastic gradient descent with the decoupled isometry step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import fraction
from isoplast.methods.isometry._isometry_step import IsometryStep
from isoplast.optim import param_groups


@register
@dataclasses.dataclass(frozen=True)
class SGDO(IsometryStep):
    r"""SGD with momentum, and the isometry step on every weight matrix (arXiv:2606.09762, Eq 20).

    .. math:: m_t = \mu m_{t-1} + g_t, \qquad W_{t+1} = W_t - \eta m_t - \eta \lambda \nabla R_{iso}(W_t)

    SGD takes learning rates of ten times Adam's and more, which shortens the time constant 1 / (8 lr lambda)
    alike. Without isometry it is `torch.optim.SGD` to the bit.

    Args:
        isometry: the strength lambda, >= 0. None: that of `isometry_time`, else 1e-2.
        isometry_time: the time constant 1 / (8 lr lambda) in steps, > 0, instead of the strength.
        isometry_every: steps between two isometry steps on a matrix; "auto" lets the step choose.
        momentum: mu, in [0, 1).
        nesterov: whether the momentum looks ahead; needs momentum > 0.
    """

    name: ClassVar[str] = "sgdo"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="SGDO",
        source="Rosseau, Müller and Nowé, arXiv:2606.09762, Eq 20, with SGD in Adam's place",
        controls="every singular value (towards 1)",
        spectrum="all",
        family="isometry",
        cost="one product with a Gram matrix for each weight matrix, amortised over steps",
        claims=frozenset({"optimizer"}),
    )

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "momentum", below_one=True)
        if self.nesterov and self.momentum == 0:
            raise IsoplastError("nesterov of method sgdo needs momentum: set momentum > 0 or nesterov=False")

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return SGD on the groups of `isoplast.param_groups` with the isometry step attached."""
        sgd = torch.optim.SGD(param_groups(model), lr=lr, momentum=self.momentum, nesterov=self.nesterov)
        return self._with_isometry(sgd)
