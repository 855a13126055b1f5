"""Perturbed gradient descent: noise on every weight in every step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least


@register
@dataclasses.dataclass(frozen=True)
class PerturbedGradient(Method):
    r"""Noise beside the gradient (the control of arXiv:2404.00781, section 5: shrink-and-perturb unshrunk).

    .. math:: \theta \leftarrow \theta - \eta\, (d + \sigma \xi), \qquad \xi \sim N(0, I)

    with d the direction of the optimizer: the gradient under SGD, Adam's here. After n steps it has added a
    random matrix of norm about eta sigma sqrt(n) (sqrt(out) + sqrt(in)).

    Args:
        sigma: standard deviation of the noise, >= 0.

    Deviations:
        The paper perturbs the gradient of SGD. Here the noise comes after the step of whatever optimizer
        there is: the same under SGD, and under Adam as in the authors' AdaptivePGD, where noise on the
        gradient itself would be normalised away. The default sigma is the authors' choice on input-permuted
        MNIST, at learning rate 1e-3.
    """

    name: ClassVar[str] = "perturbed-gradient"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Perturbed gradient descent",
        source="Elsayed and Mahmood, arXiv:2404.00781, section 5",
        controls="nothing",
        cost="one normal number per weight",
        strength="sigma",
    )

    sigma: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "sigma")

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Add the noise to every weight that has a gradient."""
        if self.sigma == 0:
            return
        for group in step.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(torch.randn_like(p), alpha=-float(group["lr"]) * self.sigma)
