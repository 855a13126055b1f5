r"""Proximal policy optimization in one file: `rollout`, `gae`, `update`.

The clipped surrogate of Schulman et al. (arXiv:1707.06347) with generalised advantages (arXiv:1506.02438):

.. math::
    \rho = \frac{\pi(a|s)}{\pi_\text{old}(a|s)}, \qquad
    L = -\min(\rho A, \operatorname{clip}(\rho, 1-\epsilon, 1+\epsilon) A)
        + c_v \tfrac12 (V(s) - R)^2 - c_e H(\pi(\cdot|s))

Everything stays on the device of the environments; nothing waits for a number of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from isoplast._core.checks import at_least, fraction, positive
from isoplast._core.errors import IsoplastError
from isoplast.rl._actor_critic import log_std_of
from isoplast.rl.environments._environments import Environments


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """How PPO learns.

    Args:
        environments: copies of the environment that are stepped together, >= 1.
        rollout: steps of each copy between two updates, >= 1.
        epochs: passes over a rollout, >= 1.
        minibatches: optimizer steps of a pass; must divide environments * rollout.
        gamma: discount, in [0, 1].
        gae_lambda: decay of the advantages, in [0, 1].
        clip: epsilon, how far the probability ratio may go from 1, > 0.
        value_clip: how far a value may go from the one in the rollout before its loss is cut off, > 0; None:
            any distance.
        entropy: c_e, >= 0.
        value: c_v, >= 0.
        clip_norm: what the norm of all gradients together is clipped to, > 0; None: not at all.
        normalize_advantages: whether advantages have mean 0 and deviation 1 in every minibatch.
        shared: one network for policy and value up to the output layer; else one for each.
        policy_gain: singular values of the policy's output layer at the start, > 0; None: as the network
            draws it.
        value_gain: the same for the value.
        graph: "update" captures the whole update as a CUDA graph, see `GraphedUpdate`; None: nothing.
    """

    environments: int = 32
    rollout: int = 64
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_clip: float | None = None
    entropy: float = 0.01
    value: float = 0.5
    clip_norm: float | None = 0.5
    normalize_advantages: bool = True
    shared: bool = False
    policy_gain: float | None = 0.01
    value_gain: float | None = 1.0
    graph: Literal["update"] | None = None

    def __post_init__(self) -> None:
        owner = "PPO"
        at_least(self, owner, 1, "environments", "rollout", "epochs", "minibatches")
        at_least(self, owner, 0, "entropy", "value")
        positive(self, owner, "clip", "value_clip", "clip_norm", "policy_gain", "value_gain")
        fraction(self, owner, "gamma", "gae_lambda")
        if self.samples % self.minibatches:
            raise IsoplastError(
                f"{self.environments} environments x {self.rollout} steps = {self.samples} samples of PPO do "
                f"not divide into {self.minibatches} minibatches: change one of the three"
            )
        if self.samples // self.minibatches < 2 and self.normalize_advantages:
            raise IsoplastError(
                "minibatches of PPO hold one sample each, whose advantage cannot be normalised: ask for fewer"
            )

    @property
    def samples(self) -> int:
        """Steps of all copies together for an update."""
        return self.environments * self.rollout


class Rollout(NamedTuple):
    """What happened between two updates; T steps of n copies.

    Attributes:
        observations: (T, n, *observation_shape), in the environments' own dtype.
        actions: (T, n) int64, or (T, n, k).
        log_probabilities: of the actions when they were chosen, (T, n).
        values: of the observations, (T, n).
        next_values: of what followed each step in the same episode, (T, n): after a truncated one the value
            of its final observation; after a terminated one they do not count.
        rewards: (T, n).
        terminated, truncated: (T, n), bool.
        next_observation: (n, *observation_shape), where the next rollout begins.
    """

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    next_values: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    next_observation: Tensor


class Batch(NamedTuple):
    """Samples to learn from, (m, ...) each; see `Rollout`. `returns` are the targets of the values."""

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Losses(NamedTuple):
    """Means over a minibatch, shape (): what is minimised, and its parts."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor


@torch.no_grad()
def rollout(network: nn.Module, environments: Environments, observation: Tensor, steps: int) -> Rollout:
    """Act with the policy for some steps.

    Args:
        network: (n, *observation_shape) to (n, actions + 1), as `ActorCritic`.
        environments: where to act.
        observation: what is seen now, (n, *observation_shape).
        steps: T, how many steps.

    Returns:
        What happened. Randomness comes from torch's global generator.
    """
    count, discrete = environments.actions.count, environments.actions.discrete
    log_std = log_std_of(network)
    shape, device = (steps, environments.count, count), environments.device
    noise = torch.empty(shape, device=device)
    noise = noise.exponential_() if discrete else noise.normal_()
    seen, chosen, outputs, next_values, rewards, terminated, truncated = ([] for _ in range(7))
    output = network(observation.float())
    for step in range(steps):
        action = _sample(output[:, :count], log_std, noise[step])
        seen.append(observation)
        chosen.append(action)
        outputs.append(output)
        observation, reward, ended, cut, info = environments.step(action)
        output = network(observation.float())
        next_value = output[:, -1]
        if "final_observation" in info:
            final = network(info["final_observation"].float())[:, -1]
            next_value = torch.where(cut, final, next_value)
        next_values.append(next_value)
        rewards.append(reward)
        terminated.append(ended)
        truncated.append(cut)
    actions, found = torch.stack(chosen), torch.stack(outputs)
    return Rollout(
        torch.stack(seen),
        actions,
        log_probability(found[..., :count], actions, log_std),
        found[..., -1],
        torch.stack(next_values),
        torch.stack(rewards),
        torch.stack(terminated),
        torch.stack(truncated),
        observation,
    )


