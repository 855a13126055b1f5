"""CartPole and Acrobot against gymnasium's, and what is ours in them: batches, resets, saved states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.rl import Acrobot, CartPole, Control, Shifted, control

NAMES = ("acrobot", "cartpole")
GYMNASIUM = {"acrobot": "Acrobot-v1", "cartpole": "CartPole-v1"}


def random_steps(environments: Control, steps: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        step = environments.step(environments.sample(generator))
        found.append(torch.cat((step.observation.flatten(), step.reward, step.terminated, step.truncated)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_that_of_gymnasium(name: str) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    peer = gymnasium.make(GYMNASIUM[name]).unwrapped
    environments = control(name, count=64, seed=3)
    generator = torch.Generator().manual_seed(1)
    environments.reset()
    compared = 0
    for _ in range(60):
        before = environments.state()["state"].clone()
        actions = environments.sample(generator)
        after, reward, terminated = environments.move(before, actions)
        environments.step(actions)
        for row in range(0, 64, 7):
            peer.reset()
            peer.state = before[row].double().numpy()
            if name == "cartpole":
                peer.state = tuple(peer.state)
            seen, paid, ended, _, _ = peer.step(int(actions[row]))
            # single precision against double: some units in the last place of numbers up to about 10
            np.testing.assert_allclose(environments.observe(after)[row], seen, rtol=1e-5, atol=2e-5)
            assert (float(reward[row]), bool(terminated[row])) == (paid, ended)
            compared += int(ended)
    assert name == "acrobot" or compared > 0, "no end of an episode was compared"


def test_acrobot_ends_where_gymnasium_s_does() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    peer = gymnasium.make("Acrobot-v1").unwrapped
    generator = torch.Generator().manual_seed(0)
    states = (torch.rand((200, 4), generator=generator) * 2 - 1) * torch.tensor((math.pi, math.pi, 4, 9))
    after, reward, terminated = Acrobot(200, seed=0).move(states, torch.ones(200, dtype=torch.int64))
    assert 20 < int(terminated.sum()) < 180
    for row in range(200):
        peer.reset()
        peer.state = states[row].double().numpy()
        _, paid, ended, _, _ = peer.step(1)
        assert (float(reward[row]), bool(terminated[row])) == (paid, ended)
    assert bool((after[:, :2].abs() <= math.pi + 1e-6).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_to_the_same_bits(name: str) -> None:
    environments = control(name, count=5, seed=0)
    environments.reset()
    random_steps(environments, 30)
    saved = {key: value.clone() for key, value in environments.state().items()}
    wanted = random_steps(environments, 40, seed=1)
    other = control(name, count=5, seed=99)
    other.restore(saved)
    assert all(torch.equal(a, b) for a, b in zip(wanted, random_steps(other, 40, seed=1), strict=True))


def test_seeds_decide_the_states_that_episodes_begin_in() -> None:
    first, again, another = (CartPole(4, seed).reset() for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, another)
    assert float(first.abs().max()) <= CartPole.start


def test_an_episode_that_ends_is_followed_by_a_fresh_one_in_its_copy_alone() -> None:
    environments = CartPole(16, seed=0)
    environments.reset()
    ended = 0
    for _ in range(100):
        before = environments.state()["state"].clone()
        actions = torch.ones(16, dtype=torch.int64)
        step = environments.step(actions)
        after, _, terminated = environments.move(before, actions)
        assert torch.equal(step.terminated, terminated)
        assert torch.equal(step.observation[~terminated], after[~terminated])
        assert bool((step.observation[terminated].abs() <= CartPole.start).all())
        ended += int(terminated.sum())
    assert ended > 16


def test_the_limit_of_time_truncates_and_shows_what_was_last_seen() -> None:
    environments = Acrobot(3, seed=0)
    environments.limit = 7
    environments.reset()
    still = torch.ones(3, dtype=torch.int64)
    for number in range(1, 22):
        before = environments.state()["state"].clone()
        step = environments.step(still)
        assert bool(step.truncated.all()) == (number % 7 == 0)
        assert not bool(step.terminated.any())
        assert ("final_observation" in step.info) == (number % 7 == 0)
        if number % 7 == 0:
            after, _, _ = environments.move(before, still)
            assert torch.equal(step.info["final_observation"], environments.observe(after))
            assert not torch.equal(step.info["final_observation"], step.observation)


def test_a_shift_maps_observations_and_exchanges_actions() -> None:
    matrix, _ = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    offset = torch.arange(6.0)
    plain, inner = CartPole(8, seed=0), CartPole(8, seed=0)
    inner.limit = plain.limit = 4
    shifted = Shifted(inner, matrix, offset, torch.tensor((1, 0)))
    assert shifted.observation_shape == (6,)
    assert torch.equal(shifted.reset(), plain.reset() @ matrix.T + offset)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        actions = plain.sample(generator)
        wanted, found = plain.step(actions), shifted.step(1 - actions)
        assert torch.equal(found.observation, wanted.observation @ matrix.T + offset)
        assert torch.equal(found.reward, wanted.reward)
    assert torch.equal(found.info["final_observation"], wanted.info["final_observation"] @ matrix.T + offset)


def test_bad_input_is_refused_in_one_line() -> None:
    with pytest.raises(IsoplastError, match="control 'cartpol': did you mean 'cartpole'"):
        control("cartpol", 1, 0)
    with pytest.raises(IsoplastError, match="count of environments is 0"):
        control("cartpole", 0, 0)
