"""DQN as a learner: same bits after an interruption, every method, what is refused."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from same_bits import assert_same_bits
from test_execute import crash_in_child, kill_at_call
from test_ppo_learner import Pushes

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.study import Run, execute, load_study
from isoplast.study.run._execute import open_problem, start_learner


def tiny(**changes: Any) -> Run:
    """A run of 2 tasks x 8 rollouts of 32 transitions, the last 6 of which 2 steps follow each."""
    learner = {"name": "dqn", "environments": 4, "updates": 2, "batch_size": 16, "warm_up": 96}
    settings: dict[str, Any] = {
        "stream": {"name": "shifted-control", "tasks": 2, "steps_per_task": 256},
        "learner": {**learner, "replay": 200, "target_every": 5, "evaluation_episodes": 2},
        "net": {"name": "mlp", "width": 16, "depth": 2},
        "instruments": ["weights", "plasticity"],
        "method": "adamo",
    }
    return Run(**{**settings, **changes})


def test_killed_on_the_way_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = execute(tiny(), tmp_path / "whole")
    for call in (11, 14, 20):
        parent = tmp_path / str(call)
        assert crash_in_child(tiny(), parent, kill_at_call(call, os, "fsync")) == -signal.SIGKILL
        assert_same_bits(execute(tiny(), parent).path, whole.path)
    frame = load_study(whole.path)
    assert frame["steps"].to_list() == [0, 12, 12]
    assert frame["plasticity"].null_count() == 0
    assert frame["online_return"][1:].is_finite().all()
    assert frame["greedy_churn"][0] is None
    assert (frame["value_churn"][1:] > 0).all()


def test_churn_is_of_the_last_steps_on_observations_of_the_replay(tmp_path: Path) -> None:
    run = tiny(instruments=False, lr=1e-1)
    problem = open_problem(run)
    learner = start_learner(run, problem, 0)
    learner.begin(problem.task(0))
    for _ in range(learner.units - 1):
        learner.advance()
    before = copy.deepcopy(learner.network)
    learner.advance()
    seen = learner._replay._kept.observations  # type: ignore[attr-defined]
    assert len(seen) == 200  # full, and fewer than what is looked at
    with torch.no_grad():
        old, new = before.eval()(seen), copy.deepcopy(learner.network).eval()(seen)
    moved = (old.argmax(1) != new.argmax(1)).double().mean().item()
    assert moved > 0
    found = learner.measure(problem.task(0))
    assert found["greedy_churn"] == moved
    assert found["value_churn"] == pytest.approx((new - old).square().mean().sqrt().item(), rel=1e-5)
    assert "policy_churn" not in found


@pytest.mark.parametrize("name", [name if name != "nap" else "layernorm+nap" for name in methods.names()])
def test_every_method_trains_an_agent(name: str, tmp_path: Path) -> None:
    frame = load_study(execute(tiny(method=name, instruments=False), tmp_path).path)
    assert frame["task"].to_list() == [-1, 0, 1]
    assert frame["return"].is_finite().all()


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        IsoplastError, match=r"learner dqn chooses among finitely many actions, .* learner ppo"
    ):
        execute(tiny(stream=Pushes()), tmp_path)
    with pytest.raises(IsoplastError, match=r"transitions with observations \(16,\) take .* GiB"):
        execute(tiny(learner={"name": "dqn", "replay": 10**13}), tmp_path)
    with pytest.raises(IsoplastError, match="learner dqn acts in environments"):
        tiny(stream="random-labels")
