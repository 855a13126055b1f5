"""CHIP-8 games of octax, and the paper's sequence of them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import torch

from isoplast._core.errors import IsoplastError, unknown
from isoplast.rl.environments._environments import Actions, Environments
from isoplast.rl.environments._jax import Compiled, JaxEnvironments, compiled
from isoplast.rl.environments._packages import needed
from isoplast.rl.problems._problem import EnvironmentProblem, EnvironmentSequence
from isoplast.streams import register

GAMES = ("brix", "submarine", "filter", "tank", "blinky", "missile", "ufo", "wipe_off")
_ACTIONS = 6


class Octax(JaxEnvironments):
    """Copies of a CHIP-8 game: observations (4, 32, 64) of truth values, the last four frames, six actions.

    The actions are the game's keys in octax's order; all that follow do nothing. Every episode begins in the
    same state: what is random comes from the game's own random numbers. Needs the extra `isoplast[rl]`.

    Args:
        game: one of the paper's eight.
        count: copies, >= 1.
        seed: of all that is random in them.
        device: where observations are wanted.

    Raises:
        IsoplastError: for an unknown game, or where JAX or octax are not installed.

    Reference:
        Radji et al., "Octax", 2025.
    """

    observation_shape = (4, 32, 64)
    actions = Actions(_ACTIONS)

    def __init__(self, game: str, count: int, seed: int, device: torch.device | str = "cpu") -> None:
        if game not in GAMES:
            raise unknown("game of Octax", game, GAMES)
        for module in ("jax", "octax"):
            needed(module, "Octax")
        super().__init__(_game(game), count, seed, device)


@functools.cache
def _game(game: str) -> Compiled:
    """The functions of a game."""
    import jax.numpy as jnp
    from octax.environments import create_environment

    environment, _ = create_environment(game)

    def reset(key: Any) -> Any:
        state, observation, _ = environment.reset(key)
        return observation, state

    def step(key: Any, state: Any, action: Any) -> Any:
        own = jnp.minimum(action, environment.num_actions - 1)  # its last one does nothing
        after, observation, reward, terminated, truncated, _ = environment.step(state, own)
        return observation, after, reward, jnp.asarray(terminated, dtype=bool), truncated

    def seen(observations: Any, view: Any) -> Any:
        return jnp.swapaxes(observations, 2, 3).astype(bool)

    return compiled(reset, step, seen, int(environment.max_num_steps_per_episodes))


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinualOctax(EnvironmentProblem):
    """CHIP-8 games in a fixed order, again and again; see `Octax`.

    The paper's: three cycles of eight games, five million steps each.

    Args:
        tasks: how many games are played, >= 1.
        steps_per_task: see `EnvironmentProblem`.
        games: names of games with spaces between them, in their order.

    Reference:
        arXiv:2606.09762, section 6.2 and Table 2.
    """

    name: ClassVar[str] = "octax"

    tasks: int = 24
    steps_per_task: int = 5_000_000
    games: str = " ".join(GAMES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.games.split():
            raise IsoplastError("games of stream octax is empty: name at least one")
        for game in self.games.split():
            if game not in GAMES:
                raise unknown("game of stream octax", game, GAMES)

    def check(self) -> None:
        """JAX and octax must be there."""
        for module in ("jax", "octax"):
            needed(module, f"stream {self.name}")

    def unified(self) -> tuple[tuple[int, ...], Actions]:
        """Four frames of 32 by 64, and six actions."""
        return Octax.observation_shape, Octax.actions

    def title(self, source: EnvironmentSequence, index: int) -> str:
        """The name of the game."""
        games = self.games.split()
        return games[index % len(games)]

    def make(
        self, source: EnvironmentSequence, index: int, count: int, seed: int, device: torch.device
    ) -> Environments:
        """The game of the task."""
        return Octax(self.title(source, index), count, seed, device)
