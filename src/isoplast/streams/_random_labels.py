"""Random-label memorisation: the same images, new meaningless labels for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Stream, StreamInfo, TaskSequence, register
from isoplast.streams._labels import need_classes
from isoplast.streams._views import Task


@register
@dataclass(frozen=True, kw_only=True)
class RandomLabels(Stream):
    r"""Every task redraws all labels, uniformly and independently.

    .. math:: y_i^{(t)} \sim \mathrm{Uniform}\{0, \dots, C - 1\}

    Nothing carries over from one task to the next, so the accuracy reached on a task measures plasticity
    alone. The labels of the data are not used, and there is nothing to generalise to, hence no test part.

    Args:
        tasks: how many, >= 1.

    Reference:
        arXiv:2606.09762, section 6, random-label memorisation.
    """

    name: ClassVar[str] = "random-labels"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="plasticity alone: how well new targets are fitted, when nothing carries over",
        chance="1 / classes",
        published="arXiv:2606.09762, section 6 (CIFAR-10, MLP, 200 tasks of 256 epochs); arXiv:2303.01486",
        reveals="when a task begins",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score == "held-out":
            raise IsoplastError(
                f"score of stream {self.name} is 'held-out': there is nothing to generalise to, set score: "
                "training"
            )

    def check_data(self, data: Dataset | None) -> None:
        """Data must have classes to draw from."""
        need_classes(self, data)

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The inputs of the data with labels of their own."""
        assert source.data is not None
        assert source.data.classes is not None
        labels = source.bits(index, len(source.data.inputs)) % source.data.classes
        return Task(index, source.data.inputs, torch.from_numpy(labels.astype("int64")))
