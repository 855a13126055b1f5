"""The words that a specification may use for its layers."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from isoplast.nn.layers._activations import AdaLin, CReLU, FourierFeatures, GroupSort, MaxMin, SmoothLeaky

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
INITS = ("orthogonal", "delta", "torch")
NORMALIZATIONS = ("layernorm", "batchnorm")
