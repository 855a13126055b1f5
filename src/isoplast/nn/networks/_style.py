"""How the settings of a specification become layers: one place for all networks."""

from __future__ import annotations

import dataclasses

from torch import nn

from isoplast.nn._initialisation import isometric_init_
from isoplast.nn.layers._isometric import IsometricConv2d, IsometricLinear
from isoplast.nn.networks._choices import ACTIVATIONS
from isoplast.nn.networks._spec import LayeredSpec


@dataclasses.dataclass(frozen=True)
class Style:
    """The settings all networks share, as factories of layers."""

    spec: LayeredSpec

    @property
    def expansion(self) -> int:
        """Output features of the nonlinearity per input feature."""
        return int(getattr(self.activation(8), "expansion", 1))

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """Return a hidden linear layer."""
        kind = IsometricLinear if self.spec.linear == "isometric" else nn.Linear
        return kind(inputs, outputs, bias=self.spec.bias)

    def conv(self, inputs: int, outputs: int, taps: int, stride: int) -> nn.Module:
        """Return a convolution that keeps the size at stride 1."""
        kind = IsometricConv2d if self.spec.linear == "isometric" else nn.Conv2d
        return kind(inputs, outputs, taps, stride=stride, padding=taps // 2, bias=self.spec.bias)

    def head(self, inputs: int, outputs: int) -> nn.Linear:
        """Return the output layer: always plain, so that the network's Lipschitz constant is free."""
        return nn.Linear(inputs, outputs, bias=self.spec.bias)

    def normalization(self, features: int, *, images: bool = False) -> nn.Module:
        """Return the normalisation over the features, or over channels, height and width of images."""
        if self.spec.normalization is None:
            return nn.Identity()
        if self.spec.normalization == "batchnorm":
            return nn.BatchNorm2d(features) if images else nn.BatchNorm1d(features)
        return nn.GroupNorm(1, features) if images else nn.LayerNorm(features)

    def activation(self, features: int, dim: int = -1) -> nn.Module:
        """Return a nonlinearity for inputs with `features` entries along `dim`."""
        return ACTIVATIONS[self.spec.activation](features, dim)

    def initialize(self, model: nn.Module) -> None:
        """Initialise the finished network in place."""
        spec = self.spec
        if spec.init != "torch":
            conv = "delta" if spec.init == "delta" else "kernel"
            isometric_init_(model, spec.gain, head_gain=spec.head_gain, conv=conv)
