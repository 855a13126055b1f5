"""MinAtar's games, stepped by gymnax."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from isoplast._core.errors import unknown
from isoplast.rl.environments._environments import Actions
from isoplast.rl.environments._jax import Compiled, JaxEnvironments, compiled
from isoplast.rl.environments._packages import needed

GAMES = {
    "asterix": "Asterix-MinAtar",
    "breakout": "Breakout-MinAtar",
    "freeway": "Freeway-MinAtar",
    "seaquest": "Seaquest-MinAtar",
    "space_invaders": "SpaceInvaders-MinAtar",
}
CHANNELS = 10


class MinAtar(JaxEnvironments):
    """Copies of a MinAtar game: observations (10, 10, 10) of truth values, six actions.

    A game's own channels are followed by empty ones, up to ten, and then put into a given order. The actions
    are MinAtar's: nothing, left, up, right, down, fire; those that a game does not know do nothing in it.
    There are no sticky actions. The difficulty rises as gymnax has it. Episodes are truncated after
    gymnax's own limit, 1000 steps (Freeway 2500).

    Needs the extra `isoplast[rl]`.

    Args:
        game: one of `GAMES`.
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
        for module in ("jax", "gymnax"):
            needed(module, "MinAtar")
        view = np.arange(CHANNELS) if order is None else np.asarray(order)
        super().__init__(_game(game), count, seed, device, view)


@functools.cache
def _game(game: str) -> Compiled:
    """The functions of a game."""
    import gymnax
    import jax.numpy as jnp

    environment, parameters = gymnax.make(GAMES[game], use_minimal_action_set=False)
    limit = int(parameters.max_steps_in_episode)
    # `step` keeps the limit, and says that a game is cut off there.
    parameters = parameters.replace(max_steps_in_episode=2**30)

    def seen(observations: Any, order: Any) -> Any:
        channels = jnp.moveaxis(observations, -1, 1).astype(bool)
        empty = ((0, 0), (0, CHANNELS - channels.shape[1]), (0, 0), (0, 0))
        return jnp.pad(channels, empty)[:, order]

    def step(key: Any, state: Any, action: Any) -> Any:
        observation, after, reward, *_ = environment.step_env(key, state, action, parameters)
        return observation, after, reward, after.terminal.astype(bool), after.time >= limit

    return compiled(lambda key: environment.reset_env(key, parameters), step, seen, limit)
