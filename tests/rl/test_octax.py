"""Octax's games behind the interface of tensors."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.rl import Octax
from isoplast.streams import problem

needs_octax = pytest.mark.skipif(
    importlib.util.find_spec("octax") is None, reason="needs the extra isoplast[rl]: octax is not installed"
)


@needs_octax
def test_steps_are_those_of_octax() -> None:
    """One copy against octax's own environment, whose random numbers are those of the copy's state."""
    import jax
    import numpy as np
    from octax.environments import create_environment

    peer, _ = create_environment("brix")
    ours = Octax("brix", 2, seed=0)
    seen = ours.reset()
    assert seen.shape == (2, 4, 32, 64)
    step = jax.jit(peer.step)
    state = jax.tree_util.tree_map(lambda one: one[1], ours._state)
    for action in (0, 1, 5, 2, 0, 4):
        found = ours.step(torch.tensor([0, action]))
        # brix has three actions, the last of which does nothing
        state, picture, reward, terminated, _, _ = step(state, min(action, 2))
        assert np.array_equal(found.observation[1].numpy(), np.asarray(picture).swapaxes(1, 2))
        assert float(found.reward[1]) == float(reward)
        assert bool(found.terminated[1]) == bool(terminated)
    assert bool(found.observation.any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"games": "brix pong"}, "unknown game of stream octax 'pong'"),
        ({"games": ""}, "games of stream octax is empty"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        problem("octax", **settings)


def test_without_octax_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "octax", None)
    with pytest.raises(IsoplastError, match=r"stream octax needs octax.*pip install 'isoplast\[rl\]'"):
        problem("octax").open(None, 0)


@needs_octax
def test_games_come_in_the_order_that_was_asked_for() -> None:
    sequence = problem("octax", tasks=5, games="tank ufo").open(None, 0)
    assert [sequence.task(index).title for index in range(5)] == ["tank", "ufo", "tank", "ufo", "tank"]
