"""PPO as a learner: updates on one environment after the other."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isoplast._core.checks import at_least
from isoplast.methods import Method
from isoplast.model import preserve_state
from isoplast.rl import (
    ActorCritic,
    Batch,
    EnvironmentSequence,
    EnvironmentTask,
    GraphedUpdate,
    PPOSettings,
    act,
    as_batch,
    churn,
    log_std_of,
    ppo_loss,
    rollout,
    update,
)
from isoplast.study.run._learner import LEARNERS, LearnerSpec, Recipe
from isoplast.study.run._reinforcement import Acting, ActingLearner, check_memory

_REFERENCE = 1024  # observations of the rollout before


@LEARNERS.register
@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(Acting, PPOSettings):
    """Proximal policy optimization; its optimizer goes on from task to task.

    Args:
        evaluation_episodes: episodes of each evaluation, played at once in as many copies, >= 1.
        others: see `isoplast.rl.PPOSettings`.
    """

    name: ClassVar[str] = "ppo"

    evaluation_episodes: int = 32

    def __post_init__(self) -> None:
        LearnerSpec.__post_init__(self)
        PPOSettings.__post_init__(self)
        at_least(self, f"learner {self.name}", 1, "evaluation_episodes")

    def start(self, problem: Any, recipe: Recipe, task: int) -> PPOLearner:
        """The learner before its task number `task`."""
        return PPOLearner(self, problem, recipe, task)


class PPOLearner(ActingLearner):
    """See `PPO`."""

    def __init__(self, settings: PPO, problem: EnvironmentSequence, recipe: Recipe, task: int) -> None:
        self.settings = settings
        shape, actions = problem.problem.unified()
        what = f"{settings.environments} environments x {settings.rollout} steps of observations {shape}"
        # in single precision, once as they were seen and once in the order of a pass
        check_memory(2 * 4 * settings.samples * math.prod(shape), what, recipe.device)
        network = ActorCritic(
            recipe.net,
            shape,
            actions,
            shared=settings.shared,
            policy_gain=settings.policy_gain,
            value_gain=settings.value_gain,
        )
        super().__init__(
            problem,
            recipe,
            task,
            network,
            clip_norm=settings.clip_norm,
            copies=settings.environments,
            episodes=settings.evaluation_episodes,
            horizon=settings.samples,
            steps_per_unit=settings.epochs * settings.minibatches,
        )

    @property
    def outputs(self) -> int:
        """Policy and value."""
        return self.actions.count + 1

    @property
    def parts(self) -> dict[str, Sequence[int]]:
        """Policy and value."""
        return {"policy": range(self.actions.count), "value": [self.actions.count]}

    def _start(self, method: Method, network: nn.Module) -> None:
        super()._start(method, network)
        self._graphed = GraphedUpdate(self._training, self.settings) if self.settings.graph else None

    def _clear(self) -> None:
        super()._clear()
        self._reference: Tensor | None = None

    def advance(self) -> None:
        """One rollout, and the update on it."""
        assert self._environments is not None
        self.network.eval()
        found = rollout(self.network, self._environments, self._observation, self.settings.rollout)
        self._observation = found.next_observation
        before = None if self._reference is None else self._on_reference()
        self.network.train()
        if self._graphed is not None:
            losses = self._graphed(found)
        else:
            losses = update(self._step, self.network, found, self.settings)
        if before is not None:
            (old, wide), (new, other) = before, self._on_reference()
            policy, value = churn(old, new, None if wide is None or other is None else (wide, other))
            self._churn = {"policy_churn": float(policy), "value_churn": float(value)}
        if self._unit == self.units - 2:  # the last update is looked at, where it was not trained
            self._reference = found.observations.flatten(0, 1)[:_REFERENCE].float()
        ended = found.terminated | found.truncated
        self.keep(found.rewards, ended, losses.total, {"observation": found.observations})

    def _on_reference(self) -> tuple[Tensor, Tensor | None]:
        """Policy and value where the last update is looked at, and the spread of the policy."""
        assert self._reference is not None
        spread = log_std_of(self.network)
        with preserve_state(self.network) as network, torch.no_grad():
            return network(self._reference), None if spread is None else spread.detach().clone()

    def _step(self, closure: Any, inputs: Tensor) -> Tensor:
        return self._training.step(closure, inputs=inputs)

    def preview(self, task: EnvironmentTask) -> tuple[Tensor, Any]:
        """A rollout in environments of their own, and PPO's loss on it."""
        environments = task.make(self.copies, "preview", self.recipe.device)
        self.network.eval()
        found = rollout(self.network, environments, environments.reset(), self.settings.rollout)
        environments.close()
        self.network.train()
        batch = as_batch(found, self.settings)
        return batch.observations, functools.partial(self._loss, batch)

    def _loss(self, batch: Batch) -> Tensor:
        return ppo_loss(self.network, batch, self.settings).total

    def choose(self, network: nn.Module, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions drawn from the policy."""
        return act(network, observations, self.actions.count, generator)
