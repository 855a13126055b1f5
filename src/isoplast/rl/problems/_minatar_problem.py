"""Continual MinAtar: game after game, each time with its channels in another order."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch

from isoplast._core.errors import IsoplastError, unknown
from isoplast.rl.environments._environments import Actions, Environments
from isoplast.rl.environments._minatar import CHANNELS, GAMES, MinAtar
from isoplast.rl.environments._packages import needed
from isoplast.rl.problems._problem import EnvironmentProblem, EnvironmentSequence
from isoplast.streams import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinualMinAtar(EnvironmentProblem):
    """MinAtar's games in cycles: each cycle plays every game once, in a random order of its own.

    The paper's: 20 cycles of four games, 15 million steps each, and the channels of the observation in a new
    random order at every game. It does not say how channels are added and games drawn ("random but
    balanced"): ours are ten channels, all permuted, and a fresh shuffle for each cycle. See `MinAtar`.

    Args:
        tasks: how many games are played, >= 1.
        steps_per_task: see `EnvironmentProblem`.
        games: names of games with spaces between them.
        permute_channels: whether the channels are in another order in each task.

    Reference:
        arXiv:2606.09762, section 6.2 and Table 1.
    """

    name: ClassVar[str] = "minatar"

    tasks: int = 80
    steps_per_task: int = 15_000_000
    games: str = "breakout asterix space_invaders freeway"
    permute_channels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.games.split():
            raise IsoplastError("games of stream minatar is empty: name at least one")
        for game in self.games.split():
            if game not in GAMES:
                raise unknown("game of stream minatar", game, GAMES)

    def check(self) -> None:
        """JAX and gymnax must be there."""
        for module in ("jax", "gymnax"):
            needed(module, f"stream {self.name}")

    def unified(self) -> tuple[tuple[int, ...], Actions]:
        """Ten channels of ten by ten, and six actions."""
        return MinAtar.observation_shape, MinAtar.actions

    def title(self, source: EnvironmentSequence, index: int) -> str:
        """The name of the game."""
        games = self.games.split()
        cycle, place = divmod(index, len(games))
        order = np.argsort(source.bits(cycle, len(games), part=1), kind="stable")
        return games[int(order[place])]

    def make(
        self, source: EnvironmentSequence, index: int, count: int, seed: int, device: torch.device
    ) -> Environments:
        """The game with its channels in the order of the task."""
        order = np.argsort(source.bits(index, CHANNELS, part=2), kind="stable").tolist()
        game = self.title(source, index)
        return MinAtar(game, count, seed, device, order if self.permute_channels else None)
