"""Other hidden nonlinearities: each a method that replaces those of the network it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from torch import nn

from isoplast import nn as layers
from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import fraction, positive
from isoplast.methods._tools._surgery import (
    Hidden,
    hidden_activations,
    keeps_width,
    one_dim,
    own,
    readers,
    replace_,
    widen_,
)

_CLAIMS = frozenset({"activation"})


def _replaced(
    method: Method,
    model: nn.Module,
    make: Callable[[Hidden], nn.Module],
    name: str,
    *,
    along_features: bool = False,
) -> nn.Module:
    """Replace every hidden activation by one that keeps the number of features."""
    found = hidden_activations(method, model)
    if along_features:
        one_dim(method, found)
    for hidden in found:
        keeps_width(method, hidden, name)
    return replace_(model, {model.get_submodule(hidden.name): make(hidden) for hidden in found})


def _doubled(method: Method, model: nn.Module, make: Callable[[int], nn.Module]) -> nn.Module:
    """Replace every hidden activation by one that doubles the features, and widen what reads them."""
    found = hidden_activations(method, model)
    one_dim(method, found)
    behind = [layer for hidden in found for layer in readers(method, model, hidden)]
    for layer in dict.fromkeys(behind):
        widen_(layer)
    return replace_(model, {model.get_submodule(hidden.name): make(hidden.dim) for hidden in found})


@register
@dataclasses.dataclass(frozen=True)
class CReLU(Method):
    r"""Concatenated ReLU in place of every hidden activation (arXiv:2303.07507, section 5).

    .. math:: h = [\max(z, 0),\ \max(-z, 0)]

    Its Jacobian [D; D - I] is a column isometry, and no unit is dead in both halves. The layers behind read
    twice as many features, and get fresh weights of the kind they had (orthogonal with the same gain, else
    torch's); all other weights keep their values.

    Deviations:
        None; that the layers behind grow, so that the network has more parameters than its baseline, is the
        source's way as well. A residual stream cannot be doubled in a finished network: build it with
        activation="crelu".
    """

    name: ClassVar[str] = "crelu"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="CReLU",
        source="Shang et al., 2016; Abbas et al., arXiv:2303.07507, section 5",
        controls="the Jacobian of the activations (a column isometry)",
        spectrum="activations",
        family="architecture",
        cost="twice the products in the layers behind",
        claims=_CLAIMS,
    )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the activations, and the layers that read them, in place."""
        return _doubled(self, model, layers.CReLU)


@register
@dataclasses.dataclass(frozen=True)
class Fourier(Method):
    r"""Deep Fourier features in place of every hidden activation (arXiv:2410.20634, section 4).

    .. math:: h = [\sin z,\ \cos z]

    Its Jacobian [diag(cos z); -diag(sin z)] is a column isometry: where one half is flat the other is steep.
    The layers behind read twice as many features, and get fresh weights as with `CReLU`.

    Deviations:
        Implementations differ on whether the width is halved, so that the number of parameters stays about
        the same; here the width stays and the layers behind grow. A residual stream cannot be doubled in a
        finished network: build it with activation="fourier".
    """

    name: ClassVar[str] = "fourier"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Deep Fourier features",
        source="Lewandowski et al., arXiv:2410.20634, section 4",
        controls="the Jacobian of the activations (a column isometry)",
        spectrum="activations",
        family="architecture",
        cost="sine and cosine, twice the products in the layers behind",
        claims=_CLAIMS,
    )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the activations, and the layers that read them, in place."""
        return _doubled(self, model, layers.FourierFeatures)


@register
@dataclasses.dataclass(frozen=True)
class MaxMin(Method):
    r"""MaxMin in place of every hidden activation (arXiv:2606.09762, Eq 10 to 13).

    .. math:: h_i = \max(z_i, z_{i+d/2}), \qquad h_{i+d/2} = \min(z_i, z_{i+d/2})

    Its Jacobian is a permutation, so that all its singular values are 1. Widths must be even; all weights
    keep their values.
    """

    name: ClassVar[str] = "maxmin"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="MaxMin",
        source="Anil et al., arXiv:1811.05381; arXiv:2606.09762, Eq 10 to 13",
        controls="the Jacobian of the activations (orthogonal)",
        spectrum="activations",
        family="architecture",
        cost="two to three ReLUs",
        claims=_CLAIMS,
    )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the activations in place."""
        return _replaced(self, model, self._make, "maxmin", along_features=True)

    def _make(self, hidden: Hidden) -> nn.Module:
        if hidden.features % 2:
            raise IsoplastError(
                f"method maxmin sorts features in pairs, and {hidden.name} gets {hidden.features}: "
                "make the width even"
            )
        return layers.MaxMin(hidden.dim)


