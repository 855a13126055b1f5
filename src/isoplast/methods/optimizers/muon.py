"""Muon: updates whose singular values are all one."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction, moments
from isoplast.optim import AdjustLR, muon_with_adam


@register
@dataclasses.dataclass(frozen=True)
class Muon(Method):
    r"""torch.optim.Muon for the hidden matrices, Adam for the head and all that is no matrix.

    .. math:: W \leftarrow (1 - \eta\,wd)\,W - \eta\,s\,\mathrm{NS}_k(M), \qquad
              M = \mu B + (1 - \mu) g,\quad B = \mathrm{EMA}_\mu(g)

    with NS_k(M) about the polar factor of M: singular values in [0.5, 1.5] after k = 5 iterations, three
    products with a matrix's smaller Gram each, in bfloat16.

    Args:
        momentum: mu, in [0, 1).
        nesterov: whether M looks ahead, as above, or is B.
        weight_decay: decoupled, on the hidden matrices, >= 0.
        ns_steps: k, from 1 to 99.
        adjust_lr: s: "match_rms_adamw" is 0.2 sqrt(max(out, in)), an update the size of Adam's, so that one
            learning rate serves all parameters; "original" is sqrt(max(1, out / in)).
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's, >= 0.

    Deviations:
        The defaults are Jordan's (torch's weight decay is 0.1), but s is Liu et al.'s, because a run has one
        learning rate (Jordan's 0.02 goes with "original" and another one for Adam), and Adam's settings are
        Adam's here, not (0.9, 0.95), so that only the hidden matrices differ from the baseline. The first
        layer counts as hidden. Needs torch 2.9.

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024;
        Liu et al., arXiv:2502.16982.
    """

    name: ClassVar[str] = "muon"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Muon",
        source="Jordan et al., 2024; Liu et al., arXiv:2502.16982",
        controls="every singular value of the updates, none of the weights",
        cost="15 products with a Gram matrix for each hidden matrix",
        claims=frozenset({"optimizer"}),
    )

    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.0
    ns_steps: int = 5
    adjust_lr: AdjustLR = "match_rms_adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        moments(self, self.betas, self.eps)
        at_least(self, 0, "weight_decay")
        fraction(self, "momentum", below_one=True)
        if not 1 <= self.ns_steps <= 99:
            raise IsoplastError(f"ns_steps of method {self.name} is {self.ns_steps}: it must be from 1 to 99")

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return both optimizers as one."""
        return muon_with_adam(
            model,
            lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            ns_steps=self.ns_steps,
            adjust_lr=self.adjust_lr,
            betas=self.betas,
            eps=self.eps,
        )
