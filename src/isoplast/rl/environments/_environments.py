"""Many copies of an environment behind one interface of tensors."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError


class Step(NamedTuple):
    """What a step of all copies gave.

    Attributes:
        observation: (n, *observation_shape), what the next action is chosen on: where an episode ended, the
            first observation of the next one.
        reward: (n,), float32.
        terminated: (n,), bool: the episode ended because the task did; nothing comes after it.
        truncated: (n,), bool: it was only cut off, at a limit of time; its value goes on.
        info: `final_observation`, (n, *observation_shape), wherever some episode was truncated: what was seen
            before the copies were reset (elsewhere the same as `observation`). Whatever else an environment
            wants to tell, as tensors of n entries.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    info: dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Actions:
    """What may be done in an environment.

    Args:
        count: how many actions there are, or how many numbers an action consists of; >= 1.
        discrete: whether an action is one of `count` (int64, shape (n,)) or a vector of `count` numbers
            (float32, shape (n, count), of any size: environments cut it to what they take).
    """

    count: int
    discrete: bool = True

    def __str__(self) -> str:
        return f"{self.count} actions" if self.discrete else f"actions of {self.count} numbers"


class Environments(ABC):
    """`count` copies of an environment that are stepped together, each reset when its episode ends.

    Attributes:
        count: how many copies, n.
        device: where observations and rewards are, and actions are expected.
        observation_shape: of one observation.
        actions: what may be done.
        limit: most steps of an episode, >= 1.
        restarts: how often a copy broke and was made anew.
    """

    count: int
    device: torch.device
    observation_shape: tuple[int, ...]
    actions: Actions
    limit: int
    restarts: int = 0

    @abstractmethod
    def reset(self) -> Tensor:
        """Begin a new episode in every copy; returns the observations, (n, *observation_shape)."""

    @abstractmethod
    def step(self, actions: Tensor) -> Step:
        """Do one step in every copy.

        Args:
            actions: as `actions` says.
        """

    def close(self) -> None:  # noqa: B027 -- most hold nothing
        """Give back what the copies hold: processes, windows."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Random actions: each of the discrete ones equally often, else standard normal numbers.

        Args:
            generator: on the device of the environments.
        """
        choices = self.actions.count
        if self.actions.discrete:
            return torch.randint(choices, (self.count,), generator=generator, device=self.device)
        return torch.randn(self.count, choices, generator=generator, device=self.device)


def check_count(count: int) -> int:
    """The number of copies if there can be so many."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise IsoplastError(f"count of environments is {count!r}: give a whole number >= 1")
    return count
