"""Adam that forgets both moments alike."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction


@register
@dataclasses.dataclass(frozen=True)
class EqualBetas(Method):
    r"""Adam with equal decay rates: the "tuned Adam" of arXiv:2306.13812, reinforcement learning.

    .. math:: |\Delta\theta| = \eta\,\frac{|E_\beta[g]|}{\sqrt{E_\beta[g^2]}} \le \eta
              \qquad (\beta_1 = \beta_2 = \beta)

    by Cauchy and Schwarz, since both averages weigh the gradients alike. With Adam's usual rates the second
    moment remembers the small gradients of a mastered task a hundred times longer than the first, and the
    gradients of the next task move the weights by up to (1 - beta1^k) / sqrt(1 - beta2^k) learning rates in
    its step k: 3.2 in the first, 6.6 in the twelfth.

    Args:
        beta: decay rate of both moments, in [0, 1).
        eps: added to the root of the second moment, >= 0.
    """

    name: ClassVar[str] = "equal-betas"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Adam, equal betas",
        source="Dohare et al., Nature 632, 2024, arXiv:2306.13812",
        controls="nothing",
        claims=frozenset({"optimizer"}),
    )

    beta: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "beta", below_one=True)
        at_least(self, 0, "eps")

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return `torch.optim.Adam` on all parameters."""
        betas = (self.beta, self.beta)
        return torch.optim.Adam(model.parameters(), lr=lr, betas=betas, eps=self.eps, fused=True)
