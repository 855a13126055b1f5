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
from isoplast.methods import Method, training
from isoplast.nn import NetSpec
from isoplast.optim import IsometryReport, isometry_report
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
        every: after every how many tasks.
    """

    net: NetSpec
    make_method: Callable[[int], Method]
    switch: int | None
    lr: float
    seed: int
    device: torch.device
    instruments: tuple[str, ...]
    every: int = 1

    def looks(self, task: int, tasks: int, steps: int) -> bool:
        """Whether the instruments measure after this of so many tasks; before any step they always do."""
        return not steps or (task + 1) % self.every == 0 or task == tasks - 1


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

    def isometry(self) -> IsometryReport:
        """What is under isometry at present; by default nothing."""
        return isometry_report([])

    def shortened(self, task: Any) -> tuple[Any, float]:
        """A task whose units of progress take a few optimizer steps, and the share of a unit that they are.

        With it a task's cost is measured in a moment. By default the task itself.
        """
        return task, 1.0

    @abstractmethod
    def evaluated(self) -> contextlib.AbstractContextManager[nn.Module]:
        """A context that yields the network to evaluate."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that training has changed: tensors, numbers, strings, in nested dicts and lists."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""


class TrainingLearner(Learner):
    """A learner whose optimizer steps are those of `isoplast.methods.training`.

    Args:
        recipe: see `Recipe`.
        network: what is trained.
        task: the first task to come.
        clip_norm: see `isoplast.methods.training`.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, task: int, clip_norm: float | None) -> None:
        self.recipe, self.steps, self._clip_norm = recipe, 0, clip_norm
        self._start(recipe.make_method(0), network)
        if recipe.switch is not None and task > recipe.switch:
            self._switch()

    def _start(self, method: Method, network: nn.Module) -> None:
        recipe, clip = self.recipe, self._clip_norm
        self._training = training(method, network, lr=recipe.lr, clip_norm=clip, device=recipe.device)
        self.method, self.network = self._training.method, self._training.model

    def _switch(self) -> None:
        """Let the second method take over."""
        assert self.recipe.switch is not None
        self._training.release()
        self._start(self.recipe.make_method(self.recipe.switch), self.network)

    def report(self, steps: int) -> list[str]:
        """What the method says."""
        return self._training.report(steps)

    def isometry(self) -> IsometryReport:
        """What the optimizer keeps isometric."""
        return isometry_report(self._training.optimizer.param_groups)

    def evaluated(self) -> contextlib.AbstractContextManager[nn.Module]:
        """What the method wants evaluated."""
        return self._training.evaluated()

    def state(self) -> dict[str, Any]:
        """The training's state and the count of steps."""
        return {"training": self._training.state_dict(), "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to that."""
        # The runner keeps the generators, those of numpy and Python too.
        self._training.load_state_dict(state["training"], generators=False)
        self.steps = state["steps"]


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
