"""Any environments of gymnasium, one after the other."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from isoplast._core.checks import positive
from isoplast._core.errors import IsoplastError
from isoplast.rl.environments._environments import Actions, Environments
from isoplast.rl.environments._gymnasium import Gymnasium, spaces_of
from isoplast.rl.environments._packages import needed
from isoplast.rl.problems._problem import EnvironmentProblem, EnvironmentSequence
from isoplast.streams import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class GymnasiumSequence(EnvironmentProblem):
    """Environments by their gymnasium names, in cycles.

    Observations are flattened and padded with zeros to the longest, actions filled up to the most: see
    `Gymnasium`. All must have discrete actions, or all continuous ones.

    Args:
        tasks: how many are played, >= 1.
        steps_per_task: see `EnvironmentProblem`.
        environments: names with spaces between them, such as "CartPole-v1 Acrobot-v1"; gymnasium imports the
            module of one like "my_module:MyEnvironment-v0".
        order: "cycle", always as they are named, or "shuffle", in another random order in each cycle.
        limit: most steps of an episode, >= 1; None: those of the registrations.
    """

    name: ClassVar[str] = "gymnasium"

    environments: str = "CartPole-v1 Acrobot-v1"
    order: Literal["cycle", "shuffle"] = "cycle"
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, f"stream {self.name}", "limit")
        if not self.environments.split():
            raise IsoplastError("environments of stream gymnasium is empty: name at least one")

    def check(self) -> None:
        """gymnasium must be there, and all environments alike."""
        needed("gymnasium", f"stream {self.name}")
        self.unified()

    def unified(self) -> tuple[tuple[int, ...], Actions]:
        """The longest observation, and the most actions."""
        found = {name: _spaces(name) for name in self.environments.split()}
        kinds = {actions.discrete for _, actions in found.values()}
        if len(kinds) > 1:
            shown = ", ".join(f"{name}: {actions}" for name, (_, actions) in found.items())
            raise IsoplastError(
                f"stream gymnasium mixes kinds of actions ({shown}): choose environments of one kind"
            )
        most = max(actions.count for _, actions in found.values())
        return (max(size for size, _ in found.values()),), Actions(most, kinds.pop())

    def title(self, source: EnvironmentSequence, index: int) -> str:
        """The name of the environment."""
        names = self.environments.split()
        cycle, place = divmod(index, len(names))
        if self.order == "shuffle":
            place = int(np.argsort(source.bits(cycle, len(names), part=1), kind="stable")[place])
        return names[place]

    def make(
        self, source: EnvironmentSequence, index: int, count: int, seed: int, device: torch.device
    ) -> Environments:
        """Copies of the environment, padded."""
        title = self.title(source, index)
        (size,), actions = self.unified()
        settings: dict[str, Any] = {"title": title, "size": size, "choices": actions.count}
        return Gymnasium(lambda: _make(title), count, seed, device, **settings, limit=self.limit)


def _make(name: str) -> Any:
    gymnasium = needed("gymnasium", "stream gymnasium")
    try:
        return gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise IsoplastError(f"environment {name} of stream gymnasium: {reason}") from None


@functools.cache
def _spaces(name: str) -> tuple[int, Actions]:
    environment = _make(name)
    found = spaces_of(environment, name)
    environment.close()
    return found
