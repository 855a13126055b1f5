"""Nonlinearities that keep signals and gradients alive.

Every class says what its Jacobian is and, in `expansion`, how many features leave per feature entering.
The feature dimension is `dim`: -1 for (n, features), 1 for (n, channels, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.layer_kinds import Activation
from isoplast.nn.layers._maxmin import maxmin


@torch.fx.wrap
def groupsort(inputs: Tensor, group_size: int, dim: int) -> Tensor:
    """Sort groups of features in descending order; see `GroupSort`."""
    features = inputs.shape[dim]
    if features % group_size:
        raise IsoplastError(
            f"{features} features cannot be sorted in groups of {group_size}: "
            f"make the width a multiple of {group_size} or change group_size"
        )
    if group_size == 2:
        return maxmin(inputs, dim)
    dim = dim % inputs.dim()
    groups = torch.unflatten(inputs, dim, (group_size, features // group_size))
    return groups.sort(dim, descending=True).values.flatten(dim, dim + 1)


class GroupSort(Activation):
    r"""Sort the features inside groups of `group_size`, in descending order.

    .. math:: (y_i, y_{i+k}, \dots, y_{i+(g-1)k}) = \text{sort}(x_i, x_{i+k}, \dots, x_{i+(g-1)k}),
              \quad k = d/g

    Jacobian: a permutation matrix wherever the members of each group differ, that is almost
    everywhere: orthogonal, so norms are preserved forward and backward. Features: d -> d.

    The members of a group lie d/g apart rather than side by side: a fixed permutation of the features,
    which the next layer's weights absorb, and what lets the groups of two run on contiguous memory.

    Args:
        group_size: g >= 2; must divide the number of features.
        dim: the feature dimension.

    Raises:
        IsoplastError: here for a group_size below 2, at the call for features it does not divide.

    Example:
        >>> GroupSort(2)(torch.tensor([[1.0, 5.0, 3.0, 4.0]]))
        tensor([[3., 5., 1., 4.]])

    Reference:
        Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation", ICML 2019.
    """

    dim: int

    def __init__(self, group_size: int, dim: int = -1) -> None:
        super().__init__()
        if group_size < 2:
            raise IsoplastError(f"group_size is {group_size}: sorting needs groups of at least 2")
        self.group_size = group_size
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sorted features, shaped like the inputs."""
        return groupsort(inputs, self.group_size, self.dim)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"group_size={self.group_size}, dim={self.dim}"


class MaxMin(GroupSort):
    r"""GroupSort with groups of two: the paper's isometric nonlinearity.

    .. math:: y_i = \max(x_i, x_{i+d/2}), \qquad y_{i+d/2} = \min(x_i, x_{i+d/2})

    Jacobian: a permutation matrix almost everywhere, so orthogonal. Features: d -> d, d even.
    Never calls sort; costs about two to three times a ReLU (benchmarks/maxmin_costs_what_relu_costs.py).

    Args:
        dim: the feature dimension.

    Raises:
        IsoplastError: at the call, for an odd number of features.

    Example:
        >>> MaxMin()(torch.tensor([[1.0, 5.0, 3.0, 4.0]]))
        tensor([[3., 5., 1., 4.]])

    Reference:
        arXiv:2606.09762, Eqs 10-13; Anil et al. 2019; Chernodub and Nowicki 2016.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__(2, dim)


class CReLU(Activation):
    r"""Concatenated ReLU: keep both signs.

    .. math:: y = [\max(x, 0), \max(-x, 0)]

    Jacobian: [D; D - I] with D = diag(x > 0), a column isometry (J^T J = I) almost everywhere; no
    unit is ever dead in both halves. Features: d -> 2d, so the next layer must take 2d.

    Args:
        dim: the feature dimension.

    Example:
        >>> CReLU()(torch.tensor([[1.0, -2.0]]))
        tensor([[1., 0., 0., 2.]])

    Reference:
        Shang et al. 2016; Abbas et al., "Loss of plasticity in continual deep RL", 2023.
    """

    expansion: ClassVar[int] = 2

    dim: int

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Return twice as many features, all non-negative."""
        return F.relu(torch.cat((inputs, -inputs), self.dim))

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"dim={self.dim}"


