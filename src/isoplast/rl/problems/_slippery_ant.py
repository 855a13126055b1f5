"""An ant that must walk again and again, each time on another ground."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch

from isoplast._core.checks import positive
from isoplast._core.errors import IsoplastError
from isoplast.rl.environments._environments import Actions, Environments
from isoplast.rl.environments._gymnasium import Gymnasium
from isoplast.rl.environments._packages import needed
from isoplast.rl.problems._problem import EnvironmentProblem, EnvironmentSequence
from isoplast.streams import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlipperyAnt(EnvironmentProblem):
    """MuJoCo's Ant-v5, whose friction is drawn anew in every task, log-uniformly between two bounds.

    The sliding friction of all geoms is set: of two that touch, MuJoCo takes the larger one. The length of
    episodes changes with the friction, so look at it beside the return. Observations are the 27 numbers
    without contact forces. Needs the extra `isoplast[rl]`.

    Args:
        tasks: how many, >= 1.
        steps_per_task: see `EnvironmentProblem`.
        low, high: the bounds, 0 < low <= high.

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024.
    """

    name: ClassVar[str] = "slippery-ant"

    tasks: int = 20
    steps_per_task: int = 2_000_000
    low: float = 0.02
    high: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"stream {self.name}", "low", "high")
        if self.low > self.high:
            raise IsoplastError(
                f"low of stream {self.name} is {self.low}, above high, {self.high}: exchange them"
            )

    def check(self) -> None:
        """MuJoCo must be there."""
        for module in ("gymnasium", "mujoco", "gymnasium.envs.mujoco"):
            needed(module, f"stream {self.name}")

    def unified(self) -> tuple[tuple[int, ...], Actions]:
        """27 numbers, and eight torques."""
        return (27,), Actions(8, discrete=False)

    def friction(self, source: EnvironmentSequence, index: int) -> float:
        """The sliding friction in a task."""
        share = float(source.bits(index, 1, part=1)[0]) / 2**64
        return self.low * math.exp(share * math.log(self.high / self.low))

    def title(self, source: EnvironmentSequence, index: int) -> str:
        """The friction, for people."""
        return f"Ant-v5, friction {self.friction(source, index):.3g}"

    def make(
        self, source: EnvironmentSequence, index: int, count: int, seed: int, device: torch.device
    ) -> Environments:
        """Ants on the ground of the task."""
        gymnasium = needed("gymnasium", f"stream {self.name}")
        friction = self.friction(source, index)

        def ant() -> Any:
            found = gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False)
            found.unwrapped.model.geom_friction[:, 0] = friction
            return found

        return Gymnasium(ant, count, seed, device, title=self.title(source, index))
