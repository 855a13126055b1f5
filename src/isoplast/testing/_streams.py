"""What every stream must keep, as a function that anybody's tests can call."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoplast._core.settings import settings_of
from isoplast.data import Dataset
from isoplast.streams import LanguageStream, Stream, Task, TaskSequence

_TASKS = 4  # looked at


def check_stream(stream: Stream, data: Dataset | None = None) -> None:
    """Check that a stream keeps what studies count on.

    Its tasks are a pure function of settings, data, seed and index: any order of the calls, another instance,
    another process and the state of any global generator give the same bits, and other seeds other tasks.
    They fit what the stream says of them, have their own settings back, and share the data unchanged.

    Args:
        stream: the stream, with settings that make a small one.
        data: what it is made from; for a stream that takes data by default 400 made-up images of 10 classes,
            100 of them held out, or made-up text.

    Raises:
        AssertionError: it does not; the message says what.

    Example:
        >>> from isoplast.streams import problem
        >>> check_stream(problem("random-labels", tasks=3))
    """
    if data is None and stream.takes_data:
        data = made_up_text() if isinstance(stream, LanguageStream) else made_up_data()
    whole = [] if data is None else [one for one in (data, data.test) if one is not None]
    before = [(one.inputs.clone(), one.targets.clone()) for one in whole]
    opened = stream.open(data, 3)
    count = min(stream.tasks, _TASKS)
    tasks = [opened.task(index) for index in range(count)]
    for index, task in enumerate(tasks):
        _check_task(opened, task, index)
    _check_purity(stream, data, tasks)
    _check_settings(stream)
    for index in (-1, stream.tasks):
        try:
            opened.task(index)
        except ValueError:
            continue
        raise AssertionError(f"task {index} of {stream.tasks} must be refused")
    for one, (inputs, targets) in zip(whole, before, strict=True):
        same = torch.equal(inputs, one.inputs) and torch.equal(targets, one.targets)
        assert same, "the stream writes into the data it is made from"
    _check_held_out(opened, tasks)


def made_up_data(samples: int = 400, classes: int = 10) -> Dataset:
    """Balanced labels, images (3, 4, 4) that are all different; a quarter of them held out."""
    generator = torch.Generator().manual_seed(0)
    whole = Dataset(
        name="made-up",
        inputs=torch.randn(samples, 3, 4, 4, generator=generator),
        targets=torch.arange(samples) % classes,
        classes=classes,
        note="made up",
    )
    return whole.split(0.25)


def made_up_text(sequences: int = 60, length: int = 8) -> Dataset:
    """Bytes in three parts of equal length; a quarter of each held out."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(256, (sequences, length + 1), generator=generator)
    whole = Dataset(
        name="made-up-text",
        inputs=text[:, :-1].clone(),
        targets=text[:, 1:].clone(),
        classes=256,
        note="made up",
        parts=tuple((name, sequences // 3) for name in "abc"),
    )
    return whole.split(0.25)


def _check_held_out(opened: TaskSequence, tasks: list[Task]) -> None:
    """Where held-out examples count there are some, and none of their rows is among those trained on."""
    counts = (opened.stream.score or opened.stream.scored) == "held-out"
    for task in tasks:
        if task.test_inputs is None:
            assert not counts, f"task {task.index}: nothing is held out"
            continue
        assert len(task.test_inputs), f"task {task.index}: nothing is held out"
        trained = {row.numpy().tobytes() for row in task.inputs.contiguous()}
        leaks = trained & {row.numpy().tobytes() for row in task.test_inputs.contiguous()}
        # A stream that makes its own inputs may draw one again by chance.
        ours = opened.stream.takes_data
        assert not (leaks and ours), f"task {task.index}: {len(leaks)} of the held-out inputs are trained on"


def _check_task(opened: TaskSequence, task: Task, index: int) -> None:
    assert task.index == index, f"task {index} says that it is task {task.index}"
    assert len(task.inputs) == len(task.targets) > 0, f"task {index}: inputs and targets differ in number"
    shape = tuple(task.inputs.shape[1:])
    assert shape == opened.input_shape, (
        f"task {index}: inputs are {shape}, the stream says {opened.input_shape}"
    )
    if task.inputs.is_floating_point():
        assert bool(task.inputs.isfinite().all()), f"task {index}: some inputs are not finite"
    objective = task.objective or opened.objective
    wrong = objective.check(task.targets)
    assert not wrong, f"task {index}: {wrong}"
    halves = (task.test_inputs is None) == (task.test_targets is None)
    assert halves, f"task {index}: half of a test part"
    if task.test_inputs is not None and task.test_targets is not None:
        assert tuple(task.test_inputs.shape[1:]) == opened.input_shape, (
            f"task {index}: held-out inputs differ"
        )
        assert not objective.check(task.test_targets), f"task {index}: held-out targets do not fit"
    chance = objective.chance(task.targets)
    assert chance == chance, f"task {index}: chance is not a number"


def _check_purity(stream: Stream, data: Dataset | None, tasks: list[Task]) -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002 -- what nobody may read
    torch.manual_seed(3)
    before, again = _generators(), stream.open(data, 3)
    for index in reversed(range(len(tasks))):
        same = _same(again.task(index), tasks[index])
        assert same, f"task {index} depends on what was asked for before"
    assert before == _generators(), "the stream draws from a global generator"
    other = stream.open(data, 4)
    assert any(not _same(other.task(index), task) for index, task in enumerate(tasks)), "seeds change nothing"


def _generators() -> tuple[object, ...]:
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()


def _check_settings(stream: Stream) -> None:
    kind: Any = type(stream)
    settings = dict(settings_of(stream))
    assert kind(**settings) == stream, "the stream is not what its settings make"
    assert hash(kind(**settings)) == hash(stream), "equal streams have different hashes"
    assert pickle.loads(pickle.dumps(stream)) == stream, "the stream cannot be pickled"


def _same(first: Task, second: Task) -> bool:
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (first.inputs, second.inputs),
        (first.targets, second.targets),
        (first.test_inputs, second.test_inputs),
        (first.test_targets, second.test_targets),
    ]
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
