"""Streams of regression, which make their own data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoplast._core.checks import at_least, positive
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._blends import weighted
from isoplast.streams._numbers import below, signs, sine, uniform
from isoplast.streams._objectives import Regression
from isoplast.streams._views import Task

# Of the random bits, in training and held out.
_TRAIN, _HELD_OUT = 1, 2
_FIXED, _FIXED_TOO = 3, 4
_Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Generated(Stream):
    """A stream of one number for every input, with a fifth as many held-out examples as examples.

    An interpolation has the inputs of the first task, and between the two functions the average of both.
    """

    takes_data: ClassVar[bool] = False
    scored: ClassVar[Score] = "held-out"
    interpolates: ClassVar[bool] = True

    examples: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 2, "examples")

    def objective(self, data: Dataset | None) -> Regression:
        """The mean squared error of one number."""
        return Regression(1)

    def pairs(self, source: TaskSequence, index: int, at: int, count: int, part: int) -> tuple[Any, Any]:
        """Inputs (count, d) of task `at`, from the bits of a part, and targets (count,) of task `index`."""
        raise NotImplementedError

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """Examples, and held-out ones."""
        return self._at(source, index, index)

    def between(self, source: TaskSequence, first: int, second: int, share: float) -> Task:
        """The average of two functions, at the inputs of the first task."""
        one, other = self._at(source, first, first), self._at(source, second, first)
        assert one.test_targets is not None
        assert other.test_targets is not None
        held_out = weighted(one.test_targets, other.test_targets, share)
        return Task(first, one.inputs, weighted(one.targets, other.targets, share), one.test_inputs, held_out)

    def _at(self, source: TaskSequence, index: int, at: int) -> Task:
        """The function of a task, at the inputs of another one."""
        made: list[Tensor] = []
        for part, count in ((_TRAIN, self.examples), (_HELD_OUT, -(-self.examples // 5))):
            inputs, targets = self.pairs(source, index, at, count, part)
            made += [torch.from_numpy(one.astype(np.float32)) for one in (inputs, targets.reshape(-1, 1))]
        return Task(index, *made)


@register
@dataclass(frozen=True, kw_only=True)
class BitFlipping(_Generated):
    r"""Slowly changing regression: some bits of the input stand still, and one of them flips with every task.

    The target is a network of threshold units with random weights of -1 and 1, the same for all tasks:

    .. math:: y = \frac{1}{\sqrt H} \sum_h v_h [w_h \cdot x > \beta m - n_h]

    with m = bits + 1 inputs (the last one is always 1) and :math:`n_h` the number of negative weights of unit
    h. The other bits are drawn anew for every example.

    Args:
        bits: of an input, >= 1.
        flipping: how many of them stand still but for the flips, 1 to bits.
        hidden: H, threshold units, >= 1.
        threshold: beta, in (0, 1).
        examples: of a task, >= 2; the source flips a bit every 10 000.
        others: see `Stream`.

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024 (slowly changing
        regression: 20 bits, 15 of them flipping, 100 units, beta .7, learner with 5 hidden units, one example
        at a time). Its targets are not divided by the square root.
    """

    name: ClassVar[str] = "bit-flipping"
    scored: ClassVar[Score] = "online"
    interpolates: ClassVar[bool] = False  # one function for all tasks: only the bits it is asked for change
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="tracking of a function that a small learner cannot hold at once",
        chance="the variance of the targets",
        published="Dohare et al., Nature 2024 (bit-flipping problem); arXiv:2108.06325",
        reveals="when a bit flips",
    )

    bits: int = 20
    flipping: int = 15
    hidden: int = 100
    threshold: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 1, "bits", "flipping", "hidden")
        if self.flipping > self.bits:
            raise IsoplastError(f"flipping of stream {self.name} is {self.flipping}: of {self.bits} bits")
        if not 0 < self.threshold < 1:
            raise IsoplastError(f"threshold of stream {self.name} is {self.threshold}: give one in (0, 1)")

    def input_shape(self, data: Dataset | None) -> tuple[int, ...]:
        """The bits and a 1."""
        return (self.bits + 1,)

    def state(self, source: TaskSequence, index: int) -> _Whole:
        """The standing bits of a task, 0 or 1, (flipping,)."""
        start = below(source.bits(0, self.flipping, _FIXED), 2)
        flips = below(source.bits(0, index, _FIXED_TOO), self.flipping) if index else np.empty(0, np.int64)
        return (start + np.bincount(flips, minlength=self.flipping)) % 2

    def pairs(self, source: TaskSequence, index: int, at: int, count: int, part: int) -> tuple[Any, Any]:
        """Bits, and what the threshold units make of them."""
        inputs = np.ones((count, self.bits + 1), np.int64)
        inputs[:, : self.flipping] = self.state(source, at)
        free = self.bits - self.flipping
        inputs[:, self.flipping : -1] = below(source.bits(at, count * free, part), 2).reshape(count, free)
        words = signs(source.bits(0, self.hidden * (self.bits + 2)))
        weights = words[self.hidden :].reshape(self.hidden, -1)
        bound = self.threshold * (self.bits + 1) - (weights < 0).sum(1)
        active = (inputs @ weights.T > bound).astype(np.int64)
        return inputs, (active @ words[: self.hidden]) / math.sqrt(self.hidden)


@register
@dataclass(frozen=True, kw_only=True)
class Sine(_Generated):
    r"""A sine wave of another amplitude and phase in every task.

    .. math:: y = A_t \sin(x + \varphi_t), \quad x \in [-5, 5), \ A_t \in [0.1, 5), \ \varphi_t \in [0, \pi)

    Args:
        examples: of a task, >= 2.
        others: see `Stream`.

    Reference:
        The tasks of Finn et al., ICML 2017, arXiv:1703.03400, section 5.1, one after the other.
    """

    name: ClassVar[str] = "sine"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="fitting one smooth function after another",
        chance="the variance of the targets: A^2 / 2 over whole periods",
        published="the tasks: arXiv:1703.03400",
        reveals="when a task begins; neither amplitude nor phase",
    )

    def input_shape(self, data: Dataset | None) -> tuple[int, ...]:
        """One number."""
        return (1,)

    def pairs(self, source: TaskSequence, index: int, at: int, count: int, part: int) -> tuple[Any, Any]:
        """Points, and the wave at them."""
        height, shift = uniform(source.bits(index, 2)).tolist()
        x = 10 * uniform(source.bits(at, count, part)) - 5
        return x[:, None], (0.1 + 4.9 * height) * sine(x + math.pi * shift)


@register
@dataclass(frozen=True, kw_only=True)
class Teachers(_Generated):
    r"""A random network to be imitated, another one in every task.

    .. math:: y = \frac{1}{\sqrt{d H / 2}} \sum_h v_h \max(0, w_h \cdot x), \qquad w_{hj}, v_h \in \{-1, 1\}

    x has d values that are nearly normal, of variance 1. Sums are made of whole numbers, so that they are
    exact on every machine.

    Args:
        inputs: d, >= 1.
        hidden: H, units of the teacher, >= 1.
        examples: of a task, >= 2.
        others: see `Stream`.
    """

    name: ClassVar[str] = "teachers"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="fitting one random function of many inputs after another",
        chance="the variance of the targets",
        published="teachers in this place: arXiv:2303.01486 (random networks as targets)",
        reveals="when a task begins",
    )

    inputs: int = 16
    hidden: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 1, "inputs", "hidden")

    def input_shape(self, data: Dataset | None) -> tuple[int, ...]:
        """The inputs."""
        return (self.inputs,)

    def pairs(self, source: TaskSequence, index: int, at: int, count: int, part: int) -> tuple[Any, Any]:
        """Inputs, and what the task's teacher says."""
        return self._taught(source, index, at, count, part)

    def _taught(self, source: TaskSequence, teacher: int, at: int, count: int, part: int) -> tuple[Any, Any]:
        # The sum of four bytes, about their mean: of variance 4 (256^2 - 1) / 12.
        words = source.bits(at, count * self.inputs, part).reshape(count, self.inputs)
        whole = sum(((words >> np.uint64(8 * k)) & np.uint64(255)).astype(np.int64) for k in range(4)) - 510
        spread = math.sqrt((256**2 - 1) / 3)
        weights = signs(source.bits(teacher, self.hidden * (self.inputs + 1), _FIXED))
        first = weights[self.hidden :].reshape(self.hidden, self.inputs)
        made = np.maximum(whole @ first.T, 0) @ weights[: self.hidden]
        return whole / spread, made / (spread * math.sqrt(self.inputs * self.hidden / 2))


