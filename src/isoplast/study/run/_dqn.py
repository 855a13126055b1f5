"""DQN as a learner: replay and target network, one environment after the other."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isoplast._core.checks import at_least
from isoplast._core.errors import IsoplastError
from isoplast.model import preserve_state
from isoplast.rl import (
    DQNSettings,
    EnvironmentSequence,
    EnvironmentTask,
    Replay,
    Transitions,
    collect,
    learn,
    q_churn,
    td_loss,
)
from isoplast.study.run._learner import LEARNERS, LearnerSpec, Recipe
from isoplast.study.run._reinforcement import Acting, ActingLearner, check_memory

_REFERENCE = 1024  # observations of the replay


@LEARNERS.register
@dataclasses.dataclass(frozen=True, kw_only=True)
class DQN(Acting, DQNSettings):
    """Q-learning with replay and a target network; its optimizer goes on from task to task.

    Every task begins with an empty replay, random actions, and a target network that is equal to the network.

    Args:
        evaluation_episodes: episodes of each evaluation, played at once in as many copies, >= 1.
        others: see `isoplast.rl.DQNSettings`.
    """

    name: ClassVar[str] = "dqn"

    evaluation_episodes: int = 32

    def __post_init__(self) -> None:
        LearnerSpec.__post_init__(self)
        DQNSettings.__post_init__(self)
        at_least(self, f"learner {self.name}", 1, "evaluation_episodes")

    def start(self, problem: Any, recipe: Recipe, task: int) -> DQNLearner:
        """The learner before its task number `task`."""
        return DQNLearner(self, problem, recipe, task)


class DQNLearner(ActingLearner):
    """See `DQN`."""

    def __init__(self, settings: DQN, problem: EnvironmentSequence, recipe: Recipe, task: int) -> None:
        self.settings = settings
        shape, actions = problem.problem.unified()
        if not actions.discrete:
            raise IsoplastError(
                f"learner {settings.name} chooses among finitely many actions, and stream "
                f"{problem.problem.name} has {actions}: choose learner ppo"
            )
        what = f"{settings.replay} transitions with observations {shape}"
        check_memory(2 * 4 * settings.replay * math.prod(shape), what, recipe.device)
        super().__init__(
            problem,
            recipe,
            task,
            recipe.net.make(shape, actions.count),
            clip_norm=settings.clip_norm,
            copies=settings.environments,
            episodes=settings.evaluation_episodes,
            horizon=settings.horizon,
            steps_per_unit=settings.updates,
        )
        silent = -(-settings.warm_up // settings.horizon) - 1  # rollouts that no optimizer step follows
        self.steps_per_task = settings.updates * max(0, self.units - silent)

    @property
    def outputs(self) -> int:
        """One value for each action."""
        return self.actions.count

    def begin(self, task: EnvironmentTask) -> bool:
        """Forget the transitions of the task before."""
        switches = super().begin(task)
        self._replay = Replay(self.settings.replay)
        self._target = copy.deepcopy(self.network).eval()
        self._before = self.steps
        return switches

    def advance(self) -> None:
        """One rollout, and the optimizer steps that follow it."""
        assert self._environments is not None
        settings = self.settings
        self.network.eval()
        epsilon = settings.epsilon_at(self._unit / self.units)
        found = collect(self.network, self._environments, self._observation, settings.rollout, epsilon)
        self._observation = found.next_observation
        self._replay.add(found.transitions)
        losses = found.rewards.new_empty(0)
        if self._replay.size >= settings.warm_up:
            done, last = self.steps - self._before, self._unit == self.units - 1
            before = self._values() if last else None
            self.network.train()
            losses = learn(self._step, self.network, self._target, self._replay, settings, done)
            if before is not None:
                action, value = q_churn(before, self._values())
                self._churn = {"greedy_churn": float(action), "value_churn": float(value)}
        seen = found.transitions.observations.reshape(*found.rewards.shape, -1)
        self.keep(found.rewards, found.ended, losses, {"observation": seen})

    def _values(self) -> Tensor:
        """The values of all actions where the last update is looked at."""
        with preserve_state(self.network) as network, torch.no_grad():
            found: Tensor = network(self._replay.spread(_REFERENCE).observations.float())
        return found

    def _step(self, closure: Any, inputs: Tensor) -> Tensor:
        return self._training.step(closure, inputs=inputs)

    def preview(self, task: EnvironmentTask) -> tuple[Tensor, Any]:
        """Random steps in environments of their own, and the loss on them."""
        environments = task.make(self.copies, "preview", self.recipe.device)
        self.network.eval()
        steps = -(-self.settings.warm_up // self.copies)
        found = collect(self.network, environments, environments.reset(), steps, 1.0).transitions
        environments.close()
        self.network.train()
        found = found._replace(observations=found.observations.float(), following=found.following.float())
        return found.observations, functools.partial(self._loss, found)

    def _loss(self, batch: Transitions) -> Tensor:
        return td_loss(self.network, self.network, batch, self.settings)

    def choose(self, network: nn.Module, observations: Tensor, generator: torch.Generator) -> Tensor:
        """The best action, or a random one as often as in training."""
        shape, device = (len(observations),), observations.device
        random = torch.randint(self.actions.count, shape, generator=generator, device=device)
        explores = torch.rand(shape, generator=generator, device=device) < self.settings.epsilon
        return torch.where(explores, random, network(observations.float()).argmax(1))
