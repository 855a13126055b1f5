"""MuonO: Muon with the decoupled isometry step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import MethodInfo
from isoplast.methods._registry import register
from isoplast.methods.isometry._isometry_step import IsometryStep
from isoplast.methods.optimizers.muon import Muon


@register
@dataclasses.dataclass(frozen=True)
class MuonO(IsometryStep, Muon):
    r"""Muon for the hidden matrices, Adam for the rest, and the isometry step on every matrix.

    .. math:: W_{t+1} = U_{Muon}(W_t, g_t) - \eta \lambda \nabla R_{iso}(W_t)

    (arXiv:2606.09762, Eq 20, with Muon's update in Adam's place; the head's is Adam's.) Muon makes the
    update's singular values equal, the isometry step the weight's.

    Args:
        isometry: the strength lambda, >= 0. None: that of `isometry_time`, else 1e-2.
        isometry_time: the time constant 1 / (8 lr lambda) in steps, > 0, instead of the strength.
        isometry_every: steps between two isometry steps on a matrix; "auto" lets the step choose.
        momentum, nesterov, weight_decay, ns_steps, adjust_lr, betas, eps: as in method muon.

    Deviations: those of method muon. Needs torch 2.9.
    """

    name: ClassVar[str] = "muono"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="MuonO",
        source="Rosseau, Müller and Nowé, arXiv:2606.09762, Eq 20; Jordan et al., 2024",
        controls="every singular value (towards 1)",
        spectrum="all",
        family="isometry",
        cost=Muon.info.cost + ", and one for each weight matrix, amortised over steps",
        strength="isometry",
        base="muon",
        claims=frozenset({"optimizer"}),
    )

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return Muon and Adam as one optimizer with the isometry step attached."""
        return self._with_isometry(super().optimizer(model, lr))
