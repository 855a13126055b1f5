"""Every registered stream keeps the contract, and the contract finds out those that do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.streams import STREAMS, Classification, Regression, Stream, Task, TaskSequence, problem, stream
from isoplast.testing import check_stream, made_up_data, made_up_text

STREAM_NAMES = [name for name in STREAMS.names() if issubclass(STREAMS.find(name), Stream)]


SMALL: dict[str, dict[str, Any]] = {
    "online-permutation": {"examples": 100},
    "bit-flipping": {"examples": 50},
    "sine": {"examples": 50},
    "teachers": {"examples": 50},
    "target-shift": {"examples": 50},
    "language": {"examples": 5},
}
INTERPOLATES = ("pixel-permutation", "input-drift", "sine", "teachers", "target-shift")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in STREAM_NAMES),
    *((name, {"gradual": 3}) for name in STREAM_NAMES),
    *((name, {"recurring": 2}) for name in STREAM_NAMES),
    *((name, {"gradual": 2, "recurring": 2}) for name in STREAM_NAMES),
    *((name, {"gradual": 4, "blend": "interpolation"}) for name in INTERPOLATES),
    ("pixel-permutation", {"spatial": True}),
    ("pixel-permutation", {"examples": 30, "gradual": 2}),
    ("class-incremental", {"head": "masked", "classes_per_task": 2}),
    ("class-incremental", {"head": "full", "classes_per_task": 2}),
    ("class-incremental", {"cumulative": True, "classes_per_task": 2, "gradual": 3}),
    ("class-pairs", {"classes_per_task": 3}),
    *(("input-drift", {"kind": kind, "period": 4}) for kind in ("contrast", "brightness", "blur")),
    ("language", {"permute_bytes": True}),
    ("random-labels", {"score": "online"}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=str)
def test_every_stream_keeps_the_contract(name: str, settings: dict[str, Any]) -> None:
    found = problem(name, **{"tasks": 6, **SMALL.get(name, {}), **settings})
    assert isinstance(found, Stream)
    check_stream(found)


@pytest.mark.parametrize("name", STREAM_NAMES)
def test_every_stream_says_what_people_should_know(name: str) -> None:
    found = STREAMS.find(name)
    assert issubclass(found, Stream)
    assert found.info is not None
    assert all(vars(found.info).values())


@pytest.mark.parametrize("name", STREAM_NAMES)
def test_does_not_depend_on_how_many_tasks_are_asked_for(name: str) -> None:
    kind = STREAMS.find(name)
    data = (made_up_text() if name == "language" else made_up_data()) if kind.takes_data else None
    short, long = (stream(name, data, seed=3, tasks=tasks, **SMALL.get(name, {})) for tasks in (3, 8))
    assert all(torch.equal(short.task(index).targets, long.task(index).targets) for index in range(3))


@dataclass(frozen=True, kw_only=True)
class Good(Stream):
    tasks: int = 3

    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        labels = torch.from_numpy((source.bits(index, len(source.data.inputs)) % 10).astype("int64"))
        return Task(index, source.data.inputs, labels)


class FromTheGlobalGenerator(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        return Task(index, source.data.inputs, torch.randint(10, (len(source.data.inputs),)))


class DrawsWithoutUse(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        torch.rand(1)
        return super().make_task(source, index)


class OneForAllSeeds(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        return Task(index, source.data.inputs, (source.data.targets + index) % 10)


class WrongIndex(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        made = super().make_task(source, index)
        return Task(0, made.inputs, made.targets)


class WritesIntoTheData(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        source.data.inputs.mul_(1.5)
        return super().make_task(source, index)


class WrongShape(Good):
    def input_shape(self, data: Dataset | None) -> tuple[int, ...]:
        return (5,)


class HalfATestPart(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        made = super().make_task(source, index)
        return Task(index, made.inputs, made.targets, test_inputs=made.inputs)


@dataclass(frozen=True, kw_only=True)
class HoldsNothingOut(Good):
    scored: ClassVar[Any] = "held-out"


class HoldsOutWhatItTrainedOn(HoldsNothingOut):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        made = super().make_task(source, index)
        return Task(index, made.inputs, made.targets, made.inputs[:9], made.targets[:9])


class NotFinite(Good):
    def make_task(self, source: TaskSequence, index: int) -> Task:
        made = super().make_task(source, index)
        return Task(index, made.inputs * float("nan"), made.targets)


class WrongClasses(Good):
    def objective(self, data: Dataset | None) -> Classification:
        return Classification(5)


class WrongTargets(Good):
    def objective(self, data: Dataset | None) -> Regression:
        return Regression(1)


@dataclass(frozen=True, kw_only=True)
class Remembers(Good):
    calls: ClassVar[list[int]] = []

    def make_task(self, source: TaskSequence, index: int) -> Task:
        made = super().make_task(source, index)
        self.calls.append(index)
        return Task(index, made.inputs, (made.targets + len(self.calls)) % 10)


@dataclass(frozen=True, kw_only=True)
class ForgetsASetting(Good):
    shift: int = field(default=0, compare=False)


def test_a_good_stream_passes() -> None:
    check_stream(Good())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (FromTheGlobalGenerator(), "depends on what was asked for before"),
        (DrawsWithoutUse(), "draws from a global generator"),
        (OneForAllSeeds(), "seeds change nothing"),
        (WrongIndex(), "says that it is task 0"),
        (WritesIntoTheData(), "depends on what was asked for before|writes into the data"),
        (WrongShape(), "the stream says"),
        (HalfATestPart(), "half of a test part"),
        (NotFinite(), "not finite"),
        (HoldsNothingOut(), "task 0 of stream 'HoldsNothingOut': held-out examples count, and nothing is"),
        (HoldsOutWhatItTrainedOn(), "9 of the held-out inputs are trained on"),
        (WrongClasses(), "for 5 classes"),
        (WrongTargets(), "give floating numbers"),
        (Remembers(), "depends on what was asked for before"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Stream) else "",
)
def test_a_broken_stream_is_found_out(broken: Stream, message: str) -> None:
    with pytest.raises((AssertionError, IsoplastError), match=message):
        check_stream(broken)


@pytest.mark.parametrize("index", [-1, 6, 1000])
def test_refuses_a_task_it_does_not_have(index: int) -> None:
    opened = stream("random-labels", made_up_data(), tasks=6)
    with pytest.raises(
        IsoplastError, match=rf"^task {index} of stream 'random-labels': it has tasks 0\.\.5$"
    ):
        opened.task(index)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("random-labels", {"tasks": 0}, "tasks of stream random-labels is 0: ask for at least 1"),
        ("random-labels", {"tasks": 2.5}, "tasks of stream random-labels is 2.5: it must be a whole number"),
        ("random-labels", {"seed": -1}, "seed=-1"),
        (
            "random-labels",
            {"task": 1},
            "unknown setting of stream random-labels 'task'",
        ),
        ("random-label", {}, "unknown stream 'random-label': did you mean 'random-labels'"),
        ("nowhere_at_all:Stream", {}, "stream 'nowhere_at_all:Stream': nowhere_at_all cannot be imported"),
        ("isoplast.streams:Nothing", {}, "isoplast.streams has no 'Nothing'"),
        ("isoplast.data:Dataset", {}, "is the class Dataset: it must be a class derived from"),
    ],
)
def test_refuses_wrong_arguments_in_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        stream(name, made_up_data(), **settings)
    assert "\n" not in str(caught.value)


def test_random_labels_need_classes() -> None:
    numbers = Dataset(torch.zeros(4, 2), torch.zeros(4, 1), name="numbers")
    with pytest.raises(
        IsoplastError,
        match="stream random-labels needs a class for each sample, and data 'numbers' have none",
    ):
        stream("random-labels", numbers)


def test_data_are_needed_where_they_are() -> None:
    with pytest.raises(IsoplastError, match="stream random-labels needs data: name a data set"):
        stream("random-labels")
