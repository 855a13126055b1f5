"""PPO: advantages against an independent account, losses by hand, and learning itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.methods import training
from isoplast.nn import isometric_init_, spec
from isoplast.rl import (
    Actions,
    ActorCritic,
    Batch,
    CartPole,
    Environments,
    Episodes,
    PPOSettings,
    Rollout,
    Step,
    control,
    evaluate,
    gae,
    log_probability,
    ppo_loss,
    rollout,
    update,
)


def made_up(steps: int, copies: int, seed: int) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, steps, copies, generator=generator, dtype=torch.float64)
    ends = torch.rand(steps, copies, generator=generator)
    terminated, truncated = ends < 0.15, (ends >= 0.15) & (ends < 0.3)
    values, finals, rewards = numbers
    last = torch.randn(1, copies, generator=generator, dtype=torch.float64)
    next_values = torch.where(truncated, finals, torch.cat((values[1:], last)))
    empty = torch.empty(steps, copies)
    return Rollout(empty, empty, empty, values, next_values, rewards, terminated, truncated, empty[0])


def advantages_by_definition(found: Rollout, gamma: float, decay: float) -> np.ndarray:
    """The exponentially weighted average of all k-step advantages, each written out (GAE's Eq 16)."""
    steps, copies = found.rewards.shape
    wanted = np.zeros((steps, copies))
    for copy in range(copies):
        for start in range(steps):
            discounted, estimates = 0.0, []
            for k, step in enumerate(range(start, steps)):
                discounted += gamma**k * float(found.rewards[step, copy])
                ended = bool(found.terminated[step, copy])
                following = 0.0 if ended else float(found.next_values[step, copy])
                estimates.append(discounted + gamma ** (k + 1) * following - float(found.values[start, copy]))
                if ended or bool(found.truncated[step, copy]):
                    break
            weights = [(1 - decay) * decay**k for k in range(len(estimates) - 1)]
            weights.append(1 - sum(weights))
            wanted[start, copy] = sum(w * e for w, e in zip(weights, estimates, strict=True))
    return wanted


@given(
    steps=st.integers(1, 12),
    copies=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    gamma=st.floats(0, 1),
    decay=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_advantages_are_the_weighted_average_of_all_k_step_ones(
    steps: int, copies: int, seed: int, gamma: float, decay: float
) -> None:
    found = made_up(steps, copies, seed)
    wanted = advantages_by_definition(found, gamma, decay)
    np.testing.assert_allclose(gae(found, gamma, decay), wanted, rtol=1e-9, atol=1e-9)


def test_advantages_are_those_of_stable_baselines() -> None:
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    spaces = pytest.importorskip("gymnasium.spaces")
    found = made_up(32, 5, seed=1)
    found = found._replace(truncated=torch.zeros_like(found.terminated))  # it knows one kind of end
    found = found._replace(next_values=torch.cat((found.values[1:], found.next_values[-1:])))
    peer = buffers.RolloutBuffer(32, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", 0.95, 0.9, n_envs=5)
    starts = torch.cat((torch.zeros(1, 5), found.terminated[:-1].float())).numpy()
    nothing = np.zeros((5, 1))
    for step in range(32):
        chance = torch.zeros(5)
        peer.add(
            nothing, nothing, found.rewards[step].numpy(), starts[step], found.values[step].float(), chance
        )
    peer.compute_returns_and_advantage(found.next_values[-1].float(), found.terminated[-1].numpy())
    # it computes in single precision
    np.testing.assert_allclose(gae(found, 0.9, 0.95), peer.advantages, rtol=1e-4, atol=1e-5)


def test_a_truncated_episode_is_worth_what_its_last_state_is() -> None:
    one = torch.ones(1, 1)
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    cut = Rollout(one, one, one, one, 10 * one, one, no, yes, one[0])
    assert float(gae(cut, 0.5, 0.9)) == 1 + 0.5 * 10 - 1
    assert float(gae(cut._replace(terminated=yes, truncated=no), 0.5, 0.9)) == 1 - 1


class Counting(Environments):
    """Observations count the steps of the episode, which is truncated after three."""

    def __init__(self, count: int, discrete: bool = True) -> None:
        self.count, self.device, self.observation_shape = count, torch.device("cpu"), (1,)
        self.actions, self.limit = Actions(2, discrete), 3
        self.time = 0

    def reset(self) -> torch.Tensor:
        self.time = 0
        return torch.zeros(self.count, 1)

    def step(self, actions: torch.Tensor) -> Step:
        self.time += 1
        seen = torch.full((self.count, 1), float(self.time))
        cut = torch.full((self.count,), self.time == 3)
        info = {"final_observation": seen} if self.time == 3 else {}
        self.time %= 3
        return Step(seen * (self.time > 0), seen[:, 0], torch.zeros_like(cut), cut, info)


class Echo(nn.Module):
    """Both actions alike; the value is the observation."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.zeros(len(observations), 2), observations), 1)


def test_a_rollout_keeps_what_was_seen_done_paid_and_what_followed() -> None:
    environments = Counting(4)
    found = rollout(Echo(), environments, environments.reset(), 7)
    assert found.observations[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.values[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    # after the truncated third step the value of what was last seen, not of the next episode's first
    assert found.next_values[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert found.rewards[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert found.truncated[:, 0].tolist() == [False, False, True, False, False, True, False]
    assert found.next_observation.flatten().tolist() == [1] * 4
    torch.testing.assert_close(found.log_probabilities, torch.full((7, 4), math.log(0.5)))


def test_actions_are_drawn_as_often_as_the_policy_says() -> None:
    class Fixed(nn.Module):
        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[math.log(0.8), math.log(0.2), 0.0]]).expand(len(observations), 3)

    torch.manual_seed(0)
    environments = Counting(5000)
    found = rollout(Fixed(), environments, environments.reset(), 8)
    share = float((found.actions == 0).float().mean())
    assert abs(share - 0.8) < 4 * (0.8 * 0.2 / 40_000) ** 0.5  # four standard errors


def test_a_gaussian_policy_has_torch_s_densities_and_entropy() -> None:
    torch.manual_seed(0)
    network = ActorCritic(spec("mlp", width=8), (1,), Actions(2, discrete=False))
    nn.init.constant_(network.log_std, -0.5)
    environments = Counting(2000, discrete=False)
    found = rollout(network, environments, environments.reset(), 3)
    means = network(found.observations.flatten(0, 1))[:, :2].detach()
    normal = torch.distributions.Normal(means, math.exp(-0.5))
    wanted = normal.log_prob(found.actions.flatten(0, 1)).sum(1)
    torch.testing.assert_close(found.log_probabilities.flatten(), wanted)
    assert abs(float((found.actions.flatten(0, 1) - means).std()) - math.exp(-0.5)) < 0.02
    batch = Batch(*(part.flatten(0, 1) for part in found[:4]), torch.randn(6000), torch.randn(6000))
    assert ppo_loss(network, batch, PPOSettings()).entropy.item() == pytest.approx(
        float(normal.entropy().sum(1).mean()), rel=1e-5
    )


def a_batch(size: int = 64) -> tuple[ActorCritic, Batch]:
    torch.manual_seed(0)
    network = ActorCritic(spec("mlp", width=16), (4,), Actions(3), policy_gain=None)
    seen, actions = torch.randn(size, 4), torch.randint(3, (size,))
    with torch.no_grad():
        outputs = network(seen)
    old = log_probability(outputs[:, :3], actions, None) + 0.3 * torch.randn(size)
    return network, Batch(seen, actions, old, outputs[:, 3] + torch.randn(size), *torch.randn(2, size))


@pytest.mark.parametrize("value_clip", [None, 0.1])
def test_losses_are_those_of_the_definition(value_clip: float | None) -> None:
    network, batch = a_batch()
    options = PPOSettings(
        clip=0.2, value_clip=value_clip, entropy=0.05, value=0.7, normalize_advantages=False
    )
    found = ppo_loss(network, batch, options)
    outputs = network(batch.observations).detach().double()
    policy = torch.distributions.Categorical(logits=outputs[:, :3])
    surrogates, values = [], []
    for row in range(len(batch.actions)):
        ratio = math.exp(float(policy.log_prob(batch.actions)[row]) - float(batch.log_probabilities[row]))
        gain = float(batch.advantages[row])
        surrogates.append(min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain))
        value, old, wanted = float(outputs[row, 3]), float(batch.values[row]), float(batch.returns[row])
        errors = [(value - wanted) ** 2]
        if value_clip is not None:
            errors.append((old + min(max(value - old, -0.1), 0.1) - wanted) ** 2)
        values.append(max(errors) / 2)
    wanted_parts = (-np.mean(surrogates), np.mean(values), float(policy.entropy().mean()))
    np.testing.assert_allclose([part.item() for part in found[1:]], wanted_parts, rtol=1e-5)
    total = wanted_parts[0] + 0.7 * wanted_parts[1] - 0.05 * wanted_parts[2]
    assert float(found.total) == pytest.approx(total, rel=1e-5)


def test_a_ratio_beyond_the_clip_has_no_gradient() -> None:
    network, batch = a_batch()
    options = PPOSettings(entropy=0.0, value=0.0, normalize_advantages=False)
    outputs = network(batch.observations).detach()
    now = log_probability(outputs[:, :3], batch.actions, None)
    # all ratios are 2, and all advantages positive: the clipped side is the smaller one
    far = batch._replace(log_probabilities=now - math.log(2), advantages=torch.ones(64))
    ppo_loss(network, far, options).total.backward()  # type: ignore[no-untyped-call]
    assert all(not bool(p.grad.any()) for p in network.parameters() if p.grad is not None)


def test_normalised_advantages_do_not_depend_on_the_scale_of_rewards() -> None:
    network, batch = a_batch()
    first = ppo_loss(network, batch, PPOSettings()).policy
    second = ppo_loss(network, batch._replace(advantages=3 + 100 * batch.advantages), PPOSettings()).policy
    torch.testing.assert_close(first, second)


def test_an_update_passes_over_every_sample_once_an_epoch() -> None:
    torch.manual_seed(0)
    environments = control("cartpole", 4, 0)
    network = ActorCritic(spec("mlp", width=8), (4,), Actions(2))
    found = rollout(network, environments, environments.reset(), 6)
    seen: list[torch.Tensor] = []

    def step(closure, inputs):  # type: ignore[no-untyped-def]
        seen.append(inputs)
        return closure().detach()

    losses = update(step, network, found, PPOSettings(environments=4, rollout=6, epochs=3, minibatches=4))
    assert len(losses.total) == 12
    wanted = found.observations.flatten(0, 1).sort(0).values
    for epoch in range(3):
        assert torch.equal(torch.cat(seen[4 * epoch : 4 * epoch + 4]).sort(0).values, wanted)


@pytest.mark.parametrize("shared", [False, True])
def test_outputs_start_with_the_gains_of_their_heads(shared: bool) -> None:
    torch.manual_seed(0)
    network = ActorCritic(spec("mlp", width=16, gain=2**0.5), (4,), Actions(3), shared=shared)
    if shared:
        policy, value = network.network.head.weight.split([3, 1])  # type: ignore[union-attr]
    else:
        policy, value = network.actor.head.weight, network.critic.head.weight  # type: ignore[union-attr]
    torch.testing.assert_close(torch.linalg.svdvals(policy), torch.full((3,), 0.01))
    torch.testing.assert_close(torch.linalg.svdvals(value), torch.ones(1))
    hidden = (network.network if shared else network.critic).layers[1].weight  # type: ignore[union-attr,index]
    torch.testing.assert_close(torch.linalg.svdvals(hidden), torch.full((16,), 2**0.5))


@pytest.mark.parametrize("shared", [False, True])
def test_isometry_leaves_the_output_layers_alone(shared: bool) -> None:
    network = ActorCritic(spec("mlp", width=8, depth=2), (4,), Actions(3), shared=shared)
    run = training("adamo", network, head=0.0)
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    groups = [group for group in run.optimizer.param_groups if group["isometry"]]
    held = {names[id(parameter)] for group in groups for parameter in group["params"]}
    parts = ("network",) if shared else ("actor", "critic")
    assert held == {f"{part}.layers.{layer}.weight" for part in parts for layer in range(2)}


def test_cartpole_is_learned() -> None:
    torch.manual_seed(0)
    settings = PPOSettings(environments=16, rollout=64, epochs=8)
    environments = CartPole(16, seed=0)
    network = ActorCritic(spec("mlp", width=32, depth=2, gain=2**0.5), (4,), Actions(2))
    run = training("adam", network, lr=3e-3, clip_norm=settings.clip_norm)
    seen = environments.reset()
    before = evaluate(CartPole(32, seed=1), lambda o: network(o)[:, :2].argmax(1)).returns.mean()
    for _ in range(20):
        found = rollout(run.model, environments, seen, settings.rollout)
        update(lambda closure, inputs: run.step(closure, inputs=inputs), run.model, found, settings)
        seen = found.next_observation
    after = evaluate(CartPole(32, seed=1), lambda o: network(o)[:, :2].argmax(1)).returns.mean()
    assert float(before) < 100
    assert float(after) > 300


def test_returns_of_episodes_are_added_up_across_rollouts() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(60, 3, generator=generator)
    ended = torch.rand(60, 3, generator=generator) < 0.1
    episodes = Episodes(3)
    for rows in torch.arange(60).split(7):
        episodes.add(rewards[rows], ended[rows])
    returns: list[float] = []
    for copy in range(3):
        total = 0.0
        for reward, end in zip(rewards[:, copy].tolist(), ended[:, copy].tolist(), strict=True):
            total += reward
            if end:
                returns.append(total)
                total = 0.0
    assert len(returns) > 5
    assert episodes.mean() == pytest.approx(sum(returns) / len(returns))
    assert len(episodes.curve(4)) == 4
    assert Episodes(3).curve(2) == [None, None]


def test_an_evaluation_plays_one_episode_in_every_copy() -> None:
    environments = CartPole(50, seed=0)
    found = evaluate(environments, lambda seen: torch.ones(len(seen), dtype=torch.int64), observations=64)
    assert torch.equal(found.returns, found.lengths.double())
    assert 8 <= int(found.lengths.min()) <= int(found.lengths.max()) <= 12  # a pole pushed one way falls
    assert found.observations.shape == (64, 4)
    assert float(found.observations[:, 0].abs().max()) < 2.4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"minibatches": 3},
            "2048 samples of PPO do not divide into 3 minibatches",
        ),
        ({"minibatches": 2048}, "hold one sample each"),
        ({"gamma": 1.5}, "gamma of PPO is 1.5"),
        ({"clip": 0.0}, "clip of PPO is 0.0: it must be positive"),
        ({"environments": 0}, "environments of PPO is 0"),
        ({"entropy": -1.0}, "entropy of PPO is -1.0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(values: dict[str, float], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        PPOSettings(**values)  # type: ignore[arg-type]


def test_the_gaussian_policy_has_no_part_in_orthogonal_initialisation() -> None:
    network = ActorCritic(spec("mlp", width=8), (4,), Actions(2, discrete=False))
    isometric_init_(network)
    assert not bool(network.log_std.any())