class FourierFeatures(Activation):
    r"""Deep Fourier features: a sine and a cosine of every pre-activation.

    .. math:: y = [\sin x, \cos x]

    Jacobian: [diag(cos x); -diag(sin x)], a column isometry (J^T J = I) everywhere: where one half is
    flat the other is steep. Features: d -> 2d, so the next layer must take 2d.

    Args:
        dim: the feature dimension.

    Example:
        >>> FourierFeatures()(torch.zeros(1, 2))
        tensor([[0., 0., 1., 1.]])

    Reference:
        Lewandowski, Schuurmans and Machado, "Plastic learning with deep Fourier features",
        arXiv:2410.20634.
    """

    expansion: ClassVar[int] = 2

    dim: int

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Return twice as many features, all within [-1, 1]."""
        return torch.cat((inputs.sin(), inputs.cos()), self.dim)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"dim={self.dim}"


class SmoothLeaky(Activation):
    r"""A leaky rectifier with a smooth bend.

    .. math:: y = \alpha x + (1 - \alpha)\, x\, \sigma(c x / p)

    Jacobian: diagonal, within [a - 0.0998 (1 - a), 1 + 0.0998 (1 - a)] for a = alpha, that is
    [0.010, 1.090] at the default: never zero, never far above one. Features: d -> d.

    Args:
        alpha: slope far to the left, in (0, 1); above 0.0908 the slope is positive everywhere.
        power: p > 0, width of the bend.
        curvature: c > 0, sharpness of the bend.

    Example:
        >>> SmoothLeaky()(torch.tensor([-100.0, 0.0, 100.0]))
        tensor([-10.,   0., 100.])

    Reference:
        Lillo and Cheney, "Activation function design sustains plasticity in continual learning",
        arXiv:2509.22562, Eq 1.
    """

    def __init__(self, alpha: float = 0.1, power: float = 3.0, curvature: float = 5.0) -> None:
        super().__init__()
        if not 0.0 < alpha < 1.0:
            raise IsoplastError(f"alpha of SmoothLeaky is {alpha}: it must lie in (0, 1)")
        if power <= 0.0 or curvature <= 0.0:
            raise IsoplastError(f"power {power}, curvature {curvature} of SmoothLeaky: both must be positive")
        self.alpha = alpha
        self.power = power
        self.curvature = curvature

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the activations, shaped like the inputs."""
        bend = torch.sigmoid(inputs * (self.curvature / self.power))
        return inputs * (self.alpha + (1.0 - self.alpha) * bend)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"alpha={self.alpha}, power={self.power}, curvature={self.curvature}"


def _relu_slope(inputs: Tensor) -> Tensor:
    return (inputs > 0).to(inputs.dtype)


def _tanh_slope(inputs: Tensor) -> Tensor:
    return 1.0 - inputs.tanh().square()


def _gelu_slope(inputs: Tensor) -> Tensor:
    density = torch.exp(-0.5 * inputs.square()) / math.sqrt(2.0 * math.pi)
    return 0.5 * (1.0 + torch.erf(inputs / math.sqrt(2.0))) + inputs * density


# base -> (function, derivative, Lipschitz constant); GELU's steepest point is x = sqrt 2.
_BASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float]] = {
    "relu": (F.relu, _relu_slope, 1.0),
    "tanh": (torch.tanh, _tanh_slope, 1.0),
    "gelu": (F.gelu, _gelu_slope, 1.1289041),
}


class AdaLin(Activation):
    r"""Adaptive linearisation: a learned linear path that opens where the unit saturates.

    .. math:: y_i = \phi(x_i) + \alpha_i\, x_i\, \text{sg}[g(x_i)], \qquad
              g(x) = \cos\left(\frac{\pi}{2} \frac{|\phi'(x)|}{L}\right)

    with sg the stop-gradient and L the Lipschitz constant of :math:`\phi`. With ReLU it is a PReLU with
    one slope per unit. Jacobian (as the backward pass sees it): diag(phi'(x_i) + alpha_i g(x_i)).
    Features: d -> d. At alpha = 0, the initial value, it is exactly its base.

    Args:
        features: number of units d; each has its own alpha.
        base: "relu", "tanh" or "gelu".
        dim: the feature dimension.

    Raises:
        IsoplastError: for an unknown base.

    Example:
        >>> AdaLin(2)(torch.tensor([[1.0, -2.0]])).tolist()
        [[1.0, 0.0]]

    Reference:
        Rohani et al., "Preserving plasticity in continual learning with adaptive linearity injection",
        arXiv:2505.09486, Eq 2.
    """

    dim: int

    def __init__(self, features: int, base: str = "relu", dim: int = -1) -> None:
        super().__init__()
        if base not in _BASES:
            raise unknown("base of AdaLin", base, _BASES)
        self.base = base
        self.dim = dim
        self.alpha = nn.Parameter(torch.zeros(features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the activations, shaped like the inputs."""
        function, slope, lipschitz = _BASES[self.base]
        gate = torch.cos(slope(inputs.detach()).abs() * (math.pi / (2.0 * lipschitz)))
        linear = (inputs * gate).movedim(self.dim, -1) * self.alpha
        return function(inputs) + linear.movedim(-1, self.dim)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"features={len(self.alpha)}, base={self.base!r}, dim={self.dim}"
