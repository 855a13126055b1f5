r"""Q-learning with replay and a target network in one file: `collect`, `td_loss`, `learn`.

.. math::
    L = h\big(Q(s, a) - r - \gamma (1 - \text{terminated}) Q^-(s', \arg\max_{a'} Q(s', a'))\big)

with Huber's h and the target network :math:`Q^-`, a copy of the network that is renewed now and then (Mnih et
al., 2015); the maximum is chosen by the network itself (van Hasselt et al., arXiv:1509.06461).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from isoplast._core.checks import at_least, fraction, positive
from isoplast._core.errors import IsoplastError
from isoplast.rl.environments._environments import Environments


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNSettings:
    """How DQN learns.

    Args:
        environments: copies of the environment that are stepped together, >= 1.
        rollout: steps of each copy before the optimizer steps that follow them, >= 1.
        updates: optimizer steps after each rollout, >= 1: `updates * batch_size / (environments * rollout)`
            is how often a transition is learned from.
        batch_size: transitions for an optimizer step, >= 1.
        replay: transitions that are remembered, the newest ones, >= batch_size.
        warm_up: transitions of a task before its first optimizer step, >= batch_size, at most `replay`.
        target_every: optimizer steps until the target network is renewed, >= 1.
        gamma: discount, in [0, 1].
        double: whether the network chooses the action that the target network values.
        epsilon: share of random actions at the end of exploration, in evaluation too, in [0, 1]. It falls to
            that from 1.
        exploration: share of a task over which it falls, in [0, 1].
        clip_norm: what the norm of all gradients together is clipped to, > 0; None: not at all.
    """

    environments: int = 8
    rollout: int = 8
    updates: int = 16
    batch_size: int = 64
    replay: int = 50_000
    warm_up: int = 1_000
    target_every: int = 500
    gamma: float = 0.99
    double: bool = True
    epsilon: float = 0.05
    exploration: float = 0.2
    clip_norm: float | None = 10.0

    def __post_init__(self) -> None:
        owner = "DQN"
        counts = ("environments", "rollout", "updates", "batch_size", "target_every")
        at_least(self, owner, 1, *counts)
        positive(self, owner, "clip_norm")
        fraction(self, owner, "gamma", "epsilon", "exploration")
        if not self.batch_size <= self.warm_up <= self.replay:
            raise IsoplastError(
                f"warm_up of DQN is {self.warm_up}: it must be at least batch_size ({self.batch_size}) and "
                f"at most replay ({self.replay})"
            )
        if self.horizon > self.replay:
            raise IsoplastError(
                f"replay of DQN is {self.replay}: it must hold the {self.horizon} transitions of a rollout"
            )

    @property
    def horizon(self) -> int:
        """Steps of all copies together in a rollout."""
        return self.environments * self.rollout

    def epsilon_at(self, done: float) -> float:
        """The share of random actions when a share of the task is done."""
        left = 1 - done / self.exploration if done < self.exploration else 0.0
        return self.epsilon + (1 - self.epsilon) * left


class Transitions(NamedTuple):
    """What happened, (m, ...) each.

    Attributes:
        observations: what the actions were chosen on.
        actions: int64.
        rewards: float32.
        following: what was seen next in the same episode.
        terminated: whether the task ended there, so that nothing follows.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    terminated: Tensor


class Replay:
    """The newest transitions, in tensors of a fixed size.

    Args:
        capacity: how many, >= 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._next = 0
        self._kept: Transitions | None = None

    def add(self, new: Transitions) -> None:
        """Remember transitions, at most `capacity`, in the place of the oldest."""
        count = len(new.actions)
        if self._kept is None:
            self._kept = Transitions(*(part.new_empty(self.capacity, *part.shape[1:]) for part in new))
        places = torch.arange(self._next, self._next + count, device=new.actions.device) % self.capacity
        for kept, part in zip(self._kept, new, strict=True):
            kept[places] = part
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int) -> Transitions:
        """Transitions drawn with replacement, by torch's global generator."""
        assert self._kept is not None
        rows = torch.randint(self.size, (count,), device=self._kept.actions.device)
        return self._at(rows)

    def spread(self, count: int) -> Transitions:
        """Transitions at equal distances from the first place to the last, at most `count`."""
        assert self._kept is not None
        device = self._kept.actions.device
        return self._at(torch.linspace(0, self.size - 1, min(count, self.size), device=device).round().long())

    def _at(self, rows: Tensor) -> Transitions:
        assert self._kept is not None
        return Transitions(*(part[rows] for part in self._kept))


