"""The isometry penalty in the loss: the paper's coupled objective."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from isoplast.methods._protocol import Inputs, Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods.isometry._gram_penalty import gram_penalty, kept_matrices


@register
@dataclasses.dataclass(frozen=True)
class IsometryPenalty(Method):
    r"""Adam on the task loss plus the isometry penalty (arXiv:2606.09762, Eq 18).

    .. math:: \min_\theta \; \ell(\theta) + \lambda \sum_l R_{iso}(W_l), \qquad
              R_{iso}(W) = \sum_i (\sigma_i(W)^2 - 1)^2

    The pull goes through Adam's moments: a weight without a task gradient moves by about lr a step whatever
    lambda is, one with a large task gradient hardly at all. AdamO is the same penalty outside the moments.
    Its cost cannot be amortised, since Adam needs its gradient in every step.

    The matrices are those of `isoplast.param_groups`, the head among them: it is
    `isoplast.isometry_penalty(model)` with the gradient in closed form.

    Args:
        isometry: the strength lambda, >= 0. The paper's 1e-3.
    """

    name: ClassVar[str] = "isometry-penalty"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Isometry penalty",
        source="Rosseau, Müller and Nowé, arXiv:2606.09762, Eq 16 and 18",
        controls="every singular value (towards 1)",
        spectrum="all",
        family="isometry",
        cost="two products of the size of a Gram matrix for each weight matrix",
        strength="isometry",
    )

    isometry: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "isometry")

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return lambda times the sum over all weight matrices."""
        matrices = kept_matrices(model, head=True)
        if self.isometry == 0 or not matrices:
            return None
        total = sum(
            (gram_penalty(view).sum() for view, _ in matrices[1:]), gram_penalty(matrices[0][0]).sum()
        )
        return self.isometry * total
