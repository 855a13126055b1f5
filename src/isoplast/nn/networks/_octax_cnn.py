"""The convolutional network of the paper's Octax agents."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn

from isoplast._core.checks import positive
from isoplast._core.errors import IsoplastError
from isoplast.nn.layers._isometric import IsometricConv2d
from isoplast.nn.networks._cnn import ConvolutionalNetwork
from isoplast.nn.networks._spec import LayeredSpec, image_shape, register
from isoplast.nn.networks._style import Style

# Filters, kernel and stride of each convolution.
_CONVS = ((32, (8, 4), (4, 2)), (64, (4, 4), (2, 2)), (64, (3, 3), (1, 1)))


class OctaxCNN(ConvolutionalNetwork):
    """Three convolutions that are no squares, and hidden layers; see `OctaxCNNSpec`."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, spec: OctaxCNNSpec) -> None:
        super().__init__()
        style = Style(spec)
        features, height, width = shape
        for filters, kernel, stride in _CONVS:
            # As many pixels on each side as make the output the input's size over the stride.
            rows, columns = ((taps - step + 1) // 2 for taps, step in zip(kernel, stride, strict=True))
            padding = (rows, columns)
            kind = IsometricConv2d if spec.linear == "isometric" else nn.Conv2d
            self.convs.append(kind(features, filters, kernel, stride, padding, bias=spec.bias))
            self.norms.append(style.normalization(filters, images=True))
            self.activations.append(style.activation(filters, dim=1))
            features = filters * style.expansion
            height = (height + 2 * rows - kernel[0]) // stride[0] + 1
            width = (width + 2 * columns - kernel[1]) // stride[1] + 1
        if height < 1 or width < 1:
            raise IsoplastError(f"network octax-cnn cannot take images as small as {shape[1:]}: try 'cnn'")
        self._finish(style, features * height * width, spec.width, spec.depth, outputs)


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class OctaxCNNSpec(LayeredSpec):
    """32 filters 8 x 4 with stride (4, 2), 64 of 4 x 4 with stride 2, 64 of 3 x 3, then hidden layers.

    Padded as JAX's "SAME" does it, so that 32 x 64 pixels become 4 x 16.

    Args:
        width: units of each hidden layer, >= 1.
        depth: number of hidden layers after the convolutions, >= 1.
        others: see `NetSpec`; there is no `init` "delta" for kernels that are not square.

    Reference:
        arXiv:2606.09762, Table 2.
    """

    name: ClassVar[str] = "octax-cnn"

    width: int = 64
    depth: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"network {self.name}", "width", "depth")
        if self.init == "delta":
            raise IsoplastError(
                "init of network octax-cnn is 'delta', which needs square kernels: choose another"
            )

    def build(self, input_shape: tuple[int, ...], classes: int) -> OctaxCNN:
        """Return the network for images."""
        return OctaxCNN(image_shape(self, input_shape), classes, self)
