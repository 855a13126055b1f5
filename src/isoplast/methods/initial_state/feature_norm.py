"""A penalty on the norm of the features."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Inputs, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._features import FeatureMethod
from isoplast.model import head_names


@register
@dataclasses.dataclass(frozen=True)
class FeatureNorm(FeatureMethod):
    r"""Adam with a penalty on the norm of the features, the input of the output layer.

    .. math:: L(\theta) + \lambda\, \mathbb{E}_x \frac{\|\phi(x)\|^2}{d}, \qquad \phi(x) \in \mathbb{R}^d

    with the features of the forward pass of the loss. Bounds the weights only as far as they set the scale of
    the features: a layer can still grow in front of a normalisation, and so can the head.

    Args:
        strength: lambda, >= 0.

    Deviations: the source gives neither the layer nor the reduction nor the strength. Here: the input of the
    head (the mean over the heads where there are several), the mean over its entries (so that the strength
    does not depend on the width), and 1e-2.

    Reference:
        Lyle et al., "Disentangling the causes of plasticity loss in neural networks", arXiv:2402.18762,
        section 4.1.
    """

    name: ClassVar[str] = "feature-norm"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Feature-norm penalty",
        source="Lyle et al., arXiv:2402.18762, section 4.1",
        controls="the scale of the last features",
        spectrum="activations",
        family="initial state",
        cost="a mean over the last features",
        strength="strength",
    )

    strength: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model, if it has a head."""
        head_names(model)
        return model

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Watch the input of the head."""
        if self.strength > 0:
            self.tap(model.get_submodule(name) for name in head_names(model))

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return the strength times the mean square of the features."""
        if self.strength == 0:
            return None
        return self.strength * torch.stack([features.square().mean() for features in self.features()]).mean()
