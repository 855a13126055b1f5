"""Training on part of the data first, then on more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isoplast._core.errors import IsoplastError
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._numbers import draw
from isoplast.streams._views import Task, View


@register
@dataclass(frozen=True, kw_only=True)
class WarmStart(Stream):
    r"""The same data in growing parts: task t has a share :math:`\min(1, (t + 1) s)` of them.

    With s = 1/2 and two tasks this is the warm start: half of the data, then all. Compare its last score with
    that of a fresh network on all data (s = 1, one task): the gap is what the head start cost.

    Args:
        share: s, the share of the examples that each task adds, in (0, 1].
        others: see `Stream`.

    Reference:
        Ash and Adams, "On warm-starting neural network training", NeurIPS 2020, arXiv:1910.08475.
    """

    name: ClassVar[str] = "warm-start"
    scored: ClassVar[Score] = "held-out"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="what training on part of the data first costs in generalisation on all of them",
        chance="that of the data: 1 / classes",
        published="arXiv:1910.08475 (CIFAR-10, SVHN, CIFAR-100)",
        reveals="when more data come",
    )

    tasks: int = 2
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise IsoplastError(f"share of stream {self.name} is {self.share}: it must be in (0, 1]")

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The first so many examples of a random order."""
        data = source.data
        assert data is not None
        total = len(data.targets)
        count = min(total, max(1, round(total * self.share * (index + 1))))
        test = data.test
        held_out = (None, None) if test is None else (test.inputs, test.targets)
        if count == total:
            return Task(index, data.inputs, data.targets, *held_out)
        rows = draw(source.bits(0, total), count)
        return Task(index, View(data.inputs, rows), data.targets[rows], *held_out)
