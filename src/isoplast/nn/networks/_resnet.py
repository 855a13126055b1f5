"""The residual network with 18 weight layers, in its form for small images."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from isoplast._core.checks import positive
from isoplast.nn.networks._spec import ResidualSpec, image_shape, register
from isoplast.nn.networks._style import Style

_STRIDES = (1, 2, 2, 2)
_BLOCKS = 2


class ResidualBlock(nn.Module):
    """activation(shortcut(x) + scale * conv(activation(conv(x)))), each convolution normalised."""

    def __init__(self, inputs: int, outputs: int, stride: int, scale: float, style: Style) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = style.conv(inputs, outputs, 3, stride)
        self.norm1 = style.normalization(outputs, images=True)
        self.activation1 = style.activation(outputs, dim=1)
        self.conv2 = style.conv(outputs * style.expansion, outputs, 3, 1)
        self.norm2 = style.normalization(outputs, images=True)
        self.shortcut: nn.Module = nn.Identity()
        self.shortcut_norm: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = style.conv(inputs, outputs, 1, stride)
            self.shortcut_norm = style.normalization(outputs, images=True)
        self.activation2 = style.activation(outputs, dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features (n, outputs * expansion, height / stride, width / stride)."""
        branch = self.activation1(self.norm1(self.conv1(inputs)))
        branch = self.norm2(self.conv2(branch))
        straight = self.shortcut_norm(self.shortcut(inputs))
        return self.activation2(straight + self.scale * branch)  # type: ignore[no-any-return]


class ResNet18(nn.Module):
    """Stem `stem`, blocks `blocks.i`, output layer `head` on the mean over all positions."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, spec: ResNet18Spec) -> None:
        super().__init__()
        style = Style(spec)
        scale = spec.scale(_BLOCKS * len(_STRIDES))
        self.stem = style.conv(shape[0], spec.width, 3, 1)
        self.norm = style.normalization(spec.width, images=True)
        self.activation = style.activation(spec.width, dim=1)
        features = spec.width * style.expansion
        self.blocks = nn.ModuleList()
        for stage, stride in enumerate(_STRIDES):
            width = spec.width * 2**stage
            for index in range(_BLOCKS):
                self.blocks.append(ResidualBlock(features, width, stride if index == 0 else 1, scale, style))
                features = width * style.expansion
        self.head = style.head(features, outputs)
        style.initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (n, classes) for images (n, channels, height, width)."""
        hidden = self.activation(self.norm(self.stem(inputs)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean((2, 3)))  # type: ignore[no-any-return]


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet18Spec(ResidualSpec):
    """ResNet-18 for small images: a 3 x 3 stem without pooling, four stages of two blocks.

    Args:
        width: channels of the first stage, >= 1; every later stage doubles them.
        others: see `ResidualSpec`. The normalisation is "batchnorm" by default, as in the original.

    Reference:
        He et al., "Deep residual learning for image recognition", CVPR 2016.
    """

    name: ClassVar[str] = "resnet18"

    normalization: str | None = "batchnorm"
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"network {self.name}", "width")

    def build(self, input_shape: tuple[int, ...], classes: int) -> ResNet18:
        """Return the network for images of any size."""
        return ResNet18(image_shape(self, input_shape), classes, self)
