"""The convolutional network of the label-shuffling benchmark."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from isoplast._core.checks import positive
from isoplast.nn.networks._spec import LayeredSpec, image_shape, register
from isoplast.nn.networks._style import Style

_STRIDES = (1, 1, 2)


class ConvolutionalNetwork(nn.Module):
    """Convolutions `convs.i`, hidden layers `layers.i`, nonlinearities `activations.i`, and `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.activations = nn.ModuleList()

    def _finish(self, style: Style, features: int, width: int, depth: int, outputs: int) -> None:
        """Put the hidden layers and the head behind the convolutions, which give so many features."""
        for _ in range(depth):
            self.layers.append(style.linear(features, width))
            self.norms.append(style.normalization(width))
            self.activations.append(style.activation(width))
            features = width * style.expansion
        self.head = style.head(features, outputs)
        style.initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (n, classes) for images (n, channels, height, width)."""
        hidden = inputs
        stages = zip([*self.convs, *self.layers], self.norms, self.activations, strict=True)
        for index, (layer, norm, activation) in enumerate(stages):
            if index == len(self.convs):
                hidden = hidden.flatten(1)
            hidden = activation(norm(layer(hidden)))
        return self.head(hidden)  # type: ignore[no-any-return]


class CNN(ConvolutionalNetwork):
    """Three convolutions and two hidden layers; see `CNNSpec`."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, spec: CNNSpec) -> None:
        super().__init__()
        style = Style(spec)
        features, height, width = shape
        for stride in _STRIDES:
            self.convs.append(style.conv(features, spec.channels, 3, stride))
            self.norms.append(style.normalization(spec.channels, images=True))
            self.activations.append(style.activation(spec.channels, dim=1))
            features = spec.channels * style.expansion
            height, width = -(-height // stride), -(-width // stride)
        self._finish(style, features * height * width, spec.width, 2, outputs)


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class CNNSpec(LayeredSpec):
    """The paper's CNN: three 3 x 3 convolutions (strides 1, 1, 2), two hidden layers and a head.

    The paper names neither padding nor pooling; ours pads by one pixel and does not pool.

    Args:
        channels: of each convolution, >= 1.
        width: units of each of the two fully connected hidden layers, >= 1.
        others: see `NetSpec`.

    Reference:
        arXiv:2606.09762, appendix B.1.
    """

    name: ClassVar[str] = "cnn"

    channels: int = 32
    width: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"network {self.name}", "channels", "width")

    def build(self, input_shape: tuple[int, ...], classes: int) -> CNN:
        """Return the network for images of any size."""
        return CNN(image_shape(self, input_shape), classes, self)
