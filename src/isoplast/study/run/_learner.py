"""What trains a network on one task after the other."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from isoplast._core.registry import Registry
from isoplast._core.settings import check_fields
from isoplast.methods import Method
from isoplast.nn import NetSpec
from isoplast.streams import OpenProblem, Problem


class Diverged(Exception):
    """The loss is not finite any more; the message says where."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a learner is made from, beside its own settings and the tasks.

    Args:
        net: the network's specification.
        make_method: the method in force during a task, as a fresh object.
        switch: the first task of another method, None without one.
        lr: learning rate.
        seed: seed of the data order and of everything else that is derived.
        device: where to train.
        instruments: what is measured at the boundaries between tasks.
    """

    net: NetSpec
    make_method: Callable[[int], Method]
    switch: int | None
    lr: float
    seed: int
    device: torch.device
    instruments: tuple[str, ...]


class Learner(ABC):
    """A network with the method in force, and all that changes while they train.

    The runner calls `begin(task)`, then `advance()` `units` times, then `measure(task)`; between two tasks
    it may save `state()`, and `restore` it in another process.

    Attributes:
        network: the network that is trained.
        method: the method in force.
        steps: optimizer steps so far.
        units: calls of `advance` that make a task.
        steps_per_task: optimizer steps of one task.
        unmeasured: instruments that the last `measure` had to leave out, each with the reason.
    """

    network: nn.Module
    method: Method
    steps: int
    units: int
    steps_per_task: int
    unmeasured: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def begin(self, task: Any) -> bool:
        """Get ready to train on a task; returns whether another method takes over."""

    @abstractmethod
    def advance(self) -> None:
        """The smallest unit of progress on the task that was begun.

        Raises:
            Diverged: the loss of some step is not finite.
        """

    @abstractmethod
    def measure(self, task: Any) -> dict[str, Any]:
        """Metrics of the network on a task, by the names of `METRICS`.

        Raises:
            Diverged: the loss is not finite.
        """

    @abstractmethod
    def inputs(self, task: Any) -> Any:
        """Inputs of a task, as the network takes them, on its device."""

    @abstractmethod
    def report(self, steps: int) -> list[str]:
        """Lines a user should read before training of that many steps."""

    @abstractmethod
    def evaluated(self) -> contextlib.AbstractContextManager[nn.Module]:
        """A context that yields the network to evaluate."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that training has changed: tensors, numbers, strings, in nested dicts and lists."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerSpec(ABC):
    """The settings of a learner: a frozen dataclass.

    Attributes:
        name: what a study calls it.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __post_init__(self) -> None:
        check_fields(self, f"learner {self.name}")

    @abstractmethod
    def check(self, problem: Problem) -> None:
        """Raise IsoplastError, before anything starts, for a problem that this learner cannot train on."""

    @abstractmethod
    def start(self, problem: OpenProblem, recipe: Recipe, task: int) -> Learner:
        """The learner before its task number `task`; randomness comes from torch's global generator."""


LEARNERS: Registry[LearnerSpec] = Registry("learner", LearnerSpec, "isoplast.learners")
