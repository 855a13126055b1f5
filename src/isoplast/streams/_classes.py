"""Streams that show a few classes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._labels import need_classes
from isoplast.streams._numbers import permutation
from isoplast.streams._objectives import Classification
from isoplast.streams._views import Task, View


@dataclass(frozen=True, kw_only=True)
class _FewClasses(Stream):
    scored: ClassVar[Score] = "held-out"

    classes_per_task: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 2, "classes_per_task")

    def check_data(self, data: Dataset | None) -> None:
        """Data must have enough classes, each with examples."""
        classes = need_classes(self, data)
        if self.classes_per_task > classes:
            raise IsoplastError(
                f"classes_per_task of stream {self.name} is {self.classes_per_task}: the data have {classes}"
            )
        assert data is not None
        for part in (data, data.test):
            empty = [] if part is None else (part.targets.bincount(minlength=classes) == 0).nonzero().tolist()
            if empty:
                raise IsoplastError(
                    f"stream {self.name}: class {empty[0][0]} of data {data.name!r} has no samples: load more"
                )

    def _shown(self, source: TaskSequence, index: int) -> tuple[Tensor, Tensor]:
        """The classes of a task, and those of its round up to and with it: a round shows each class once."""
        classes = need_classes(self, source.data)
        turn, place = divmod(index, classes // self.classes_per_task)
        order = permutation(source.bits(turn, classes))
        end = (place + 1) * self.classes_per_task
        return order[end - self.classes_per_task : end], order[:end]


def _rows(targets: Tensor, classes: Tensor) -> Tensor:
    return torch.isin(targets, classes).nonzero()[:, 0]


@register
@dataclass(frozen=True, kw_only=True)
class ClassIncremental(_FewClasses):
    """Every task shows classes that were not there before, in an order of its own for every seed.

    When all classes were shown, a next round begins, in another order. The network has an output for every
    class from the start; `head` says which of them take part. An output that has not yet taken part has
    probability 0 and gets no gradient, so that a growing head learns as one whose rows are added when they
    are needed (weight decay and isometry act on the waiting rows, where a method applies them to heads).

    Args:
        classes_per_task: new classes of a task, >= 2; they must divide the classes of the data.
        head: "growing": the outputs of the classes seen so far; "masked": those of the task's own classes,
            which tells the network the task, in tests too; "full": all from the start.
        cumulative: whether a task holds the examples of all classes of the round so far.
        others: see `Stream`.

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (class-incremental
        CIFAR-100: five classes a task, growing head, cumulative).
    """

    name: ClassVar[str] = "class-incremental"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="learning of classes that come late, beside those that are there",
        chance="1 / classes whose outputs take part",
        published="Dohare et al., Nature 2024 (CIFAR-100, ResNet-18, cumulative)",
        reveals="when a task begins; with a masked head also its classes, in tests too",
    )

    classes_per_task: int = 5
    head: Literal["growing", "masked", "full"] = "growing"
    cumulative: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "masked" and self.cumulative:
            raise IsoplastError("head of stream class-incremental is 'masked': tasks cannot be cumulative")

    def check_data(self, data: Dataset | None) -> None:
        """The classes of a task must divide those of the data."""
        super().check_data(data)
        classes = need_classes(self, data)
        if classes % self.classes_per_task:
            raise IsoplastError(
                f"classes_per_task of stream {self.name} is {self.classes_per_task}: it must divide {classes}"
            )

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The examples of some classes."""
        data = source.data
        assert data is not None
        own, seen = self._shown(source, index)
        wanted = seen if self.cumulative else own
        parts: list[View | Tensor | None] = []
        for part in (data, data.test):
            rows = None if part is None else _rows(part.targets, wanted)
            parts += [None, None] if part is None else [View(part.inputs, rows), part.targets[rows]]
        inputs, targets, *test = parts
        assert inputs is not None
        assert isinstance(targets, Tensor)
        objective = self._masked(need_classes(self, data), index, own, seen)
        return Task(index, inputs, targets, *test, objective=objective)  # type: ignore[arg-type]

    def _masked(self, classes: int, index: int, own: Tensor, seen: Tensor) -> Classification:
        all_seen = index >= classes // self.classes_per_task
        if self.head == "full" or (self.head == "growing" and all_seen):
            return Classification(classes)
        active = own if self.head == "masked" else seen
        return Classification(classes, tuple(sorted(active.tolist())))


@register
@dataclass(frozen=True, kw_only=True)
class ClassPairs(_FewClasses):
    """Every task tells a few classes from each other, numbered from 0: pairs, as in continual ImageNet.

    A round shows every class once (what is left of an odd number waits for the next round). The outputs are
    shared by all tasks; method `head-reset` draws them anew where a task begins, as the source does.

    Args:
        classes_per_task: >= 2.
        others: see `Stream`.

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (continual ImageNet).
    """

    name: ClassVar[str] = "class-pairs"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="learning to tell classes apart that were never seen before, one pair after another",
        chance="1 / classes of a task: .5 for pairs",
        published="Dohare et al., Nature 2024 (ImageNet-32: back-propagation falls from .89 to .77)",
        reveals="when a task begins; not its classes",
    )

    def objective(self, data: Dataset | None) -> Classification:
        """Of the classes of one task."""
        return Classification(self.classes_per_task)

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The examples of these classes, numbered from 0."""
        data = source.data
        assert data is not None
        own, _ = self._shown(source, index)
        numbers = torch.full((need_classes(self, data),), -1)
        numbers[own] = torch.arange(len(own))
        rows = _rows(data.targets, own)
        if data.test is None:
            return Task(index, View(data.inputs, rows), numbers[data.targets[rows]])
        kept = _rows(data.test.targets, own)
        return Task(
            index,
            View(data.inputs, rows),
            numbers[data.targets[rows]],
            View(data.test.inputs, kept),
            numbers[data.test.targets[kept]],
        )
