"""A small causal language model."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.nn.networks._spec import register
from isoplast.nn.networks._style import Style
from isoplast.nn.networks._transformer import TransformerSpec


class GPT(nn.Module):
    """Token table `tokens`, blocks `blocks.i`, output layer `head` at every position."""

    def __init__(self, context: int, vocabulary: int, spec: GPTSpec) -> None:
        super().__init__()
        style = Style(spec)
        self.tokens = nn.Embedding(vocabulary, spec.width)
        self.position = nn.Parameter(0.02 * torch.randn(context, spec.width))
        self.blocks = spec.blocks(causal=True)
        self.norm = style.normalization(spec.width)
        self.head = style.head(spec.width, vocabulary)
        style.initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (n, length, classes) for token numbers (n, length), length <= context."""
        hidden = self.tokens(inputs) + self.position[: inputs.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTSpec(TransformerSpec):
    """A small GPT: learned positions, causal attention, untied head.

    `build` takes the context length as input_shape, (length,), and the vocabulary as classes.

    Args:
        others: see `TransformerSpec`.

    Reference:
        Radford et al., "Language models are unsupervised multitask learners", 2019.
    """

    name: ClassVar[str] = "gpt"

    def build(self, input_shape: tuple[int, ...], classes: int) -> GPT:
        """Return the network for sequences of up to input_shape[0] tokens out of `classes`."""
        if len(input_shape) != 1:
            raise IsoplastError(f"network gpt reads token sequences (length,), got {input_shape}")
        return GPT(input_shape[0], classes, self)
