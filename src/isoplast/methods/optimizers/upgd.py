"""UPGD: noise on the weights of little utility."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods.optimizers import _upgd_optimizer


@register
@dataclasses.dataclass(frozen=True)
class UPGD(Method):
    r"""Utility-based perturbed gradient descent (arXiv:2404.00781, algorithm 1, first order, global).

    .. math:: \theta \leftarrow (1 - \eta\,wd)\,\theta - 2 \eta\, (g + \sigma \xi)
              \left(1 - \mathrm{sigmoid}\left(\frac{\hat u}{|\max \hat u|}\right)\right),
              \qquad \hat u = \mathrm{EMA}_\beta(- g\,\theta)

    with the maximum over all weights of the network. A weight without utility moves with the learning rate,
    the most useful one with 0.54 of it.

    Args:
        weight_decay: decoupled, >= 0.
        beta_utility: decay rate of the average utility, in [0, 1).
        sigma: standard deviation of the noise on the gradient, >= 0.

    Deviations:
        The authors' README, whose defaults these are, doubles the step; their experiments do not
        (``2 * eta`` here is ``eta`` there), and there the defaults are wd 0, beta 0, sigma 1. Their code
        corrects the utilities for the start of the average at 0, but not the maximum that they are divided
        by: its ratios are 1 / (1 - beta^t) times ours, 1000 times in the first step and 1.6 times after 1000,
        and until then it nearly freezes every weight of some utility. Theirs divides by the largest utility
        itself: where no weight is useful that turns the order around and spares the most harmful ones, so we
        divide by its absolute value. It is plain gradient descent underneath: it wants learning rates about
        ten times Adam's.
    """

    name: ClassVar[str] = "upgd"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="UPGD",
        source="Elsayed and Mahmood, arXiv:2404.00781, algorithm 1",
        controls="nothing (its noise lifts all singular values a little)",
        cost="one normal number per weight",
        claims=frozenset({"optimizer"}),
    )

    weight_decay: float = 1e-3
    beta_utility: float = 0.999
    sigma: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "weight_decay", "sigma")
        fraction(self, "beta_utility", below_one=True)

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return UPGD on all parameters."""
        return _upgd_optimizer.UPGD(
            model.parameters(),
            lr=lr,
            weight_decay=self.weight_decay,
            beta_utility=self.beta_utility,
            sigma=self.sigma,
        )
