"""MinAtar's games, stepped by gymnax: a batch of games is one compiled function."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from isoplast._core.errors import unknown
from isoplast.rl._environments import Actions, Environments, Step, check_count
from isoplast.rl._packages import needed

GAMES = {
    "asterix": "Asterix-MinAtar",
    "breakout": "Breakout-MinAtar",
    "freeway": "Freeway-MinAtar",
    "seaquest": "Seaquest-MinAtar",
    "space_invaders": "SpaceInvaders-MinAtar",
}
CHANNELS = 10


class MinAtar(Environments):
    """Copies of a MinAtar game: observations (10, 10, 10) of truth values, six actions.

    A game's own channels are followed by empty ones, up to ten, and then put into a given order. The actions
    are MinAtar's: nothing, left, up, right, down, fire; those that a game does not know do nothing in it.
    There are no sticky actions. The difficulty rises as gymnax has it. Episodes are truncated after
    gymnax's own limit, 1000 steps (Freeway 2500).

    Needs the extra `isoplast[rl]`. Observations come from JAX without a copy where both compute on the CPU.

    Args:
        game: one of `GAMES`; "seaquest" needs gymnax 1.
        count: copies, >= 1.
        seed: of all that is random in them.
        device: where observations are wanted.
        order: a permutation of the ten channels; None: as they are.

    Raises:
        IsoplastError: for an unknown game, or where JAX or gymnax are not installed.

    Reference:
        Young and Tian, "MinAtar", arXiv:1903.03176; Lange, gymnax (Apache-2.0).
    """

    observation_shape = (CHANNELS, 10, 10)
    actions = Actions(6)

    def __init__(
        self,
        game: str,
        count: int,
        seed: int,
        device: torch.device | str = "cpu",
        order: Sequence[int] | None = None,
    ) -> None:
        if game not in GAMES:
            raise unknown("game of MinAtar", game, GAMES)
        self._jax = needed("jax", "MinAtar")
        needed("gymnax", "MinAtar")
        self.count, self.device = check_count(count), torch.device(device)
        self._game = _compiled(game)
        self.limit = self._game.limit
        self._order = np.arange(CHANNELS) if order is None else np.asarray(order)
        self._key = self._jax.random.PRNGKey(seed)

    def reset(self) -> Tensor:
        """Begin a new game in every copy."""
        self._key, key = self._jax.random.split(self._key)
        observation, self._state = self._game.reset(self._jax.random.split(key, self.count), self._order)
        return self._tensor(observation)

    def step(self, actions: Tensor) -> Step:
        """Do one step in every copy."""
        # As an array of numpy: one that came by DLPack would be compiled for anew, and stepped more slowly.
        chosen = actions.to(torch.int32).cpu().numpy()
        found = self._game.step(self._key, self._state, chosen, self._order)
        self._key, self._state, observation, final, reward, terminated, truncated = found
        info = {"final_observation": self._tensor(final)} if truncated.any() else {}
        return Step(
            self._tensor(observation),
            self._tensor(reward),
            self._tensor(terminated),
            self._tensor(truncated),
            info,
        )

    def _tensor(self, found: Any) -> Tensor:
        return torch.utils.dlpack.from_dlpack(found).to(self.device)


class _Compiled(NamedTuple):
    """A game as functions of whole batches.

    Attributes:
        reset: (keys, order) to (observations, states).
        step: (key, states, actions, order) to (key, states, observations, final observations, rewards,
            terminated, truncated).
        limit: most steps of an episode.
    """

    reset: Any
    step: Any
    limit: int


@functools.cache
def _compiled(game: str) -> _Compiled:
    """The functions of a game; each is compiled once for every number of copies."""
    import gymnax
    import jax
    import jax.numpy as jnp

    environment, parameters = gymnax.make(GAMES[game], use_minimal_action_set=False)
    limit = int(parameters.max_steps_in_episode)
    # Its own limit would end games as if they were lost (in gymnax before 1), so ours stands in its place.
    parameters = parameters.replace(max_steps_in_episode=2**30)

    def seen(observations: Any, order: Any) -> Any:
        channels = jnp.moveaxis(observations, -1, 1).astype(bool)
        empty = ((0, 0), (0, CHANNELS - channels.shape[1]), (0, 0), (0, 0))
        return jnp.pad(channels, empty)[:, order]

    def strong(states: Any) -> Any:
        # Python's numbers in a state have weak types after a reset alone: a step would be compiled twice.
        return jax.tree_util.tree_map(lambda one: jax.lax.convert_element_type(one, one.dtype), states)

    def reset(keys: Any, order: Any) -> Any:
        observations, states = jax.vmap(lambda key: environment.reset_env(key, parameters))(keys)
        return seen(observations, order), strong(states)

    def step(key: Any, states: Any, actions: Any, order: Any) -> Any:
        key, *both = jax.random.split(key, 3)
        stepping, resetting = (jax.random.split(one, len(actions)) for one in both)
        moved = jax.vmap(lambda *found: environment.step_env(*found, parameters))(stepping, states, actions)
        observations, after, rewards, *_ = moved
        terminated = after.terminal
        truncated = (after.time >= limit) & ~terminated
        ended = terminated | truncated
        first, fresh = jax.vmap(lambda key: environment.reset_env(key, parameters))(resetting)

        def chosen(new: Any, old: Any) -> Any:
            return jnp.where(ended.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

        states = strong(jax.tree_util.tree_map(chosen, fresh, after))
        shown, final = seen(chosen(first, observations), order), seen(observations, order)
        return key, states, shown, final, rewards.astype(jnp.float32), terminated, truncated

    return _Compiled(jax.jit(reset), jax.jit(step), limit)
