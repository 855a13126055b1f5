"""How the settings of a specification become layers: one place for all networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from isoplast.nn._activations import AdaLin, CReLU, FourierFeatures, GroupSort, MaxMin, SmoothLeaky
from isoplast.nn._init import isometric_init_
from isoplast.nn._isometric import IsometricLinear

if TYPE_CHECKING:
    from isoplast.nn._spec import NetSpec


# name -> (features, dim) -> module; a class with `expansion` 2 doubles the features.
ACTIVATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "relu": lambda features, dim: nn.ReLU(),
    "leaky-relu": lambda features, dim: nn.LeakyReLU(),
    "smooth-leaky": lambda features, dim: SmoothLeaky(),
    "gelu": lambda features, dim: nn.GELU(),
    "tanh": lambda features, dim: nn.Tanh(),
    "linear": lambda features, dim: nn.Identity(),
    "maxmin": lambda features, dim: MaxMin(dim),
    "groupsort4": lambda features, dim: GroupSort(4, dim),
    "groupsort8": lambda features, dim: GroupSort(8, dim),
    "crelu": lambda features, dim: CReLU(dim),
    "fourier": lambda features, dim: FourierFeatures(dim),
    "adalin": lambda features, dim: AdaLin(features, "relu", dim),
    "adalin-tanh": lambda features, dim: AdaLin(features, "tanh", dim),
    "adalin-gelu": lambda features, dim: AdaLin(features, "gelu", dim),
}
LINEARS = ("plain", "isometric")
INITS = ("orthogonal", "torch")
NORMALIZATIONS = ("layernorm",)


@dataclasses.dataclass(frozen=True)
class Style:
    """The settings all networks share, as factories of layers."""

    spec: NetSpec

    @classmethod
    def of(cls, spec: NetSpec) -> Style:
        """Return the factories for a specification."""
        return cls(spec)

    @property
    def expansion(self) -> int:
        """Output features of the nonlinearity per input feature."""
        return getattr(self.activation(2, -1), "expansion", 1)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """Return a hidden linear layer."""
        kind = IsometricLinear if self.spec.linear == "isometric" else nn.Linear
        return kind(inputs, outputs, bias=self.spec.bias)

    def head(self, inputs: int, outputs: int) -> nn.Module:
        """Return the output layer: plain, so that the network's Lipschitz constant is free."""
        return nn.Linear(inputs, outputs, bias=self.spec.bias)

    def normalization(self, features: int) -> nn.Module:
        """Return what stands in front of a nonlinearity on (..., features)."""
        return nn.Identity() if self.spec.normalization is None else nn.LayerNorm(features)

    def activation(self, features: int, dim: int) -> nn.Module:
        """Return a nonlinearity for inputs with `features` entries along `dim`."""
        return ACTIVATIONS[self.spec.activation](features, dim)

    def initialize(self, model: nn.Module) -> None:
        """Initialise the finished network in place."""
        if self.spec.init != "torch":
            isometric_init_(model, self.spec.gain, head_gain=self.spec.head_gain)
