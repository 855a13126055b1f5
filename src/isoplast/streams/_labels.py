"""Streams that change what the labels mean, or how many of them are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from isoplast._core.checks import at_least, fraction
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._numbers import below, permutation, uniform
from isoplast.streams._views import Task

_WRONG = 1  # of the bits: the label of an example that is wrong


def need_classes(stream: Stream, data: Dataset | None) -> int:
    """The number of classes; raises IsoplastError for data without any."""
    assert data is not None
    if data.classes is None or data.targets.ndim != 1:
        raise IsoplastError(
            f"stream {stream.name} needs a class for each sample, and data {data.name!r} have none"
        )
    return data.classes


@register
@dataclass(frozen=True, kw_only=True)
class LabelShuffling(Stream):
    r"""Every task gives the classes new numbers; the images stay.

    .. math:: y_i^{(t)} = \pi_t(y_i), \qquad \pi_t \text{ a random permutation of the classes}

    The features of one task serve all others: what is lost is the ability to map them anew.

    Args:
        others: see `Stream`.

    Reference:
        arXiv:2606.09762, section 6, label shuffling on CIFAR-100.
    """

    name: ClassVar[str] = "label-shuffling"
    scored: ClassVar[Score] = "held-out"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="generalisation after the classes were renumbered, task after task",
        chance="1 / classes",
        published="arXiv:2606.09762, section 6 (CIFAR-100, CNN); arXiv:2303.01486",
        reveals="when a task begins; not which numbering it has",
    )

    def check_data(self, data: Dataset | None) -> None:
        """Data must have classes."""
        need_classes(self, data)

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The data under other numbers."""
        data = source.data
        assert data is not None
        numbers = permutation(source.bits(index, need_classes(self, data)))
        test = data.test
        return Task(
            index,
            data.inputs,
            numbers[data.targets],
            None if test is None else test.inputs,
            None if test is None else numbers[test.targets],
        )


@register
@dataclass(frozen=True, kw_only=True)
class LabelNoise(Stream):
    r"""Ever fewer labels are wrong, until all are right.

    .. math:: p_t = \max(0,\ p_0 (1 - t / T)), \qquad
              y_i^{(t)} = \begin{cases} \tilde y_i & u_i < p_t \\ y_i & \text{otherwise} \end{cases}

    :math:`u_i` is uniform and :math:`\tilde y_i` a random class (the right one too), both the same in all
    tasks, so that labels are only ever corrected. Held-out labels are right.

    Args:
        noise: share of random labels in the first task, in [0, 1].
        decay_tasks: after how many tasks, >= 1, all labels are right.
        others: see `Stream`.

    Reference:
        After arXiv:2406.02596, where learning begins on noisy labels and goes on with cleaner ones.
    """

    name: ClassVar[str] = "label-noise"
    scored: ClassVar[Score] = "held-out"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="whether a network that memorised wrong labels still learns to generalise from right ones",
        chance="1 / classes",
        published="arXiv:2406.02596 (labels whose noise decays)",
        reveals="when a task begins; not which labels are wrong",
    )

    noise: float = 0.5
    decay_tasks: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, f"stream {self.name}", "noise")
        at_least(self, f"stream {self.name}", 1, "decay_tasks")

    def check_data(self, data: Dataset | None) -> None:
        """Data must have classes."""
        need_classes(self, data)

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The data with this task's share of random labels."""
        data = source.data
        assert data is not None
        count = len(data.targets)
        share = self.noise * max(0.0, 1 - index / self.decay_tasks)
        wrong = torch.from_numpy(below(source.bits(0, count, _WRONG), need_classes(self, data)))
        noisy = torch.from_numpy(uniform(source.bits(0, count)) < share)
        test = data.test
        return Task(
            index,
            data.inputs,
            torch.where(noisy, wrong, data.targets),
            None if test is None else test.inputs,
            None if test is None else test.targets,
        )
