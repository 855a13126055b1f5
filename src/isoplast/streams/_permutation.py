"""Streams that put the values of every input in another order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._numbers import draw, permutation
from isoplast.streams._views import Task, View

_EXAMPLES = 1  # of the bits: which examples a task has


@register
@dataclass(frozen=True, kw_only=True)
class PixelPermutation(Stream):
    r"""Every task shuffles the values of the inputs, each in its own order; the labels stay.

    .. math:: x_{ij}^{(t)} = x_{i \pi_t(j)}, \qquad \pi_t \text{ a random permutation}

    Nothing that a network learned of one order helps with the next, and every order is equally hard.

    Args:
        spatial: moves whole pixels, all channels together; False: every value by itself.
        examples: how many examples a task has, drawn anew for each, >= 1; None: all.
        others: see `Stream`.

    Reference:
        arXiv:2606.09762, section 6, pixel permutation.
    """

    name: ClassVar[str] = "pixel-permutation"
    scored: ClassVar[Score] = "held-out"
    interpolates: ClassVar[bool] = True
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="generalisation on inputs in an order never seen before",
        chance="1 / classes",
        published="arXiv:2606.09762, section 6 (CIFAR-10, MLP, 1000 tasks); arXiv:1312.6211 (MNIST)",
        reveals="when a task begins; not its order",
    )

    spatial: bool = False
    examples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 1, "examples")
        if self.blend == "interpolation" and self.examples is not None:
            raise IsoplastError(
                f"blend of stream {self.name} is 'interpolation': every task must have all examples, set "
                "examples: null"
            )

    def check_data(self, data: Dataset | None) -> None:
        """Data must have pixels to be moved, and as many examples as a task wants."""
        assert data is not None
        if self.spatial and data.inputs.ndim < 4:
            raise IsoplastError(
                f"stream {self.name} with spatial moves pixels, and inputs of data {data.name!r} are "
                f"{tuple(data.inputs.shape[1:])}: give images (channels, height, width)"
            )
        if self.examples is not None and self.examples > len(data.inputs):
            raise IsoplastError(
                f"examples of stream {self.name} is {self.examples}, and data {data.name!r} has "
                f"{len(data.inputs)}: ask for no more"
            )

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The data in another order."""
        data = source.data
        assert data is not None
        features = self._order(source, index, tuple(data.inputs.shape[1:]))
        rows, targets, test = None, data.targets, data.test
        if self.examples is not None:
            rows = draw(source.bits(index, len(targets), _EXAMPLES), self.examples)
            targets = targets[rows]
        return Task(
            index,
            View(data.inputs, rows, features),
            targets,
            None if test is None else View(test.inputs, features=features),
            None if test is None else test.targets,
        )

    def _order(self, source: TaskSequence, index: int, shape: tuple[int, ...]) -> Tensor:
        if not self.spatial:
            return permutation(source.bits(index, math.prod(shape)))
        pixels = math.prod(shape[1:])
        moved = permutation(source.bits(index, pixels))
        return (torch.arange(shape[0])[:, None] * pixels + moved).flatten()


@register
@dataclass(frozen=True, kw_only=True)
class OnlinePermutation(PixelPermutation):
    """Pixel permutation, learned in one pass, and scored by the answers given before each mini-batch.

    The protocol of input-permuted MNIST: 200 tasks of 5000 examples each. Set `epochs: 1`, and
    `batch_size: 1` for one example at a time.

    Args:
        others: see `PixelPermutation`.

    Reference:
        Elsayed and Mahmood, "Addressing loss of plasticity and catastrophic forgetting in continual
        learning", ICLR 2024, arXiv:2404.00781, section 4 (input-permuted MNIST).
    """

    name: ClassVar[str] = "online-permutation"
    scored: ClassVar[Score] = "online"
    one_pass: ClassVar[bool] = True
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="how fast a network learns an order never seen before, each example seen once",
        chance="1 / classes",
        published="arXiv:2404.00781 (input-permuted MNIST); arXiv:2306.13812 (online permuted MNIST)",
        reveals="when a task begins; not its order",
    )

    tasks: int = 200
    examples: int | None = 5000