class Collected(NamedTuple):
    """What a rollout gave; T steps of n copies.

    Attributes:
        transitions: all of them, (T * n, ...).
        rewards: (T, n).
        ended: (T, n), bool: terminated or truncated.
        next_observation: (n, ...), where the next rollout begins.
    """

    transitions: Transitions
    rewards: Tensor
    ended: Tensor
    next_observation: Tensor


@torch.no_grad()
def collect(
    network: nn.Module, environments: Environments, observation: Tensor, steps: int, epsilon: float
) -> Collected:
    """Act greedily, but for a share of random actions.

    Args:
        network: (n, *observation_shape) to the values of the actions, (n, k).
        environments: where to act.
        observation: what is seen now.
        steps: T, how many steps.
        epsilon: the share, in [0, 1].

    Returns:
        What happened. Randomness comes from torch's global generator.
    """
    found: list[Transitions] = []
    ended: list[Tensor] = []
    shape, device = (steps, environments.count), environments.device
    random = torch.randint(environments.actions.count, shape, device=device)
    explores = torch.rand(shape, device=device) < epsilon
    for step in range(steps):
        greedy = network(observation.float()).argmax(1)
        action = torch.where(explores[step], random[step], greedy)
        seen = observation
        observation, reward, terminated, truncated, info = environments.step(action)
        following = info.get("final_observation", observation)
        found.append(Transitions(seen, action, reward, following, terminated))
        ended.append(terminated | truncated)
    stacked = Transitions(*(torch.stack(parts) for parts in zip(*found, strict=True)))
    flat = Transitions(*(part.flatten(0, 1) for part in stacked))
    return Collected(flat, stacked.rewards, torch.stack(ended), observation)


def td_loss(network: nn.Module, target: nn.Module, batch: Transitions, settings: DQNSettings) -> Tensor:
    """The mean Huber loss of the temporal differences of a batch, shape (), with its graph.

    Args:
        network: Q.
        target: the target network, in evaluation mode.
        batch: transitions, observations floating.
        settings: the discount, and who chooses.
    """
    with torch.no_grad():
        later = target(batch.following)
        choosing = network(batch.following) if settings.double else later
        value = later.gather(1, choosing.argmax(1, keepdim=True))[:, 0]
        wanted = batch.rewards + settings.gamma * value * ~batch.terminated
    values = network(batch.observations).gather(1, batch.actions[:, None])[:, 0]
    return smooth_l1_loss(values, wanted)


def learn(
    step: Callable[[Callable[[], Tensor], Tensor], Tensor],
    network: nn.Module,
    target: nn.Module,
    replay: Replay,
    settings: DQNSettings,
    steps: int,
) -> Tensor:
    """Do the optimizer steps that follow a rollout.

    Args:
        step: does one optimizer step, given what computes the loss, and the observations; see
            `isoplast.methods.Training.step`.
        network: Q.
        target: its copy, renewed in place.
        replay: what to learn from.
        settings: how to learn.
        steps: optimizer steps before these, for the renewal of the target.

    Returns:
        The losses before each step, (updates,).
    """
    losses: list[Tensor] = []
    for number in range(steps, steps + settings.updates):
        if number % settings.target_every == 0:
            target.load_state_dict(network.state_dict())
        batch = replay.sample(settings.batch_size)
        batch = batch._replace(observations=batch.observations.float(), following=batch.following.float())

        def closure(batch: Transitions = batch) -> Tensor:
            return td_loss(network, target, batch, settings)

        losses.append(step(closure, batch.observations))
    return torch.stack(losses)
