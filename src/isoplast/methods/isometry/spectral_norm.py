"""Spectral normalisation of the hidden layers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn
from torch.nn.utils import parametrizations

from isoplast._core.layer_kinds import LAYERS
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._hidden_layers import hidden_layers


@register
@dataclasses.dataclass(frozen=True)
class SpectralNorm(Method):
    r"""Adam on a network whose hidden weights are divided by their largest singular value (arXiv:1802.05957).

    .. math:: \bar W_l = W_l / \hat\sigma_{max}(W_l), \qquad
              \hat\sigma_{max} = u^T W v \text{ by power iteration}

    All other singular values may vanish.

    `torch.nn.utils.parametrizations.spectral_norm` on every hidden Linear and convolution layer (kernels
    flattened to (out, in * k * k)); head and embeddings stay free. The raw weights and the vectors u and v
    are in the network's `state_dict`. As in the source, the estimate starts from random vectors (torch warms
    them up by 15 iterations) and improves in every training-mode pass; it is never above the true value.

    Args:
        iterations: power iterations in every forward pass in training mode, >= 1. The source's 1.
    """

    name: ClassVar[str] = "spectral-norm"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Spectral normalisation",
        source="Miyato, Kataoka, Koyama and Yoshida, arXiv:1802.05957, algorithm 1",
        controls="the largest singular value of the hidden layers (equal to 1)",
        spectrum="largest",
        family="isometry",
        cost="three products of a matrix and a vector, and a division of the weight, for each hidden layer",
        claims=frozenset({"weights"}),
    )

    iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "iterations")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Normalise the hidden layers in place."""
        for layer in hidden_layers(self, model, LAYERS).values():
            parametrizations.spectral_norm(layer, n_power_iterations=self.iterations)
        return model