@register
@dataclass(frozen=True, kw_only=True)
class TargetShift(Teachers):
    r"""One teacher for all tasks, whose answers are scaled and shifted anew in every task.

    .. math:: y^{(t)} = 2^{k_t} y + b_t, \qquad k_t \in \{-K, \dots, K\}, \quad b_t \in [-B, B)

    The features of one task are right for all; only the last layer must follow.

    Args:
        octaves: K, >= 0.
        offset: B, > 0.
        others: see `Teachers`.

    Reference:
        Scales that change while values are learned: van Hasselt et al., NeurIPS 2016, arXiv:1602.07714.
    """

    name: ClassVar[str] = "target-shift"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="following the scale and offset of the targets",
        chance="the variance of the targets: it goes with the square of their scale",
        published="scales that change: arXiv:1602.07714; offset of targets: arXiv:2402.18762",
        reveals="when a task begins; neither scale nor offset",
    )

    octaves: int = 3
    offset: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 0, "octaves")
        positive(self, f"stream {self.name}", "offset")

    def pairs(self, source: TaskSequence, index: int, at: int, count: int, part: int) -> tuple[Any, Any]:
        """Inputs, and the shifted answers."""
        inputs, answers = self._taught(source, 0, at, count, part)
        octave = int(below(source.bits(index, 1), 2 * self.octaves + 1)[0]) - self.octaves
        shift = self.offset * (2 * float(uniform(source.bits(index, 2))[1]) - 1)
        return inputs, answers * 2.0**octave + shift
