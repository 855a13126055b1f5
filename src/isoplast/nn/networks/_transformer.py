"""The parts that the vision transformer and the language model share."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._core.checks import positive
from isoplast._core.errors import IsoplastError
from isoplast.nn.networks._spec import ResidualSpec
from isoplast.nn.networks._style import Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSpec(ResidualSpec):
    """What both transformers are made of.

    Args:
        width: features of every token; a multiple of heads.
        depth: blocks, >= 1.
        heads: attention heads, >= 1.
        mlp_ratio: hidden features of the MLP sublayers over width, >= 1.
        others: see `ResidualSpec`. The normalisation is None or "layernorm" (the default).
    """

    normalization: str | None = "layernorm"
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"network {self.name}", "width", "depth", "heads", "mlp_ratio")
        if self.width % self.heads:
            raise IsoplastError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.normalization == "batchnorm":
            raise IsoplastError(f"network {self.name} normalises tokens: use 'layernorm' or None")

    def blocks(self, *, causal: bool) -> nn.ModuleList:
        """Return the blocks."""
        return nn.ModuleList(Block(self, causal) for _ in range(self.depth))


class Attention(nn.Module):
    """Multi-head self-attention whose four projections are matrices of their own.

    Under AdamO each is kept isometric as a whole; `isoplast.param_groups(model, per_head=True)` keeps every
    head's block of query, key and value isometric instead.
    """

    def __init__(self, width: int, heads: int, style: Style, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.query = style.linear(width, width)
        self.key = style.linear(width, width)
        self.value = style.linear(width, width)
        self.output = style.linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return mixed tokens, shape (n, length, width) as the inputs."""
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + scale * attention(norm(x)), then x + scale * mlp(norm(x))."""

    def __init__(self, spec: TransformerSpec, causal: bool) -> None:
        super().__init__()
        style = Style(spec)
        hidden = spec.width * spec.mlp_ratio
        self.scale = spec.scale(2 * spec.depth)
        self.norm1 = style.normalization(spec.width)
        self.attention = Attention(spec.width, spec.heads, style, causal=causal)
        self.norm2 = style.normalization(spec.width)
        self.expand = style.linear(spec.width, hidden)
        self.activation = style.activation(hidden)
        self.contract = style.linear(hidden * style.expansion, spec.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens, shape (n, length, width) as the inputs."""
        tokens = tokens + self.scale * self.attention(self.norm1(tokens))
        hidden = self.activation(self.expand(self.norm2(tokens)))
        return tokens + self.scale * self.contract(hidden)  # type: ignore[no-any-return]