@register
@dataclasses.dataclass(frozen=True)
class SmoothLeaky(Method):
    r"""A smooth leaky rectifier in place of every hidden activation (arXiv:2509.22562, Eq 1).

    .. math:: h = \alpha z + (1 - \alpha)\, z\, \sigma(c z / p)

    Its slopes lie in [0.010, 1.090] at the defaults, so no unit is ever dead. All weights keep their values.

    Args:
        alpha: slope far to the left, in (0, 1).
        power: p, width of the bend, > 0.
        curvature: c, sharpness of the bend, > 0.
    """

    name: ClassVar[str] = "smooth-leaky"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Smooth-leaky",
        source="Lillo and Cheney, arXiv:2509.22562, Eq 1",
        controls="the Jacobian of the activations (slopes above zero)",
        spectrum="activations",
        family="architecture",
        cost="a sigmoid per unit",
        claims=_CLAIMS,
    )

    alpha: float = 0.1
    power: float = 3.0
    curvature: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "alpha", "power", "curvature")
        fraction(self, "alpha", below_one=True)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the activations in place."""
        return _replaced(
            self,
            model,
            lambda hidden: layers.SmoothLeaky(self.alpha, self.power, self.curvature),
            "smooth-leaky",
        )


_BASES: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.GELU: "gelu"}


@register
@dataclasses.dataclass(frozen=True)
class AdaLin(Method):
    r"""A learned linear path beside every hidden activation (arXiv:2505.09486, Eq 2).

    .. math:: h_i = \phi(z_i) + \alpha_i\, z_i\, g(z_i), \qquad
              g(z) = \cos\left(\frac{\pi}{2} \frac{|\phi'(z)|}{L}\right)

    open where the unit saturates, with one learned alpha per unit that starts at 0: the network is unchanged
    at first. The activations must be ReLU, Tanh or GELU.
    """

    name: ClassVar[str] = "adalin"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="AdaLin",
        source="Rohani et al., arXiv:2505.09486, Eq 2",
        controls="the Jacobian of the activations (a learned slope where they saturate)",
        spectrum="activations",
        family="architecture",
        cost="a cosine per unit",
        claims=_CLAIMS,
    )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the activations in place."""
        return _replaced(self, model, lambda hidden: self._make(model, hidden), "adalin")

    def _make(self, model: nn.Module, hidden: Hidden) -> nn.Module:
        kind = type(model.get_submodule(own(self, hidden).name))
        if kind not in _BASES:
            known = ", ".join(base.__name__ for base in _BASES)
            raise IsoplastError(
                f"method adalin has a linear path for {known}, and {hidden.name} is {kind.__name__}: "
                "use one of them"
            )
        return layers.AdaLin(hidden.features, _BASES[kind], hidden.dim)


@register
@dataclasses.dataclass(frozen=True)
class IntervalDropout(Method):
    r"""Activation by interval-wise dropout in place of every hidden activation (arXiv:2502.01342).

    .. math:: h = b \max(z, 0) + (1 - b) \min(z, 0), \qquad b \sim \mathrm{Bernoulli}(p)

    for every entry of every sample in training; when it is evaluated, the mean, which pulls the network
    towards a linear one. All weights keep their values.

    Args:
        p: probability of the ReLU, in [0, 1]; 1 is ReLU.

    Deviations:
        None: the form with two intervals, which the source's experiments use. It tunes p: 0.9 for random
        labels and continual CIFAR-10, 0.7 to 0.999 elsewhere.
    """

    name: ClassVar[str] = "interval-dropout"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Interval-wise dropout (AID)",
        source="Park et al., arXiv:2502.01342",
        controls="the Jacobian of the activations (every slope is 1 at times)",
        spectrum="activations",
        family="architecture",
        cost="a random number per unit and sample",
        claims=_CLAIMS,
    )

    p: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "p")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the activations in place."""
        return _replaced(self, model, lambda hidden: layers.IntervalDropout(self.p), "relu")
