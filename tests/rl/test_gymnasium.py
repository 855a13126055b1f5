"""gymnasium's environments behind the interface of tensors; slippery ants."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.rl import Actions, Gymnasium
from isoplast.streams import problem
from isoplast.study import Run, execute, load_study

gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium")
needs_mujoco = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="needs the extra isoplast[rl]: MuJoCo is not installed"
)


class Stub(gymnasium.Env):  # type: ignore[misc,name-defined]
    """Observations count the steps; `script(step)` says what happens in each."""

    def __init__(self, script: Callable[[int], Any], actions: Any = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-9, 9, (2,))
        self.action_space = gymnasium.spaces.Discrete(2) if actions is None else actions
        self.script, self.taken, self.resets = script, [], []  # type: ignore[var-annotated]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.resets.append(seed)
        self.time = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.taken.append(action)
        terminated, truncated = self.script(self.time)
        return np.full(2, self.time), 0.5, terminated, truncated, {}


def never(step: int) -> tuple[bool, bool]:
    return False, False


def test_steps_are_those_of_gymnasium_s_own_vector() -> None:
    peer = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * 3,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    ours = Gymnasium(lambda: gymnasium.make("CartPole-v1"), 3, seed=5)
    wanted, _ = peer.reset(seed=5)
    assert np.array_equal(ours.reset(), wanted)
    generator = torch.Generator().manual_seed(0)
    ended = 0
    for _ in range(80):
        actions = ours.sample(generator)
        found = ours.step(actions)
        seen, reward, terminated, truncated, _ = peer.step(actions.numpy())
        assert np.array_equal(found.observation, seen)
        assert np.array_equal(found.reward, reward)
        assert np.array_equal(found.terminated, terminated)
        assert np.array_equal(found.truncated, truncated)
        ended += int(terminated.sum())
    assert ended > 3


def test_a_truncated_episode_shows_what_was_last_seen() -> None:
    scripts = iter([never, lambda step: (False, step == 2), lambda step: (step == 2, step == 2)])
    copies = Gymnasium(lambda: Stub(next(scripts)), 3, seed=0, limit=50)
    copies.reset()
    assert copies.step(torch.zeros(3, dtype=torch.int64)).info == {}
    step = copies.step(torch.zeros(3, dtype=torch.int64))
    assert step.terminated.tolist() == [False, False, True]
    assert step.truncated.tolist() == [False, True, False]  # what the task ended is not cut off
    assert step.info["final_observation"][:2].tolist() == [[2, 2]] * 2
    assert step.observation.tolist() == [[2, 2], [0, 0], [0, 0]]


def test_the_limit_truncates() -> None:
    copies = Gymnasium(lambda: Stub(never), 2, seed=0, limit=3)
    copies.reset()
    found = [copies.step(torch.zeros(2, dtype=torch.int64)).truncated.tolist() for _ in range(7)]
    assert [all(one) for one in found] == [False, False, True, False, False, True, False]


def test_padding_fills_observations_with_zeros_and_actions_with_the_first() -> None:
    made: list[Stub] = []

    def make() -> Stub:
        made.append(Stub(never))
        return made[-1]

    copies = Gymnasium(make, 2, seed=0, size=5, choices=4, limit=9)
    assert copies.actions == Actions(4)
    copies.reset()
    step = copies.step(torch.tensor([1, 3]))
    assert step.observation.tolist() == [[1, 1, 0, 0, 0]] * 2
    assert [int(one.taken[0]) for one in made] == [1, 0]


def test_continuous_actions_are_cut_to_the_bounds() -> None:
    made: list[Stub] = []

    def make() -> Stub:
        made.append(Stub(never, gymnasium.spaces.Box(-1, np.array([1.0, 2.0]), (2,))))
        return made[-1]

    copies = Gymnasium(make, 1, seed=0, choices=3, limit=9)
    assert copies.actions == Actions(3, discrete=False)
    copies.reset()
    copies.step(torch.tensor([[-5.0, 5.0, 7.0]]))
    assert made[0].taken[0].tolist() == [-1.0, 2.0]


def test_a_copy_that_breaks_is_made_anew_and_counted() -> None:
    def breaks(step: int) -> tuple[bool, bool]:
        if step == 3:
            raise RuntimeError("the simulation is unstable")
        return False, False

    copies = Gymnasium(lambda: Stub(breaks), 2, seed=0, limit=50)
    copies.reset()
    found = [copies.step(torch.zeros(2, dtype=torch.int64)) for _ in range(4)]
    assert found[2].truncated.tolist() == [True, True]
    assert found[2].info["final_observation"].tolist() == [[2, 2], [2, 2]]  # what was seen before it broke
    assert found[3].observation.tolist() == [[1, 1], [1, 1]]
    assert copies.restarts == 2
    always = Gymnasium(lambda: Stub(lambda step: breaks(3)), 101, seed=0, limit=50)
    always.reset()
    with pytest.raises(IsoplastError, match="environment has failed 101 times, at last with RuntimeError"):
        always.step(torch.zeros(101, dtype=torch.int64))


def test_environments_of_different_sizes_make_one_sequence(tmp_path: Path) -> None:
    stream = {"name": "gymnasium", "environments": "CartPole-v1 Acrobot-v1", "tasks": 3, "steps_per_task": 64}
    sequence = problem(**stream).open(None, 0)
    assert problem(**stream).unified() == ((6,), Actions(3))  # type: ignore[attr-defined]
    assert [sequence.task(index).title for index in range(3)] == ["CartPole-v1", "Acrobot-v1", "CartPole-v1"]
    run = Run(
        stream=stream,
        learner={"name": "ppo", "environments": 2, "rollout": 16, "evaluation_episodes": 1},
        net={"name": "mlp", "width": 8, "depth": 1},
        instruments=False,
    )
    one, other = (load_study(execute(run, tmp_path / name).path) for name in ("one", "other"))
    assert one.drop("seconds").equals(other.drop("seconds"))
    assert one["restarts"].to_list() == [None, 0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environments": ""}, "environments of stream gymnasium is empty"),
        ({"environments": "CartPole-v99"}, "environment CartPole-v99 of stream gymnasium: "),
        (
            {"environments": "no_module_here:Thing-v0"},
            "environment no_module_here:Thing-v0 of stream gymnasium: ",
        ),
        (
            {"environments": "CartPole-v1 Pendulum-v1"},
            "mixes kinds of actions .CartPole-v1: 2 actions, Pendulum",
        ),
        ({"environments": "Taxi-v4"}, "Taxi-v4 has observations Discrete, which are no array"),
        ({"limit": 0}, "limit of stream gymnasium is 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    if settings.get("environments") == "Taxi-v4" and "Taxi-v4" not in gymnasium.registry:
        settings, message = {"environments": "Taxi-v3"}, message.replace("v4", "v3")
    with pytest.raises(IsoplastError, match=message):
        problem("gymnasium", **settings).open(None, 0)


def test_an_environment_without_a_limit_needs_one() -> None:
    with pytest.raises(IsoplastError, match="environment has no limit of steps for an episode: set one"):
        Gymnasium(lambda: Stub(never), 1, seed=0)


@pytest.fixture
def without_mujoco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mujoco", None)


@pytest.mark.usefixtures("without_mujoco")
def test_without_mujoco_the_extra_is_named() -> None:
    with pytest.raises(
        IsoplastError, match=r"stream slippery-ant needs mujoco.*pip install 'isoplast\[rl\]'"
    ):
        problem("slippery-ant").open(None, 0)


def test_frictions_are_log_uniform_between_the_bounds() -> None:
    from isoplast.rl import EnvironmentSequence

    settings = problem("slippery-ant", tasks=400)
    sequence = EnvironmentSequence(settings, 0)  # type: ignore[arg-type]
    found = torch.tensor([math.log(settings.friction(sequence, index)) for index in range(400)])  # type: ignore[attr-defined]
    low, high = math.log(0.02), math.log(2.0)
    assert low <= float(found.min()) < float(found.max()) <= high
    # four standard errors of the mean of a uniform distribution
    assert abs(float(found.mean()) - (low + high) / 2) < 4 * (high - low) / 12**0.5 / 20
    with pytest.raises(IsoplastError, match=r"low of stream slippery-ant is 3\.0, above"):
        problem("slippery-ant", low=3.0)


@needs_mujoco
def test_the_friction_of_every_geom_is_that_of_the_task() -> None:
    sequence = problem("slippery-ant", tasks=2).open(None, 0)
    for index in range(2):
        copies = sequence.task(index).make(1, "training")
        wanted = sequence.problem.friction(sequence, index)  # type: ignore[union-attr]
        model = copies._copies[0].unwrapped.model  # type: ignore[attr-defined]
        assert np.allclose(model.geom_friction[:, 0], wanted)
        copies.close()


@needs_mujoco
def test_an_ant_is_trained_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    run = Run(
        stream={"name": "slippery-ant", "tasks": 2, "steps_per_task": 64},
        learner={"name": "ppo", "environments": 2, "rollout": 32, "evaluation_episodes": 1},
        net={"name": "mlp", "width": 8, "depth": 1, "activation": "tanh"},
        instruments=["weights"],
    )
    one, other = (load_study(execute(run, tmp_path / name).path) for name in ("one", "other"))
    assert one.drop("seconds").equals(other.drop("seconds"))
    assert one["episode_length"].is_finite().all()
