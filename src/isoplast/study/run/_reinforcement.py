"""What learners that act in environments have in common: a network, its episodes, its evaluation."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.model import preserve_state
from isoplast.rl import (
    EnvironmentProblem,
    Environments,
    EnvironmentSequence,
    EnvironmentTask,
    Episodes,
    Evaluation,
    evaluate,
)
from isoplast.streams import Problem, Regression
from isoplast.study.run._instruments import measure_network
from isoplast.study.run._learner import Diverged, LearnerSpec, Recipe, TrainingLearner
from isoplast.study.run._random import derive

# Observations of the evaluation that the instruments see.
_OBSERVATIONS = 1024
# Parts of a task whose mean returns make the learning curve.
_PARTS = 10


class Acting(LearnerSpec):
    """Settings of a learner for sequences of environments."""

    def check(self, problem: Problem) -> None:
        """Only sequences of environments are learned this way."""
        if not isinstance(problem, EnvironmentProblem):
            raise IsoplastError(
                f"learner {self.name} acts in environments, and the tasks of {problem.name} are none: "
                f"choose learner {problem.learner}"
            )


class ActingLearner(TrainingLearner):
    """A learner whose network is trained on what it does in environments.

    Every task begins with environments of its own, seeded by the run's seed and the task, so that a run goes
    on from a checkpoint between two tasks to the same bits, whether or not an environment's state can be
    saved.

    Args:
        problem: the tasks.
        recipe: see `Recipe`.
        task: the first task to come.
        network: what is trained.
        clip_norm: see `isoplast.methods.training`.
        copies: environments that are stepped together.
        episodes: of each evaluation.
        horizon: steps of all copies together in one `advance`.
        steps_per_unit: optimizer steps in one `advance`.
    """

    def __init__(
        self,
        problem: EnvironmentSequence,
        recipe: Recipe,
        task: int,
        network: nn.Module,
        *,
        clip_norm: float | None,
        copies: int,
        episodes: int,
        horizon: int,
        steps_per_unit: int,
    ) -> None:
        self.problem = problem
        self.shape, self.actions = problem.problem.unified()
        self.copies, self.episodes = copies, episodes
        self.units = -(-problem.problem.steps_per_task // horizon)
        self.steps_per_task = steps_per_unit * self.units
        super().__init__(recipe, network, task, clip_norm)
        self._environments: Environments | None = None
        self._clear()

    def _clear(self) -> None:
        """Forget what was measured on the task before."""
        self._returns = Episodes(self.copies, self.recipe.device)
        self._losses: list[Tensor] = []
        self._unit = 0
        self._churn: dict[str, float] = {}

    def begin(self, task: EnvironmentTask) -> bool:
        """Make the task's environments, and tell the method."""
        switches = task.index == self.recipe.switch
        if switches:
            self._switch()
        self._task = task
        self._clear()
        if self._environments is not None:
            self._environments.close()
        self._environments = task.make(self.copies, "training", self.recipe.device)
        self._observation = self._environments.reset()
        if self.method.info.needs_task_boundaries:
            self._training.new_task(*self.preview(task))
        return switches

    @abstractmethod
    def preview(self, task: EnvironmentTask) -> tuple[Tensor, Any]:
        """Inputs of a task that is about to begin, and what computes the loss on them, for the method."""

    @abstractmethod
    def choose(self, network: nn.Module, observations: Tensor, generator: torch.Generator) -> Tensor:
        """The actions of a network in an evaluation."""

    def keep(self, rewards: Tensor, ended: Tensor, losses: Tensor, named: dict[str, Tensor]) -> None:
        """Take in what a unit of training gave, and check that all of it is finite.

        Args:
            rewards, ended: (T, copies).
            losses: of the optimizer steps, (k,).
            named: other tensors that must be finite, by what people call them.

        Raises:
            Diverged: a number is not finite.
        """
        checked = {**named, "reward": rewards, "loss": losses}
        wrong = torch.stack([found.isfinite().logical_not().any() for found in checked.values()])
        for name, bad in zip(checked, wrong.tolist(), strict=True):  # one synchronisation a unit
            if bad:
                raise self._diverged(name, checked[name], len(rewards))
        self._returns.add(rewards, ended)
        if len(losses):
            self._losses.append(losses.mean())
        self.steps += len(losses)
        self._unit += 1

    def _diverged(self, name: str, found: Tensor, horizon: int) -> Diverged:
        where = (~found.isfinite()).nonzero()[0]
        value, first = found[tuple(where)].item(), int(where[0])
        if name == "loss":
            place, remedy = f"optimizer step {self.steps + first}", "lower the learning rate"
        else:
            place, remedy = f"step {self._unit * horizon + first} of copy {where[1]}", "look at it"
        return Diverged(
            f"the {name} is {value} at task {self._task.index} ({self._task.title}), {place} "
            f"(lr {self.recipe.lr:g}): {remedy}"
        )

    def measure(self, task: EnvironmentTask) -> dict[str, Any]:
        """Returns of the network and of a random policy on the task, the instruments, and the last churn."""
        recipe = self.recipe
        random = task.make(self.episodes, "evaluation", recipe.device)
        generator = torch.Generator(recipe.device).manual_seed(derive(recipe.seed, "random", task.index))
        guess = evaluate(random, lambda seen: random.sample(generator))
        random.close()
        found: dict[str, Any] = {
            "primary": self.problem.primary,
            "environment": task.title,
            "chance": float(guess.returns.mean()),
        }
        with self.evaluated() as network:
            played = self._play(network, task, _OBSERVATIONS)
            found |= {
                "return": float(played.returns.mean()),
                "episode_length": float(played.lengths.double().mean()),
            }
            if self._unit:
                curve = self._returns.curve(_PARTS)
                known = [value for value in curve if value is not None]
                found |= {
                    "online_return": sum(known) / len(known) if known else math.nan,
                    "return_curve": curve,
                }
                assert self._environments is not None
                found["restarts"] = self._environments.restarts
            if self._losses:
                found["online_loss"] = float(torch.stack(self._losses).mean())
            observations = played.observations.float()
            objective = Regression(self.outputs)
            unmeasured: dict[str, str] = {}
            self.unmeasured = unmeasured
            on_failure = unmeasured.__setitem__
            names = recipe.instruments
            if recipe.looks(task.index, self.problem.tasks, self.steps):
                found |= measure_network(
                    network, observations, objective, recipe.lr, names, on_failure, self.parts
                )
        return found | self._churn

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the network gives for an observation."""

    @property
    def parts(self) -> dict[str, Sequence[int]]:
        """Groups of these that mean different things."""
        return {}

    def _play(self, network: nn.Module, task: EnvironmentTask, observations: int) -> Evaluation:
        environments = task.make(self.episodes, "evaluation", self.recipe.device)
        seed = derive(self.recipe.seed, "evaluation", task.index)
        generator = torch.Generator(self.recipe.device).manual_seed(seed)
        with preserve_state(network) as acting:
            found = evaluate(
                environments, lambda seen: self.choose(acting, seen, generator), observations=observations
            )
        environments.close()
        return found

    def inputs(self, task: EnvironmentTask) -> Tensor:
        """What the network sees when it is evaluated on a task."""
        with self.evaluated() as network:
            return self._play(network, task, _OBSERVATIONS).observations.float()


def check_memory(needed: int, what: str, device: torch.device) -> None:
    """Raise IsoplastError if the machine does not have that many bytes at all.

    Args:
        needed: bytes.
        what: what they are for, as settings that could be made smaller.
        device: where.
    """
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows does not say
        return
    if needed > there:
        raise IsoplastError(
            f"{what} take {needed / 2**30:,.1f} GiB, and {device} has {there / 2**30:,.1f}: ask for fewer"
        )
