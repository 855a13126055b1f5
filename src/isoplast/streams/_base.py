"""What a stream of tasks is, and the registry that knows them all."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from isoplast._core.errors import IsoplastError, unknown
from isoplast.data import Dataset


@dataclass(frozen=True, eq=False)
class Task:
    """One thing to learn.

    Args:
        index: its place in the stream, from 0.
        inputs: float32 (n, ...). Tasks may share this tensor: read it, never write into it.
        targets: int64 (n,), in 0 .. classes - 1.
        classes: the number of classes, the same for all tasks of a stream.
        test_inputs, test_targets: held-out examples where the stream has any.
    """

    index: int
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    classes: int
    test_inputs: Tensor | None = field(default=None, repr=False)
    test_targets: Tensor | None = field(default=None, repr=False)


class Stream(Protocol):
    """A sequence of tasks.

    `task(index)` depends on the stream's arguments and the index alone: not on which tasks were asked for
    before, on any global random state, or on the platform. Resuming a run needs its task index, nothing else.
    """

    @property
    def tasks(self) -> int:
        """How many tasks there are."""

    @property
    def classes(self) -> int:
        """The number of classes, hence of the network's outputs."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch dimension."""

    def task(self, index: int) -> Task:
        """The task at 0 <= index < tasks."""


@dataclass(frozen=True, eq=False)
class DataStream(ABC):
    """A stream made from one data set; a new one says only how its task `index` looks.

    Args:
        data: what the tasks are made from.
        tasks: how many, at least 1.
        seed: a stream of its own for every integer >= 0.
    """

    name: ClassVar[str]

    data: Dataset = field(repr=False)
    tasks: int
    seed: int

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise IsoplastError(f"tasks={self.tasks} of stream {self.name!r}: ask for at least 1")
        if self.seed < 0:
            raise IsoplastError(f"seed={self.seed} of stream {self.name!r}: give an integer >= 0")
        _ = self.classes

    @property
    def classes(self) -> int:
        """The number of classes of the data."""
        if self.data.classes is None:
            raise IsoplastError(
                f"stream {self.name!r} needs classes: the targets of data {self.data.name!r} are "
                "floating point numbers"
            )
        return self.data.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.data.inputs.shape[1:])

    def task(self, index: int) -> Task:
        """The task at 0 <= index < tasks, a pure function of (seed, index).

        Raises:
            IsoplastError: there is no such task.
        """
        if not 0 <= index < self.tasks:
            raise IsoplastError(f"task {index} of stream {self.name!r}: it has tasks 0..{self.tasks - 1}")
        return self._make(index)

    @abstractmethod
    def _make(self, index: int) -> Task:
        """Builds the task; all its randomness comes from `_bits(index, ...)`."""

    def _bits(self, index: int, size: int) -> npt.NDArray[np.uint64]:
        """`size` uniform 64-bit words that belong to (stream, seed, index).

        numpy guarantees the raw output of Philox and of SeedSequence for all versions and platforms, but not
        what its Generator makes of it. So streams derive their draws from these words: a label is
        `bits % classes` (biased by less than classes / 2^64), a permutation `argsort(bits, kind="stable")`.
        """
        # The stream's name keeps two streams of one seed independent of each other.
        key = (zlib.crc32(self.name.encode()), index)
        sequence = np.random.SeedSequence(self.seed, spawn_key=key)
        return np.random.Philox(sequence).random_raw(size)


_StreamType = TypeVar("_StreamType", bound=type[DataStream])
_STREAMS: dict[str, type[DataStream]] = {}


def register(name: str) -> Callable[[_StreamType], _StreamType]:
    """Class decorator: makes a stream known to `stream()` under `name`."""

    def add(kind: _StreamType) -> _StreamType:
        kind.name = name
        _STREAMS[name] = kind
        return kind

    return add


def names() -> list[str]:
    """The names that `stream` knows."""
    return sorted(_STREAMS)


def stream(name: str, data: Dataset, *, tasks: int, seed: int) -> Stream:
    """The named stream of tasks on a data set.

    Args:
        name: one of `names()`.
        data: what the tasks are made from.
        tasks: how many, at least 1.
        seed: an integer >= 0; the same seed gives the same tasks, on every platform.

    Raises:
        IsoplastError: an unknown name, `tasks` < 1 or `seed` < 0.

    Example:
        >>> from isoplast.streams import load_data
        >>> digits = load_data("digits", samples=1280)
        >>> stream("random-labels", digits, tasks=24, seed=0).task(3).targets[:4]
        tensor([4, 3, 3, 4])
    """
    if name not in _STREAMS:
        raise unknown("stream", name, _STREAMS)
    return _STREAMS[name](data, tasks, seed)