def gae(found: Rollout, gamma: float, decay: float) -> Tensor:
    r"""Generalised advantages of a rollout.

    .. math:: \delta_t = r_t + \gamma (1 - \text{terminated}_t) V(s_{t+1}) - V(s_t), \qquad
              A_t = \delta_t + \gamma \lambda (1 - \text{ended}_t) A_{t+1}

    A truncated episode goes on in its value: its end is no end of the task.

    Args:
        found: T steps of n copies.
        gamma: discount, in [0, 1].
        decay: lambda, in [0, 1].

    Returns:
        A, (T, n).

    Reference:
        Schulman et al., arXiv:1506.02438; Pardo et al., "Time limits in reinforcement learning",
        arXiv:1712.00378, for the truncated ones.
    """
    deltas = found.rewards + gamma * found.next_values * ~found.terminated - found.values
    carried = gamma * decay * (~(found.terminated | found.truncated)).to(deltas.dtype)
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        following = torch.addcmul(deltas[step], carried[step], following)
        advantages[step] = following
    return advantages


def update(
    step: Callable[[Callable[[], Tensor], Tensor], Tensor],
    network: nn.Module,
    found: Rollout,
    settings: PPOSettings,
    orders: Iterable[Tensor] | None = None,
) -> Losses:
    """Learn from a rollout: `epochs` passes over it in `minibatches`.

    Args:
        step: does one optimizer step, given what computes the loss, and the observations; see
            `isoplast.methods.Training.step`.
        network: what acted in the rollout.
        found: the rollout.
        settings: how to learn.
        orders: in which order each pass takes the samples, (samples,) int64; None: a random one in each.

    Returns:
        The losses before each step, (epochs * minibatches,) each.
    """
    samples = as_batch(found, settings)
    size = settings.samples // settings.minibatches
    losses: list[Losses] = []
    for order in random_orders(settings, found.rewards.device) if orders is None else orders:
        for rows in torch.split(order, size):
            batch = Batch(*(part[rows] for part in samples))
            batch = batch._replace(observations=batch.observations.float())
            seen: list[Losses] = []  # a method may want the loss twice: the first is that of the step

            def closure(batch: Batch = batch, seen: list[Losses] = seen) -> Tensor:
                seen.append(ppo_loss(network, batch, settings))
                return seen[-1].total

            step(closure, batch.observations)
            losses.append(Losses(*(part.detach() for part in seen[0])))
    return Losses(*(torch.stack(parts) for parts in zip(*losses, strict=True)))


def random_orders(settings: PPOSettings, device: torch.device) -> Iterator[Tensor]:
    """The orders of the passes over a rollout, each drawn when its pass begins."""
    return (torch.randperm(settings.samples, device=device) for _ in range(settings.epochs))


def as_batch(found: Rollout, settings: PPOSettings) -> Batch:
    """All samples of a rollout, with their advantages."""
    advantages = gae(found, settings.gamma, settings.gae_lambda)
    parts = (found.observations, found.actions, found.log_probabilities, found.values)
    return Batch(*(part.flatten(0, 1) for part in (*parts, advantages, advantages + found.values)))


def ppo_loss(network: nn.Module, batch: Batch, settings: PPOSettings) -> Losses:
    """The losses of PPO on a batch, with their graph.

    Args:
        network: the network as it is now.
        batch: what it, or an earlier version of it, did; observations floating.
        settings: the coefficients.
    """
    outputs, log_std = network(batch.observations), log_std_of(network)
    policy, values = outputs[:, :-1], outputs[:, -1]
    advantages = batch.advantages
    if settings.normalize_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (log_probability(policy, batch.actions, log_std) - batch.log_probabilities).exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
    errors = (values - batch.returns).square()
    if settings.value_clip is not None:
        moved = (values - batch.values).clamp(-settings.value_clip, settings.value_clip)
        errors = torch.maximum(errors, (batch.values + moved - batch.returns).square())
    value_loss = 0.5 * errors.mean()
    entropy = _entropy(policy, log_std)
    total = policy_loss + settings.value * value_loss - settings.entropy * entropy
    return Losses(total, policy_loss, value_loss, entropy)


def log_probability(policy: Tensor, actions: Tensor, log_std: Tensor | None) -> Tensor:
    """Log-probabilities, or log-densities, of actions.

    Args:
        policy: (..., k) logits, or means where there is a `log_std`.
        actions: (...) int64, or (..., k).
        log_std: (k,); None for discrete actions.
    """
    if log_std is None:
        return policy.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    scaled = (actions - policy) * (-log_std).exp()
    return -(0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def act(network: nn.Module, observations: Tensor, actions: int, generator: torch.Generator) -> Tensor:
    """Actions of the policy in these observations, with random numbers of a generator of one's own."""
    log_std = log_std_of(network)
    noise = torch.empty(len(observations), actions, device=observations.device)
    noise = noise.exponential_(generator=generator) if log_std is None else noise.normal_(generator=generator)
    return _sample(network(observations.float())[:, :actions], log_std, noise)


def _sample(policy: Tensor, log_std: Tensor | None, noise: Tensor) -> Tensor:
    if log_std is None:  # the first of several exponential clocks with these rates to ring
        return (policy.softmax(-1) / noise).argmax(-1)
    return policy + log_std.exp() * noise


def _entropy(policy: Tensor, log_std: Tensor | None) -> Tensor:
    """The mean entropy of the policy, shape ()."""
    if log_std is None:
        logarithms = policy.log_softmax(-1)
        return -(logarithms.exp() * logarithms).sum(-1).mean()
    return (log_std + 0.5 * (1 + math.log(2 * math.pi))).sum()
