"""The multi-layer perceptron of the supervised benchmarks."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor, nn

from isoplast._core.checks import positive
from isoplast.nn.networks._spec import LayeredSpec, register
from isoplast.nn.networks._style import Style


class MLP(nn.Module):
    """Hidden layers `layers.i`, nonlinearities `activations.i`, output layer `head`."""

    def __init__(self, input_features: int, outputs: int, spec: MLPSpec) -> None:
        super().__init__()
        style = Style(spec)
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.activations = nn.ModuleList()
        features = input_features
        for _ in range(spec.depth):
            self.layers.append(style.linear(features, spec.width))
            self.norms.append(style.normalization(spec.width))
            self.activations.append(style.activation(spec.width))
            features = spec.width * style.expansion
        self.head = style.head(features, outputs)
        style.initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (n, classes) for inputs of shape (n, *input_shape)."""
        hidden = inputs.flatten(1)
        for layer, norm, activation in zip(self.layers, self.norms, self.activations, strict=True):
            hidden = activation(norm(layer(hidden)))
        return self.head(hidden)  # type: ignore[no-any-return]


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPSpec(LayeredSpec):
    """The paper's MLP: `depth` hidden layers of `width` units and a head.

    Args:
        width: units of each hidden layer, >= 1.
        depth: number of hidden layers, >= 1. The paper's "depth 4" is read as 4 weight layers
            (depth=3); depth=4 is the other reading.
        others: see `NetSpec`.

    Reference:
        arXiv:2606.09762, appendix B.1.
    """

    name: ClassVar[str] = "mlp"

    width: int = 512
    depth: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"network {self.name}", "width", "depth")

    def build(self, input_shape: tuple[int, ...], classes: int) -> MLP:
        """Return the network; inputs of any shape are flattened."""
        return MLP(math.prod(input_shape), classes, self)
