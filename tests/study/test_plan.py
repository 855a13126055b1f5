"""What a study would do: states, steps, isometry times and costs, without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.data import NotHere, load_data, offline
from isoplast.study import Run, RunDirectory, Study, execute, plan_study

MakeRun = Callable[..., Run]


def test_states_steps_and_isometry_times(tiny: MakeRun, tmp_path: Path) -> None:
    adam = [tiny(method="adam", seed=seed) for seed in (0, 1)]
    adamo = [tiny(method={"name": "adamo", "isometry": 1.0}, seed=seed) for seed in (0, 1)]
    execute(adam[0], tmp_path)
    RunDirectory.create(tmp_path, adam[1]).mark_failed("why not")
    first, second = plan_study(Study("two", [*adam, *adamo]), tmp_path, measure=False)
    assert (first.seeds("done"), first.seeds("failed"), first.seeds("waiting")) == ([0], [1], [])
    assert second.seeds("waiting") == [0, 1]
    assert (first.tasks_left, second.tasks_left) == (3, 6)
    assert (first.steps, second.steps) == (12, 12)  # 3 tasks of 2 epochs of 2 mini-batches
    assert first.isometry == ()
    (time,) = second.isometry
    assert time.shortest == pytest.approx(1 / (8 * 3e-3 * 1.0))
    assert time.longest == pytest.approx(time.shortest)
    assert time.elapsed == pytest.approx(8 * 3e-3 * 12)


def test_after_a_switch_the_time_is_what_is_left(rescue: Run, tmp_path: Path) -> None:
    (one,) = plan_study(Study("one", [rescue]), tmp_path, measure=False)
    (time,) = one.isometry
    assert (one.steps, time.steps) == (12, 8)  # from task 1 of 3 on


def test_the_cost_is_that_of_finished_tasks(tiny: MakeRun, tmp_path: Path) -> None:
    done, same, other = tiny(seed=0), tiny(seed=1), tiny(lr=1e-3)
    spent = execute(done, tmp_path).status().seconds
    planned = plan_study(Study("three", [done, same, other]), tmp_path, measure=False)
    assert [one.source for one in planned] == ["runs", "method"]
    assert [one.task_seconds for one in planned] == [pytest.approx(spent / 3)] * 2
    assert [one.seconds_left for one in planned] == [pytest.approx(spent)] * 2


def test_without_finished_tasks_steps_are_measured_and_nothing_is_left_behind(
    tiny: MakeRun, tmp_path: Path
) -> None:
    seen: list[str] = []
    before = torch.get_rng_state(), torch.get_num_threads()
    runs = [tiny(method="adam"), tiny(method="adam", lr=1e-2), tiny(method="redo")]
    planned = plan_study(Study("three", runs), tmp_path / "out", listener=lambda run: seen.append(run.label))
    assert seen == ["Adam", "ReDo"]  # a method once
    assert [one.source for one in planned] == ["measured"] * 3
    assert planned[0].task_seconds == planned[1].task_seconds
    for one in planned:
        assert one.seconds_left is not None
        assert 0 < one.seconds_left < 60
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()


def test_acting_learners_are_measured_too(tmp_path: Path) -> None:
    learners = (
        {"name": "ppo", "environments": 4, "rollout": 8, "minibatches": 2, "evaluation_episodes": 1},
        {"name": "dqn", "environments": 4, "warm_up": 64, "batch_size": 8, "evaluation_episodes": 1},
    )
    problem = {"name": "shifted-control", "tasks": 2, "steps_per_task": 256}
    net = {"name": "mlp", "width": 8}
    runs = [Run(stream=problem, net=net, learner=one, instruments=False) for one in learners]
    planned = plan_study(Study("two", runs), tmp_path)
    assert [one.source for one in planned] == ["measured"] * 2


def test_a_run_that_would_fail_says_why(tiny: MakeRun, tmp_path: Path) -> None:
    (one,) = plan_study(Study("one", [tiny(method="adam", lr=1e30)]), tmp_path)
    assert (one.source, one.seconds_left) == ("nothing", None)
    assert one.note.startswith("Diverged: the loss is ")


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOPLAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ISOPLAST_DATA", raising=False)
    (one,) = plan_study(Study("one", [Run(data="cifar10")]), tmp_path)
    assert (one.steps, one.isometry, one.seconds_left) == (None, (), None)
    assert "is not on this machine: it would be downloaded from https://" in one.note
    assert list(tmp_path.iterdir()) == []
    with offline(), pytest.raises(NotHere):
        load_data("cifar10")


def test_what_the_study_would_refuse_is_refused(tiny: MakeRun, tmp_path: Path) -> None:
    Study("other", [tiny()]).describe(tmp_path)
    with pytest.raises(IsoplastError, match="holds the results of study 'other'"):
        plan_study(Study("one", [tiny()]), tmp_path)
    with pytest.raises(IsoplastError, match="threads is 0"):
        plan_study(Study("other", [tiny()]), tmp_path, threads=0)
    with pytest.raises(IsoplastError, match="network gpt reads token sequences"):
        plan_study(Study("other", [tiny(net="gpt")]), tmp_path)
