"""What a sequence of tasks is: its settings, and the tasks made from data and a seed."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast._core.registry import Registry
from isoplast._core.settings import check_fields, converted
from isoplast.data import Dataset
from isoplast.streams._blends import interpolated, mixed
from isoplast.streams._objectives import Classification, Language, Objective, Regression
from isoplast.streams._views import Task

Score: TypeAlias = Literal["training", "held-out", "online"]


@dataclass(frozen=True)
class StreamInfo:
    """What people should know of a stream; docs/streams.md is made from it.

    Args:
        measures: what its score says about a network.
        chance: what `Objective.chance` is on it.
        published: where results on it were published.
        reveals: what a method that acts between tasks, or a network with a head for each, is told.
    """

    measures: str
    chance: str
    published: str
    reveals: str


class OpenProblem(Protocol):
    """A problem with its data and its seed: the tasks themselves.

    `task(index)` depends on the problem's settings, its data, the seed and the index alone: not on which
    tasks were asked for before, on any global random state, or on the platform. Resuming a run needs its
    task index, nothing else.
    """

    @property
    def tasks(self) -> int:
        """How many tasks there are."""

    @property
    def primary(self) -> str:
        """The metric that counts."""

    @property
    def note(self) -> str:
        """What the tasks are made of, for people."""

    @property
    def fingerprint(self) -> str:
        """What tells other data under the same name apart."""

    def task(self, index: int) -> Any:
        """The task at 0 <= index < tasks."""


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """The settings of a sequence of tasks: a stream of data, or a sequence of environments.

    Args:
        tasks: how many, >= 1.

    Attributes:
        name: what a study calls it.
        learner: name of the learner that trains on such tasks.
        takes_data: whether its tasks are made from a data set.
        primary: the metric that counts, fixed before any run: one of `isoplast.study.METRICS`; "" for the
            score of the objective on the training data.
    """

    name: ClassVar[str] = ""
    learner: ClassVar[str] = "supervised"
    takes_data: ClassVar[bool] = True
    primary: ClassVar[str] = ""

    tasks: int = 24

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __post_init__(self) -> None:
        check_fields(self, f"stream {self.name}")
        if self.tasks < 1:
            raise IsoplastError(f"tasks of stream {self.name} is {self.tasks}: ask for at least 1")

    @abstractmethod
    def open(self, data: Dataset | None, seed: int) -> OpenProblem:
        """The tasks.

        Args:
            data: what they are made from; None where `takes_data` is false.
            seed: another sequence for every integer >= 0.

        Raises:
            IsoplastError: the data do not suit.
        """


@dataclass(frozen=True, kw_only=True)
class Stream(Problem):
    r"""A stream of data: a new one says how its task number `index` looks, and nothing else.

    Every stream can be made gradual, or made to come back, by its settings. With `gradual` = k and tasks
    :math:`T_0, T_1, \dots`, task number i of the sequence stands between :math:`T_a` and :math:`T_{a+1}`:

    .. math:: a = \lfloor i / k \rfloor, \qquad w = (i \bmod k) / k

    A mixture takes the share w of its examples from :math:`T_{a+1}`, and an example that has changed stays
    so; an interpolation has the inputs :math:`(1 - w) x^{(a)} + w x^{(a+1)}`, or, where tasks are functions
    of the same inputs, the targets :math:`(1 - w) f_a(x) + w f_{a+1}(x)`. Held-out examples change along. The
    number of passes over each of the k stages is the learner's: give it a k-th of those of a whole task.

    Args:
        tasks: how many, >= 1; stages count as tasks.
        score: what counts: "training" (all examples after training on them), "held-out", or "online" (each
            mini-batch just before it is learned); None: the stream's own choice.
        gradual: stages k >= 2 from one task to the next; None: abrupt.
        blend: "mixture" or, where two tasks have an average that can be learned, "interpolation"; None: a
            mixture.
        recurring: number of different tasks, >= 1: after the last one the first comes back, and the stages
            between them too; None: all differ.

    Attributes:
        scored: what counts where `score` is None.
        interpolates: whether its tasks may be interpolated: see `between`.
        one_pass: whether every example may be learned once only.
        info: what people should know of it.

    Reference:
        arXiv:2602.09234: where change is gradual, the loss of plasticity largely vanishes.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Inverted(Stream):
        ...     name = "inverted"
        ...     def make_task(self, source, index):
        ...         return Task(index, source.data.inputs * (-1) ** index, source.data.targets)
    """

    scored: ClassVar[Score] = "training"
    interpolates: ClassVar[bool] = False
    one_pass: ClassVar[bool] = False
    info: ClassVar[StreamInfo | None] = None

    score: Score | None = None
    gradual: int | None = None
    blend: Literal["mixture", "interpolation"] | None = None
    recurring: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"stream {self.name}"
        at_least(self, owner, 2, "gradual")
        at_least(self, owner, 1, "recurring")
        if self.blend is not None and self.gradual is None:
            raise IsoplastError(f"blend of {owner} is {self.blend!r}, but it is not gradual: give gradual: 8")
        if self.blend == "interpolation" and not self.interpolates:
            raise IsoplastError(
                f"blend of {owner} is 'interpolation': two of its tasks have no average, take 'mixture'"
            )

    @property
    def holds_out(self) -> bool:
        """Whether held-out samples of the data set are needed."""
        return self.takes_data and (self.score or self.scored) == "held-out"

    def open(self, data: Dataset | None, seed: int) -> TaskSequence:
        """The tasks made from a data set; see `Problem.open`."""
        if data is None and self.takes_data:
            raise IsoplastError(f"stream {self.name} needs data: name a data set")
        if seed < 0:
            raise IsoplastError(f"seed={seed} of stream {self.name}: give an integer >= 0")
        if self.holds_out and data is not None and data.test is None:
            raise IsoplastError(
                f"stream {self.name} counts held-out samples, and data {data.name!r} have none: load them "
                "with test=True, hold some out with data.split(0.2), or set score: training"
            )
        if self.blend == "interpolation" and data is not None and not data.inputs.is_floating_point():
            raise IsoplastError(
                f"blend of stream {self.name} is 'interpolation': inputs of data {data.name!r} are whole "
                "numbers, take 'mixture'"
            )
        self.check_data(data)
        return TaskSequence(self, data, seed)

    def check_data(self, data: Dataset | None) -> None:
        """Raise IsoplastError for data that this stream cannot use; by default it takes any."""

    def objective(self, data: Dataset | None) -> Objective:
        """The loss and the score: by default those of classes, numbers or text, as the data are."""
        if data is None:
            raise IsoplastError(f"stream {self.name} makes its own data: it must say its objective")
        if data.classes is None:
            return Regression(int(data.targets.shape[1]))
        if data.targets.ndim == 2:
            return Language(data.classes)
        return Classification(data.classes)

    def input_shape(self, data: Dataset | None) -> tuple[int, ...]:
        """The shape of one input: by default that of the data."""
        if data is None:
            raise IsoplastError(f"stream {self.name} makes its own data: it must say its input_shape")
        return tuple(data.inputs.shape[1:])

    @abstractmethod
    def make_task(self, source: TaskSequence, index: int) -> Task:
        """The task at `index`, a pure function: all its randomness comes from `source.bits(index, ...)`.

        Args:
            source: its `.data` and `.seed`, and random bits for each task.
            index: which task, 0 <= index < tasks.
        """

    def between(self, source: TaskSequence, first: int, second: int, share: float) -> Task:
        """The interpolation of two tasks, a pure function too; by default of their inputs, row by row.

        It must be learnable as a whole task is: the default is for tasks whose rows are the same examples.

        Args:
            source: as for `make_task`.
            first, second: the indices of the two.
            share: w, in (0, 1).
        """
        return interpolated(self.make_task(source, first), self.make_task(source, second), share)


@dataclass(frozen=True, eq=False)
class TaskSequence:
    """A stream with its data and its seed: the tasks themselves.

    Args:
        stream: the settings.
        data: what the tasks are made from.
        seed: a sequence of its own for every integer >= 0.
    """

    stream: Stream
    data: Dataset | None = field(repr=False)
    seed: int

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return self.stream.tasks

    @property
    def objective(self) -> Objective:
        """How loss and score are made."""
        return self.stream.objective(self.data)

    @property
    def primary(self) -> str:
        """The metric that counts."""
        before = {"training": "", "held-out": "test_", "online": "online_"}
        return self.stream.primary or before[self._counts] + self.objective.metric

    @property
    def _counts(self) -> Score:
        return self.stream.score or self.stream.scored

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch dimension."""
        return self.stream.input_shape(self.data)

    @property
    def note(self) -> str:
        """Which data these are."""
        return self.stream.name if self.data is None else self.data.note

    @property
    def fingerprint(self) -> str:
        """The sha256 of the raw data, with that of held-out ones; "" where the stream makes its own."""
        if self.data is None:
            return ""
        test = "" if self.data.test is None else f"+{self.data.test.fingerprint}"
        return self.data.fingerprint + test

    def task(self, index: int) -> Task:
        """The task at 0 <= index < tasks, a pure function of the stream, the data, the seed and the index.

        Raises:
            IsoplastError: there is no such task, or the stream made targets that its objective cannot take,
                or no held-out examples where they count.
        """
        name = self.stream.name
        if not 0 <= index < self.tasks:
            raise IsoplastError(f"task {index} of stream {name!r}: it has tasks 0..{self.tasks - 1}")
        made = self._stage(index)
        wrong = (made.objective or self.objective).check(made.targets) if len(made.targets) else "it is empty"
        if wrong or len(made.examples) != len(made.targets):
            wrong = wrong or f"{len(made.examples)} inputs for {len(made.targets)} targets"
            raise IsoplastError(f"task {index} of stream {name!r}: {wrong}")
        if self._counts == "held-out" and (made.test_examples is None or not len(made.test_examples)):
            raise IsoplastError(
                f"task {index} of stream {name!r}: held-out examples count, and nothing is held out: set "
                "score: training"
            )
        return made

    def _stage(self, index: int) -> Task:
        stages = self.stream.gradual or 1
        before, stage = divmod(index, stages)
        different = self.stream.recurring or before + 2
        first, second = before % different, (before + 1) % different
        if stage == 0:
            made = self.stream.make_task(self, first)
        elif self.stream.blend == "interpolation":
            made = self.stream.between(self, first, second, stage / stages)
        else:
            two = self.stream.make_task(self, first), self.stream.make_task(self, second)
            made = mixed(*two, stage / stages, self, first)
        if self.stream.gradual or self.stream.recurring:
            made.index = index
        return made

    def bits(self, index: int, size: int, part: int = 0) -> npt.NDArray[np.uint64]:
        """`size` uniform 64-bit words that belong to (stream, seed, index, part).

        numpy guarantees the raw output of Philox and of SeedSequence for all versions and platforms, but not
        what its Generator makes of it. So streams derive their draws from these words: a label is
        `bits % classes` (biased by less than classes / 2^64), a permutation `argsort(bits, kind="stable")`.
        """
        # The stream's name keeps two streams of one seed independent of each other.
        key = (zlib.crc32(self.stream.name.encode()), index, *([part] if part else []))
        sequence = np.random.SeedSequence(self.seed, spawn_key=key)
        return np.random.Philox(sequence).random_raw(size)


