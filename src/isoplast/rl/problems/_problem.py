"""Sequences of environments as problems of the benchmark."""

from __future__ import annotations

import dataclasses
import zlib
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.rl.environments._environments import Actions, Environments
from isoplast.streams import Problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentProblem(Problem):
    """A sequence of environments: one subclass says how its task number `index` looks, and nothing else.

    All tasks share one shape of observations and one set of actions.

    Args:
        tasks: how many, >= 1.
        steps_per_task: steps to learn each in, all copies of the environment together, >= 1. A learner rounds
            it up to whole updates.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class TwoOfThem(EnvironmentProblem):
        ...     name = "two-of-them"
        ...     tasks: int = 2
        ...     def unified(self):
        ...         return (4,), Actions(2)
        ...     def title(self, source, index):
        ...         return "cartpole"
        ...     def make(self, source, index, count, seed, device):
        ...         return Shifted(control("cartpole", count, seed, device), offset=torch.full((4,), index))
    """

    learner: ClassVar[str] = "ppo"
    takes_data: ClassVar[bool] = False
    primary: ClassVar[str] = "return"

    tasks: int = 20
    steps_per_task: int = 81_920

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"stream {self.name}", 1, "steps_per_task")

    def open(self, data: Dataset | None, seed: int) -> EnvironmentSequence:
        """The tasks; see `Problem.open`."""
        if seed < 0:
            raise IsoplastError(f"seed={seed} of stream {self.name}: give an integer >= 0")
        self.check()
        return EnvironmentSequence(self, seed)

    def check(self) -> None:
        """Raise IsoplastError where a package that the environments come from is missing."""

    @abstractmethod
    def unified(self) -> tuple[tuple[int, ...], Actions]:
        """The shape of the observations, and the actions, of all tasks."""

    @abstractmethod
    def title(self, source: EnvironmentSequence, index: int) -> str:
        """What people call the environment of a task."""

    @abstractmethod
    def make(
        self, source: EnvironmentSequence, index: int, count: int, seed: int, device: torch.device
    ) -> Environments:
        """Copies of the environment of a task.

        Args:
            source: its `.seed`, and random bits for each task.
            index: which task, 0 <= index < tasks.
            count: how many copies.
            seed: of all that is random in them; another one for training than for evaluation.
            device: where observations are wanted.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class EnvironmentSequence:
    """A sequence of environments with its seed: the tasks themselves.

    Args:
        problem: the settings.
        seed: a sequence of its own for every integer >= 0.
    """

    problem: EnvironmentProblem
    seed: int
    fingerprint: ClassVar[str] = ""  # there are no data

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return self.problem.tasks

    @property
    def primary(self) -> str:
        """The metric that counts."""
        return self.problem.primary

    @property
    def note(self) -> str:
        """What the tasks are."""
        return f"{self.problem.name}, {self.problem.steps_per_task:,} steps each"

    def task(self, index: int) -> EnvironmentTask:
        """The task at 0 <= index < tasks, a pure function of the problem, the seed and the index.

        Raises:
            IsoplastError: there is no such task.
        """
        if not 0 <= index < self.tasks:
            raise IsoplastError(
                f"task {index} of stream {self.problem.name!r}: it has tasks 0..{self.tasks - 1}"
            )
        return EnvironmentTask(self, index, self.problem.title(self, index))

    def bits(self, index: int, size: int, part: int = 0) -> npt.NDArray[np.uint64]:
        """`size` uniform 64-bit words that belong to (problem, seed, index, part), the same everywhere."""
        key = (zlib.crc32(self.problem.name.encode()), index, part)
        return np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=key)).random_raw(size)

    def normal(self, index: int, size: int, part: int = 0) -> npt.NDArray[np.float64]:
        """`size` standard normal numbers, by Box and Muller's formula from `bits`."""
        first, second = (self.bits(index, 2 * size, part).astype(np.float64) / 2.0**64).reshape(2, size)
        found: npt.NDArray[np.float64] = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class EnvironmentTask:
    """One environment to learn.

    Args:
        source: the sequence.
        index: its place in it, from 0.
        title: what people call the environment.
    """

    source: EnvironmentSequence = dataclasses.field(repr=False)
    index: int
    title: str

    def make(self, count: int, purpose: str, device: torch.device | str = "cpu") -> Environments:
        """Copies of the environment, each time the same ones.

        Args:
            count: how many, >= 1.
            purpose: copies for another purpose ("training", "evaluation") have random numbers of their own.
            device: where observations are wanted.

        Raises:
            IsoplastError: the environment does not have the observations or actions that all tasks share.
        """
        problem = self.source.problem
        part = zlib.crc32(purpose.encode())
        seed = int(self.source.bits(self.index, 1, part)[0] >> np.uint64(33))  # MuJoCo takes 31 bits
        found = problem.make(self.source, self.index, count, seed, torch.device(device))
        has, wanted = (found.observation_shape, found.actions), problem.unified()
        if has != wanted:
            raise IsoplastError(
                f"task {self.index} of stream {problem.name!r}, {self.title}: observations {has[0]} and "
                f"{has[1]}, but all tasks must have {wanted[0]} and {wanted[1]}"
            )
        return found
