"""Nonlinearities: the base class of ours, those of torch, and the functions behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class Activation(nn.Module):
    """A nonlinearity: derive yours from it, and every instrument and method knows it for one.

    Attributes:
        expansion: features that leave for each that enters: 2 for [f(x), g(x)] along `dim`.
        group_size: features that it mixes: g for those that lie features / g apart along `dim`.
        dim: the dimension of the features; None where it takes every number by itself.

    Example:
        >>> class Square(Activation):
        ...     def forward(self, inputs):
        ...         return inputs.square()
        >>> activation_kind(Square())
        'square'
    """

    expansion: ClassVar[int] = 1
    group_size: int = 1
    dim: int | None = None

    forward: Callable[..., Tensor]


_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign,
    nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip

ACTIVATION_MODULES = (*_ELEMENTWISE, Activation)
"""Nonlinearities that keep units apart."""

_ATTENTION = "attention"
_SCORES = "sdpa"
MIXING_KINDS = (_ATTENTION, _SCORES)
"""Kinds of activation that are no function of single units."""

_FUNCTIONS = {
    name: name.rstrip("_")
    for name in (
        "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "gelu", "silu",
        "mish", "elu", "elu_", "selu", "selu_", "celu", "celu_", "softplus", "softsign", "hardswish",
        "hardtanh", "hardtanh_", "hardsigmoid", "tanh", "tanh_", "sigmoid", "sigmoid_", "logsigmoid",
        "hardshrink", "softshrink", "tanhshrink", "threshold", "threshold_", "glu",
    )
} | {"scaled_dot_product_attention": _SCORES, "multi_head_attention_forward": _ATTENTION}  # fmt: skip

UNIT_FUNCTIONS = (
    _FUNCTIONS.keys() - {"prelu", "glu", "scaled_dot_product_attention", "multi_head_attention_forward"}
) | {"sin", "cos", "abs", "square", "clamp", "clamp_min", "clip"}
"""Names of nonlinear functions that act on every unit by itself and own no weight."""


def is_activation(module: nn.Module) -> bool:
    """Whether a module is a nonlinearity that keeps units apart: one of torch's, or an `Activation`."""
    return isinstance(module, ACTIVATION_MODULES)


def activation_kind(module: nn.Module) -> str | None:
    """What a module is called in the tables of the instruments if its output is an activation, else None.

    Those of torch and ours, gates and attention; recurrent layers are none here.
    """
    if isinstance(module, nn.MultiheadAttention):
        return _ATTENTION
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu"
    known = isinstance(module, (*ACTIVATION_MODULES, nn.GLU))
    return type(module).__name__.lower() if known else None


def function_kind(function: Any) -> str | None:
    """The same for a function of torch, told by its name."""
    return _FUNCTIONS.get(function_name(function))


def function_name(function: Any) -> str:
    """The name of a function or method, as in torch's documentation."""
    return function if isinstance(function, str) else str(getattr(function, "__name__", function))
