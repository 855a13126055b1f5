"""L2 regularisation: weight decay through the loss."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from isoplast.methods._protocol import MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._penalised import quadratic
from isoplast.methods._tools._regulariser import Regulariser


@register
@dataclasses.dataclass(frozen=True)
class L2(Regulariser):
    r"""Adam with L2 regularisation in the loss: coupled, where AdamW's weight decay is decoupled.

    .. math:: L(\theta) + \tfrac{\lambda}{2} \|\theta\|^2

    Through Adam, which divides by the size of the gradient, the pull on an entry depends on how much the task
    moves it. Without normalisation layers this is `torch.optim.Adam(weight_decay=λ)`.

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

    def regulariser(self, parameters: dict[str, nn.Parameter]) -> Tensor:
        """Return half the strength times the sum of squares."""
        return quadratic(parameters, None, self.strength)
