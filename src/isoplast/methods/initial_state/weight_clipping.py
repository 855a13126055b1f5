"""Weight clipping: every entry stays within the bounds of a usual initialisation."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast._core.layer_kinds import CONVOLUTIONS, MAPS, TRANSPOSED_CONVOLUTIONS
from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import positive


@register
@dataclasses.dataclass(frozen=True)
class WeightClipping(Method):
    r"""Adam, after each of whose steps the entries are clipped to the bounds of the initialisation.

    .. math:: \theta_l \leftarrow \text{clip}(\theta_l, -b_l, b_l),
              \qquad b_l = \zeta / \sqrt{\text{fan-in}_l}

    for weights and biases alike, a bias with the fan-in of its layer's weight. The bound on the singular
    values that follows, :math:`\sigma_{max} \le \zeta \sqrt{m}` with m outputs, is far above those of a
    matrix near an isometry.

    Args:
        zeta: the bound in units of 1/sqrt(fan-in), > 0. At 1 it is where torch's default initialisation
            (uniform) ends. Orthogonal initialisation has normal entries with a standard deviation of up to
            1/sqrt(fan-in): there 1 clips a third of them in the first step, 3 hardly any.

    Deviations: only linear and convolution layers are clipped; normalisation layers, whose gains of 1 the
    source would clip to the fan-in of the layer before, embeddings and position tables are left alone.

    Reference:
        Elsayed, Lan, Lyle and Mahmood, "Weight clipping for deep continual and reinforcement learning", RLC
        2024, arXiv:2407.01704, algorithm 1 (there kappa, swept from 1 to 5).
    """

    name: ClassVar[str] = "weight-clipping"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Weight clipping",
        source="Elsayed et al., arXiv:2407.01704, algorithm 1",
        controls="a loose upper bound of the largest singular value",
        spectrum="largest",
        family="initial state",
        cost="one pass over the weights",
        claims=frozenset({"scale"}),
    )

    zeta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "zeta")

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Clip every weight and bias."""
        for parameter, bound in _bounds(step.model, self.zeta):
            parameter.clamp_(-bound, bound)


def _bounds(model: nn.Module, zeta: float) -> list[tuple[Tensor, float]]:
    layers = [m for m in model.modules() if isinstance(m, MAPS)]
    return [
        (parameter, zeta / math.sqrt(_fan_in(layer)))
        for layer in layers
        for parameter in layer.parameters()
        if parameter.requires_grad
    ]


def _fan_in(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS)
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
