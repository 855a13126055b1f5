"""MinAtar by gymnax against the original, step by step, and what is ours around it."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.rl import MinAtar
from isoplast.streams import problem
from isoplast.study import Run, execute, load_study

needs_gymnax = pytest.mark.skipif(
    importlib.util.find_spec("gymnax") is None, reason="needs the extra isoplast[rl]: gymnax is not installed"
)
FOUR = ("asterix", "breakout", "freeway", "space_invaders")


def original(game: str) -> Any:
    """The authors' own game, without sticky actions."""
    return pytest.importorskip("minatar").Environment(game, sticky_action_prob=0.0)


def first_copy(environments: MinAtar) -> dict[str, Any]:
    """The state of the first copy, as numbers."""
    return {name: np.asarray(value)[0] for name, value in vars(environments._state).items()}


def take_over(game: str, inner: Any, state: dict[str, Any]) -> None:
    """Put the original game into the state of a copy of ours."""
    same = {
        "breakout": ("ball_y", "ball_x", "ball_dir", "pos", "strike", "last_x", "last_y", "brick_map"),
        "space_invaders": (
            *("pos", "f_bullet_map", "e_bullet_map", "alien_map", "alien_dir", "alien_move_timer"),
            *("alien_shot_timer", "ramp_index", "shot_timer", "enemy_move_interval"),
        ),
        "freeway": ("pos", "move_timer"),
        "asterix": (
            *("player_x", "player_y", "shot_timer", "spawn_speed", "spawn_timer", "move_speed"),
            *("move_timer", "ramp_timer", "ramp_index"),
        ),
    }[game]
    for name in same:
        value = state[name].copy()
        setattr(inner, name, value if value.ndim else value.item())
    if game == "freeway":
        inner.cars = [[int(number) for number in car] for car in state["cars"]]
    if game == "asterix":
        rows = [[int(number) for number in row] for row in state["entities"]]
        inner.entities = [row[:4] if row[4] else None for row in rows]


@needs_gymnax
@pytest.mark.parametrize("game", FOUR)
def test_every_step_is_that_of_the_original(game: str) -> None:
    """From the same state, the same action gives the same picture, reward and end.

    Steps at which chance decides are left out: in Asterix those that bring something new; Freeway's cars get
    new speeds only when the player arrives.
    """
    peer = original(game)
    environments = MinAtar(game, 8, seed=1)
    environments.reset()
    generator = torch.Generator().manual_seed(0)
    compared, paid, ended = 0, 0.0, 0
    for _ in range(600):
        before = first_copy(environments)
        actions = environments.sample(generator)
        if game == "asterix" and before["spawn_timer"] == 0:
            environments.step(actions)
            continue
        inner = peer.env
        inner.terminal = False
        take_over(game, inner, before)
        reward, terminal = inner.act(int(actions[0]))
        step = environments.step(actions)
        assert float(step.reward[0]) == reward
        assert bool(step.terminated[0]) == terminal
        compared, paid, ended = compared + 1, paid + reward, ended + int(terminal)
        if not bool(step.terminated[0] | step.truncated[0]):
            picture = inner.state().transpose(2, 0, 1)
            assert np.array_equal(step.observation[0, : len(picture)].numpy(), picture)
            assert not bool(step.observation[0, len(picture) :].any())
    assert compared > 400
    assert paid > 0 or game == "freeway"
    assert ended > 0 or game == "freeway"


@needs_gymnax
@pytest.mark.parametrize("game", FOUR)
def test_games_are_those_of_their_seed(game: str) -> None:
    def play(seed: int) -> torch.Tensor:
        environments = MinAtar(game, 8, seed)
        generator = torch.Generator().manual_seed(0)
        seen = [environments.reset()]
        seen += [environments.step(environments.sample(generator)).observation for _ in range(30)]
        return torch.stack(seen)

    assert torch.equal(play(0), play(0))
    # in Space Invaders nothing is left to chance
    assert torch.equal(play(0), play(1)) == (game == "space_invaders")


@needs_gymnax
def test_channels_are_put_in_the_order_that_was_asked_for() -> None:
    order = np.random.default_rng(0).permutation(10)
    plain, mixed = MinAtar("breakout", 8, 0), MinAtar("breakout", 8, 0, order=order)
    assert torch.equal(mixed.reset(), plain.reset()[:, order])
    actions = torch.tensor([0, 1, 3, 5, 5, 3, 1, 0])
    assert torch.equal(mixed.step(actions).observation, plain.step(actions).observation[:, order])


@needs_gymnax
def test_a_game_that_reaches_the_limit_is_truncated_not_lost() -> None:
    environments = MinAtar("freeway", 8, seed=0)  # it ends at its limit alone
    assert environments.limit == 2500
    environments.reset()
    up = torch.full((8,), 2)
    for _ in range(2499):
        step = environments.step(up)
        assert not bool((step.terminated | step.truncated).any())
    step = environments.step(up)
    assert bool(step.truncated.all())
    assert not bool(step.terminated.any())
    assert not torch.equal(step.info["final_observation"], step.observation)


@needs_gymnax
def test_games_come_in_balanced_random_cycles() -> None:
    sequence = problem("minatar", tasks=40).open(None, 0)
    titles = [sequence.task(index).title for index in range(40)]
    cycles = [tuple(titles[start : start + 4]) for start in range(0, 40, 4)]
    assert all(sorted(cycle) == sorted(FOUR) for cycle in cycles)
    assert len(set(cycles)) > 3


@needs_gymnax
def test_a_run_plays_game_after_game_and_resumes_to_the_same_bits(tmp_path: Any) -> None:
    run = Run(
        stream={"name": "minatar", "tasks": 2, "steps_per_task": 128, "games": "breakout"},
        learner={"name": "ppo", "environments": 8, "rollout": 16, "evaluation_episodes": 2},
        net={"name": "mlp", "width": 16, "depth": 2},
        method="adamo",
    )
    one, other = (load_study(execute(run, tmp_path / name).path) for name in ("one", "other"))
    assert one["environment"].to_list() == ["breakout"] * 3
    assert one.drop("seconds").equals(other.drop("seconds"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"games": "breakout pong"}, "unknown game of stream minatar 'pong'"),
        ({"games": " "}, "games of stream minatar is empty"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        problem("minatar", **settings)


def test_without_gymnax_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(IsoplastError, match=r"stream minatar needs jax.*pip install 'isoplast\[rl\]'"):
        problem("minatar").open(None, 0)