STREAMS: Registry[Problem] = Registry("stream", Problem, "isoplast.streams")
register = STREAMS.register


def names() -> list[str]:
    """The names that `stream` knows."""
    return STREAMS.names()


def streams_table() -> str:
    """All streams of data as a Markdown table, for the documentation."""
    rows = ["| stream | measures | scored on | chance | published | reveals |", "|---|---|---|---|---|---|"]
    for name in names():
        kind = STREAMS.find(name)
        if issubclass(kind, Stream) and kind.info is not None:
            info = kind.info
            published = re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", info.published)
            cells = (f"`{name}`", info.measures, kind.scored, info.chance, published, info.reveals)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def problem(name: str, **settings: Any) -> Problem:
    """The settings of a sequence of tasks, checked; what is left out keeps its default.

    Args:
        name: one of `names()`, an entry point of the group `isoplast.streams`, or "package.module:Name".
        settings: its fields.

    Raises:
        IsoplastError: an unknown name or setting, or a value out of range.

    Example:
        >>> problem("random-labels", tasks=3)
        RandomLabels(tasks=3, score=None, gradual=None, blend=None, recurring=None)
    """
    kind = STREAMS.find(name)
    return kind(**converted(kind, f"stream {name}", settings))


def stream(name: str, data: Dataset | None = None, *, seed: int = 0, **settings: Any) -> TaskSequence:
    """The named stream of tasks on a data set.

    Args:
        name: see `problem`.
        data: what the tasks are made from.
        seed: an integer >= 0; the same seed gives the same tasks, on every platform.
        settings: of the stream, such as `tasks`.

    Raises:
        IsoplastError: an unknown name or setting, a value out of range, data that do not suit, or a sequence
            of environments, which is no stream.

    Example:
        >>> from isoplast.data import load_data
        >>> digits = load_data("digits", samples=1280)
        >>> stream("random-labels", digits, tasks=24, seed=0).task(3).targets[:4]
        tensor([4, 3, 3, 4])
    """
    found = problem(name, **settings)
    if not isinstance(found, Stream):
        raise IsoplastError(f"{name} is no stream of data: its tasks are environments")
    return found.open(data, seed)
