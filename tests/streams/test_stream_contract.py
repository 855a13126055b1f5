"""What every registered stream must keep. A new stream is tested by being registered."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.streams import Dataset, Stream, Task, names, stream

TASKS = 6
CLASSES = 10
SAMPLES = 400

every_stream = pytest.mark.parametrize("name", names())


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Balanced labels, images that are all different."""
    generator = torch.Generator().manual_seed(0)
    return Dataset(
        name="made-up",
        inputs=torch.randn(SAMPLES, 3, 4, 4, generator=generator),
        targets=torch.arange(SAMPLES) % CLASSES,
        classes=CLASSES,
        note="made up",
        fingerprint="0",
    )


def same(first: Task, second: Task) -> bool:
    pairs = [(first.inputs, second.inputs), (first.targets, second.targets)]
    if first.test_inputs is not None:
        pairs += [(first.test_inputs, second.test_inputs), (first.test_targets, second.test_targets)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def build(name: str, data: Dataset, seed: int = 3) -> Stream:
    return stream(name, data, tasks=TASKS, seed=seed)


@every_stream
def test_describes_itself(name: str, data: Dataset) -> None:
    made = build(name, data)
    assert (made.tasks, made.classes, made.input_shape) == (TASKS, CLASSES, (3, 4, 4))


@every_stream
def test_tasks_fit_the_description(name: str, data: Dataset) -> None:
    made = build(name, data)
    for index in range(TASKS):
        task = made.task(index)
        assert task.index == index
        assert task.classes == made.classes
        assert task.inputs.dtype == torch.float32
        assert task.inputs.shape[1:] == made.input_shape
        assert task.inputs.isfinite().all()
        assert task.targets.dtype == torch.int64
        assert task.targets.shape == task.inputs.shape[:1]
        assert len(task.targets) > 0
        assert task.targets.min() >= 0
        assert task.targets.max() < made.classes
        assert (task.test_inputs is None) == (task.test_targets is None)


@every_stream
def test_is_a_pure_function_of_seed_and_index(name: str, data: Dataset) -> None:
    """Order of the calls, earlier calls and another instance make no difference: a run resumes anywhere."""
    forward = [build(name, data).task(index) for index in range(TASKS)]
    reused = build(name, data)
    backward = {index: reused.task(index) for index in reversed(range(TASKS))}
    assert all(same(forward[index], backward[index]) for index in range(TASKS))
    assert same(reused.task(2), reused.task(2))


@every_stream
def test_does_not_depend_on_how_many_tasks_are_asked_for(name: str, data: Dataset) -> None:
    longer = stream(name, data, tasks=TASKS + 5, seed=3)
    assert all(same(build(name, data).task(index), longer.task(index)) for index in range(TASKS))


@every_stream
def test_tasks_differ_and_seeds_differ(name: str, data: Dataset) -> None:
    made, other = build(name, data, seed=3), build(name, data, seed=4)
    assert not same(made.task(0), made.task(1))
    assert not all(same(made.task(index), other.task(index)) for index in range(TASKS))


@every_stream
def test_uses_every_class_about_equally_over_the_stream(name: str, data: Dataset) -> None:
    made = build(name, data)
    targets = torch.cat([made.task(index).targets for index in range(TASKS)])
    shares = targets.bincount(minlength=CLASSES) / len(targets)
    # Independent uniform labels have a share's standard error of sqrt(.1 * .9 / 2400) = .006; five of them.
    assert shares.sub(1 / CLASSES).abs().max() < 0.03


@every_stream
def test_leaves_random_states_and_data_alone(name: str, data: Dataset) -> None:
    inputs, targets = data.inputs.clone(), data.targets.clone()
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global state is what is checked
    build(name, data).task(1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    assert now["state"]["pos"] == numpy_state["state"]["pos"]
    assert np.array_equal(now["state"]["key"], numpy_state["state"]["key"])
    assert torch.equal(data.inputs, inputs)
    assert torch.equal(data.targets, targets)


@every_stream
def test_does_not_depend_on_the_global_random_state(name: str, data: Dataset) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = build(name, data).task(1)
        torch.manual_seed(2)
        second = build(name, data).task(1)
    assert same(first, second)


@every_stream
@pytest.mark.parametrize("index", [-1, TASKS, 1000])
def test_refuses_a_task_it_does_not_have(name: str, data: Dataset, index: int) -> None:
    with pytest.raises(IsoplastError, match=rf"^task {index} of stream '{name}': it has tasks 0\.\.5$"):
        build(name, data).task(index)


@every_stream
def test_refuses_wrong_arguments(name: str, data: Dataset) -> None:
    with pytest.raises(IsoplastError, match="tasks=0"):
        stream(name, data, tasks=0, seed=0)
    with pytest.raises(IsoplastError, match="seed=-1"):
        stream(name, data, tasks=1, seed=-1)


def test_suggests_the_nearest_name(data: Dataset) -> None:
    with pytest.raises(IsoplastError, match="unknown stream 'random-label': did you mean 'random-labels'"):
        stream("random-label", data, tasks=1, seed=0)
