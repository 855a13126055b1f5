"""Control with shifts: the same problem behind new observations and actions, task after task."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import torch

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.rl.environments._control import CONTROL, control
from isoplast.rl.environments._environments import Actions, Environments
from isoplast.rl.environments._shifted import Shifted
from isoplast.rl.problems._problem import EnvironmentProblem, EnvironmentSequence
from isoplast.streams import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftedControl(EnvironmentProblem):
    """CartPole or Acrobot; every task draws how it is seen and acted on.

    With `features` null, `permute_actions` false and `offset` 1 it is the shift of C-CHAIN: noise that is
    drawn once a task and added to all its observations.

    Args:
        tasks: how many, >= 1.
        environment: "cartpole" or "acrobot".
        features: rows of the random matrix with orthonormal columns that observations go through, at least as
            many as an observation has numbers; None: they stay as they are.
        offset: standard deviation of the normal vector that is added to observations, >= 0.
        permute_actions: whether actions change their meaning from task to task, by a random permutation.
        steps_per_task: see `EnvironmentProblem`.

    Reference:
        Tang et al., "Mitigating plasticity loss in continual reinforcement learning by reducing churn", 2025
        (C-CHAIN), for the shift by an offset. The orthogonal map and the permutation are ours.
    """

    name: ClassVar[str] = "shifted-control"

    environment: Literal["acrobot", "cartpole"] = "cartpole"
    features: int | None = 16
    offset: float = 1.0
    permute_actions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 0, "offset")
        (size,), _ = self._inner
        if self.features is not None and self.features < size:
            raise IsoplastError(
                f"features of stream {self.name} is {self.features}: an observation of {self.environment} "
                f"has {size} numbers, so give at least {size}, or null"
            )

    @property
    def _inner(self) -> tuple[tuple[int, ...], Actions]:
        kind = CONTROL[self.environment]
        return kind.observation_shape, kind.actions

    def unified(self) -> tuple[tuple[int, ...], Actions]:
        """Those of the environment, with `features` numbers to an observation."""
        shape, actions = self._inner
        return shape if self.features is None else (self.features,), actions

    def title(self, source: EnvironmentSequence, index: int) -> str:
        """The name of the environment."""
        return self.environment

    def make(
        self, source: EnvironmentSequence, index: int, count: int, seed: int, device: torch.device
    ) -> Environments:
        """The environment behind the map, the offset and the permutation of the task."""
        (size,), actions = self._inner
        rows = size if self.features is None else self.features
        matrix = offset = exchanged = None
        if self.features is not None:
            # QR of a Gaussian matrix with the signs of R's diagonal: uniform among all such matrices.
            q, r = np.linalg.qr(source.normal(index, rows * size, part=1).reshape(rows, size))
            matrix = torch.from_numpy(q * np.sign(np.diag(r))).float()
        if self.offset > 0:
            offset = torch.from_numpy(source.normal(index, rows, part=2) * self.offset).float()
        if self.permute_actions:
            order = np.argsort(source.bits(index, actions.count, part=3), kind="stable")
            exchanged = torch.from_numpy(order)
        return Shifted(control(self.environment, count, seed, device), matrix, offset, exchanged)
