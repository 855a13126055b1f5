"""L2 regularisation: weight decay through the loss."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._penalised import penalised, quadratic


@register
@dataclasses.dataclass(frozen=True)
class L2(Method):
    r"""Adam with L2 regularisation in the loss: coupled, where AdamW's weight decay is decoupled.

    .. math:: L(\theta) + \tfrac{\lambda}{2} \|\theta\|^2

    Pulls the mean square of the singular values of every weight towards zero; through Adam, which divides
    by the size of the gradient, the pull on an entry depends on how much the task moves it. Is
    not told of tasks; costs one pass over the weights per step. Without normalisation layers this is
    `torch.optim.Adam(weight_decay=λ)`.

    Args:
        strength: lambda, >= 0.

    Deviations: the gains and offsets of normalisation layers are left alone, as in L2-Init.

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024, arXiv:2306.13812 (whose
        grid is 1e-3 to 1e-5); Kumar et al., arXiv:2308.11958.
    """

    name: ClassVar[str] = "l2"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="L2 regularisation",
        source="Dohare et al., arXiv:2306.13812; Kumar et al., arXiv:2308.11958",
        controls="the mean square of the singular values (towards 0)",
        spectrum="mean square",
        family="initial state",
        cost="one pass over the weights",
        strength="strength",
    )

    strength: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return half the strength times the sum of squares."""
        return None if self.strength == 0 else quadratic(penalised(model), None, self.strength)
