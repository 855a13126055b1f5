"""Dropout behind every hidden activation."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import fraction
from isoplast.methods._tools._surgery import hidden_activations


@dataclasses.dataclass
class _Drop:
    """Forward hook that drops outputs in training mode."""

    p: float

    def __call__(self, module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        return F.dropout(outputs, self.p, module.training)


@register
@dataclasses.dataclass(frozen=True)
class Dropout(Method):
    r"""Dropout behind every hidden activation (arXiv:1207.0580).

    .. math:: h = \frac{b}{1 - p}\, \phi(z), \qquad b \sim \mathrm{Bernoulli}(1 - p)

    for every entry of every sample, in training only. The structure of the network and all its weights stay:
    it acts through hooks.

    Args:
        p: probability with which an entry is dropped, in [0, 1).

    Deviations:
        The source drops inputs as well (p = 0.2) and scales the weights down when it evaluates; scaling up
        in training, as everybody does today, is the same in expectation.
    """

    name: ClassVar[str] = "dropout"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Dropout",
        source="Hinton et al., arXiv:1207.0580",
        controls="nothing",
        family="architecture",
        cost="a random number per unit and sample",
        strength="p",
    )

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "p", below_one=True)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Hook every hidden activation."""
        if self.p > 0:
            names = dict.fromkeys(hidden.name for hidden in hidden_activations(self, model))
            self.handles.extend(model.get_submodule(n).register_forward_hook(_Drop(self.p)) for n in names)
        return model
