"""Networks that are orthogonal by construction."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import nn

from isoplast.isometry import matrix_view, polar_factor
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._hidden_layers import hidden_layers
from isoplast.nn import IsometricConv2d, IsometricLinear


@register
@dataclasses.dataclass(frozen=True)
class NewtonSchulz(Method):
    r"""Adam on a network whose hidden weights are orthogonal by construction (arXiv:2606.09762, section 3).

    .. math:: h_l = \phi(Q_l h_{l-1} + b_l), \qquad Q_l = W_l (W_l^T W_l)^{-1/2}

    by differentiable Newton-Schulz iterations on the raw weight W (`isoplast.nn.IsometricLinear`,
    `IsometricConv2d`).

    Every hidden Linear and Conv2d layer is replaced; it starts at the polar factor of the weight it had. The
    head and embeddings stay as they are, so that the network's Lipschitz constant is free.

    Args:
        iterations: Newton-Schulz iterations, >= 1. The paper's 7.
        reorthogonalize_every: steps between two exact orthogonalisations of the raw weights, >= 1. The
            paper's 10 000, which it calls arbitrary.

    Deviation: the paper scales by one power iteration, which can be too low to converge; here by a rigorous
    bound (docs/isometric-networks.md).
    """

    name: ClassVar[str] = "newton-schulz"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Hard orthogonality by Newton-Schulz",
        source="Rosseau, Müller and Nowé, arXiv:2606.09762, section 3 and appendix B.1",
        controls="every singular value of the hidden layers (equal to 1)",
        spectrum="all",
        family="isometry",
        cost="Newton-Schulz iterations on each hidden layer and their gradient",
        claims=frozenset({"weights"}),
    )

    iterations: int = 7
    reorthogonalize_every: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "iterations", "reorthogonalize_every")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Replace the hidden layers in place."""
        layers = hidden_layers(self, model, (nn.Linear, nn.Conv2d))
        replaced = {layer: self._isometric(layer) for layer in layers.values()}
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):  # named_children() shows a shared layer once
                if child in replaced:
                    setattr(parent, name, replaced[child])
        return model

    @torch.no_grad()
    def _isometric(self, layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        own: dict[str, Any] = {
            "bias": layer.bias is not None,
            "iterations": self.iterations,
            "reorthogonalize_every": self.reorthogonalize_every,
            "device": layer.weight.device,
            "dtype": layer.weight.dtype,
        }
        new: IsometricLinear | IsometricConv2d
        if isinstance(layer, nn.Linear):
            new = IsometricLinear(layer.in_features, layer.out_features, **own)
        else:
            keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
            geometry: dict[str, Any] = {key: getattr(layer, key) for key in keys}
            new = IsometricConv2d(layer.in_channels, layer.out_channels, **geometry, **own)
        new.weight.copy_(polar_factor(matrix_view(layer.weight)).view_as(layer.weight))
        new.weight.requires_grad_(layer.weight.requires_grad)
        new.bias = layer.bias
        new.train(layer.training)
        return new
