"""The small vision transformer of the paper's preliminary study."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast._core.checks import positive
from isoplast._core.errors import IsoplastError
from isoplast.nn.networks._spec import image_shape, register
from isoplast.nn.networks._style import Style
from isoplast.nn.networks._transformer import TransformerSpec


class ViT(nn.Module):
    """Patch projection `patches`, blocks `blocks.i`, output layer `head` on the mean over the tokens."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, spec: ViTSpec) -> None:
        super().__init__()
        style = Style(spec)
        channels, height, width = shape
        self.side = spec.patch
        tokens = (height // spec.patch) * (width // spec.patch)
        self.patches = style.linear(channels * spec.patch**2, spec.width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, spec.width))
        self.blocks = spec.blocks(causal=False)
        self.norm = style.normalization(spec.width)
        self.head = style.head(spec.width, outputs)
        style.initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (n, classes) for images (n, channels, height, width)."""
        # (n, c, rows, side, columns, side) -> (n, rows * columns, c * side * side)
        pixels = inputs.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))  # type: ignore[no-untyped-call]
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens = self.patches(pixels) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens).mean(1))  # type: ignore[no-any-return]


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTSpec(TransformerSpec):
    """A vision transformer: 4 blocks of 4 heads with MLP sublayers.

    The paper gives blocks and heads; width, patches and the mean over tokens are ours.

    Args:
        patch: side of the square patches in pixels; must divide height and width.
        others: see `TransformerSpec`.

    Reference:
        arXiv:2606.09762, appendix B.7.
    """

    name: ClassVar[str] = "vit"

    patch: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"network {self.name}", "patch")

    def build(self, input_shape: tuple[int, ...], classes: int) -> ViT:
        """Return the network for images whose sides are multiples of the patch."""
        shape = image_shape(self, input_shape)
        if shape[1] % self.patch or shape[2] % self.patch:
            raise IsoplastError(f"{shape[1]} x {shape[2]} images do not divide into patches of {self.patch}")
        return ViT(shape, classes, self)
