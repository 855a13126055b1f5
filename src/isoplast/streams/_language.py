"""Reading one text after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams._base import Score, Stream, StreamInfo, TaskSequence, register
from isoplast.streams._numbers import draw, permutation
from isoplast.streams._views import Task, View

# Of the random bits: which sequences, in training and held out, and the numbers of the bytes.
_TRAIN, _HELD_OUT, _BYTES = 1, 2, 3


@register
@dataclass(frozen=True, kw_only=True)
class LanguageStream(Stream):
    r"""The parts of a text, one after the other and then again: predict every next byte.

    .. math:: \text{task } t \text{ is part } t \bmod P, \qquad
              \text{score} = -\frac{1}{nT} \sum_{i,s} \log_2 p(x_{i,s+1} | x_{i, \le s})

    Args:
        examples: sequences of a task, >= 1, drawn anew from its part, all of them where it has fewer.
        permute_bytes: gives the bytes other numbers in every task, so that nothing but the structure of
            language carries over.
        others: see `Stream`.

    Example:
        >>> from isoplast.data import load_data
        >>> text = load_data("text", path="austen", python_bytes=500_000, test=True)  # doctest: +SKIP
        >>> novels_then_python = stream("language", text, tasks=14)  # doctest: +SKIP
    """

    name: ClassVar[str] = "language"
    scored: ClassVar[Score] = "held-out"
    info: ClassVar[StreamInfo] = StreamInfo(
        measures="learning of the next text, in bits for each byte",
        chance="8 bits per byte (log2 of the vocabulary)",
        published="none in this form; a first look at transformers: arXiv:2606.09762, B.7",
        reveals="when a text begins; not which",
    )

    examples: int = 1024
    permute_bytes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 1, "examples")

    def check_data(self, data: Dataset | None) -> None:
        """Data must be text in parts."""
        assert data is not None
        if data.classes is None or data.targets.ndim != 2 or not data.parts:
            raise IsoplastError(f"stream {self.name} reads text, and data {data.name!r} are none: data: text")
        if data.test is not None and [name for name, _ in data.test.parts] != [
            name for name, _ in data.parts
        ]:
            raise IsoplastError(f"data {data.name!r}: held-out parts are not those of the text")
        for found in (data, data.test):
            empty = [] if found is None else [name for name, count in found.parts if not count]
            if empty:
                raise IsoplastError(
                    f"stream {self.name}: part {empty[0]!r} of data {data.name!r} has no sequences: load more"
                )

    def make_task(self, source: TaskSequence, index: int) -> Task:
        """Sequences of one part."""
        data = source.data
        assert data is not None
        made = [*self._drawn(source, data, index, _TRAIN)]
        if data.test is not None:
            made += self._drawn(source, data.test, index, _HELD_OUT)
        if self.permute_bytes:
            assert data.classes is not None
            numbers = permutation(source.bits(index, data.classes, _BYTES))
            made = [View(numbers[one.tensor()]) for one in made]
        inputs, targets, *held_out = made
        if not held_out:
            return Task(index, inputs, targets.tensor())
        return Task(index, inputs, targets.tensor(), held_out[0], held_out[1].tensor())

    def _drawn(self, source: TaskSequence, data: Dataset, index: int, words: int) -> tuple[View, View]:
        """Sequences of the task's part, and what follows them."""
        part = index % len(data.parts)
        start, count = sum(count for _, count in data.parts[:part]), data.parts[part][1]
        rows = start + draw(source.bits(index, count, words), min(self.examples, count))
        return View(data.inputs, rows), View(data.targets, rows)
