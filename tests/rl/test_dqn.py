"""DQN: the replay, the loss by hand, and learning itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.methods import training
from isoplast.nn import spec
from isoplast.rl import CartPole, DQNSettings, Replay, Transitions, collect, evaluate, learn, td_loss


def numbered(first: int, count: int) -> Transitions:
    numbers = torch.arange(first, first + count)
    seen = numbers[:, None].float()
    return Transitions(seen, numbers % 2, numbers.float(), seen + 1, torch.zeros(count, dtype=torch.bool))


def test_the_replay_holds_the_newest_transitions() -> None:
    replay = Replay(10)
    for first in range(0, 28, 4):
        replay.add(numbered(first, 4))
        assert replay.size == min(first + 4, 10)
    torch.manual_seed(0)
    found = replay.sample(2000)
    assert set(found.rewards.tolist()) == set(range(18, 28))
    assert torch.equal(found.following, found.observations + 1)
    assert torch.equal(found.rewards, found.observations[:, 0])


@pytest.mark.parametrize(("filled", "count"), [(4, 3), (10, 4), (10, 100)])
def test_a_look_at_the_replay_is_spread_over_it_and_draws_nothing(filled: int, count: int) -> None:
    replay = Replay(10)
    replay.add(numbered(0, filled))
    state = torch.get_rng_state()
    found = replay.spread(count).rewards.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    assert found == sorted(set(found))
    assert len(found) == min(count, filled)
    assert (found[0], found[-1]) == (0, filled - 1)


class Table(nn.Module):
    """Values of two actions that are linear in one number."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([first, second]))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations * self.factors


@pytest.mark.parametrize("double", [False, True])
def test_the_loss_is_that_of_the_definition(double: bool) -> None:
    network, target = Table(1.0, 2.0), Table(5.0, 3.0)
    batch = Transitions(
        torch.tensor([[1.0], [1.0]]),
        torch.tensor([0, 1]),
        torch.tensor([0.5, -4.0]),
        torch.tensor([[0.2], [9.0]]),
        torch.tensor([False, True]),
    )
    found = td_loss(network, target, batch, DQNSettings(gamma=0.5, double=double))
    # the network prefers the second action, whose target is 3 x 0.2; the target alone the first, 5 x 0.2
    small = 1.0 - (0.5 + 0.5 * (0.6 if double else 1.0))
    large = 2.0 - (-4.0)
    assert found.item() == pytest.approx((0.5 * small**2 + (large - 0.5)) / 2)


def test_no_gradient_goes_through_the_target() -> None:
    network, target = Table(1.0, 2.0), Table(5.0, 3.0)
    td_loss(network, target, numbered(1, 5), DQNSettings()).backward()  # type: ignore[no-untyped-call]
    assert network.factors.grad is not None
    assert target.factors.grad is None


def test_the_target_is_renewed_every_so_many_steps() -> None:
    network, target = Table(1.0, 2.0), Table(0.0, 0.0)
    replay = Replay(10)
    replay.add(numbered(1, 10))
    settings = DQNSettings(updates=2, target_every=4, batch_size=4, warm_up=10, replay=100)
    moved: list[float] = []

    def step(closure, inputs):  # type: ignore[no-untyped-def]
        moved.append(float(target.factors[0].detach()))
        with torch.no_grad():
            network.factors += 1
        return closure().detach()

    for done in (0, 2, 4, 6):
        learn(step, network, target, replay, settings, done)
    assert moved == [1, 1, 1, 1, 5, 5, 5, 5]


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_exploration_has_the_share_that_was_asked_for(epsilon: float) -> None:
    torch.manual_seed(0)
    environments = CartPole(64, seed=0)
    network = spec("mlp", width=8).make((4,), 2)
    found = collect(network, environments, environments.reset(), 20, epsilon).transitions
    greedy = network(found.observations).argmax(1)
    share = float((found.actions == greedy).float().mean())
    assert share == 1 if epsilon == 0 else abs(share - 0.5) < 4 * (0.25 / 1280) ** 0.5


def test_epsilon_falls_in_a_line() -> None:
    settings = DQNSettings(epsilon=0.1, exploration=0.5)
    assert [settings.epsilon_at(done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert DQNSettings(exploration=0.0, epsilon=0.2).epsilon_at(0.0) == 0.2


def test_what_follows_a_truncated_step_is_what_was_last_seen() -> None:
    environments = CartPole(4, seed=0)
    environments.limit = 3
    network = spec("mlp", width=8).make((4,), 2)
    found = collect(network, environments, environments.reset(), 3, 0.0)
    last = found.transitions.following[-4:]
    assert bool(found.ended[-1].all())
    assert not bool(found.transitions.terminated.any())
    assert not torch.equal(last, found.next_observation)
    # one Euler step from what the action was chosen on
    position, velocity = found.transitions.observations[-4:, :2].unbind(1)
    torch.testing.assert_close(last[:, 0], position + 0.02 * velocity)


@pytest.mark.slow
def test_cartpole_is_learned() -> None:
    torch.manual_seed(0)
    settings = DQNSettings(updates=32, warm_up=512)
    environments = CartPole(settings.environments, seed=0)
    network = spec("mlp", width=64, depth=2).make((4,), 2)
    target = copy.deepcopy(network)
    run = training("adam", network, lr=1e-3, clip_norm=settings.clip_norm)
    replay, seen, steps, units = Replay(settings.replay), environments.reset(), 0, 250
    for unit in range(units):
        found = collect(network, environments, seen, settings.rollout, settings.epsilon_at(unit / units))
        seen = found.next_observation
        replay.add(found.transitions)
        if replay.size >= settings.warm_up:
            learn(lambda c, i: run.step(c, inputs=i), network, target, replay, settings, steps)
            steps += settings.updates
    after = evaluate(CartPole(32, seed=1), lambda o: network(o).argmax(1)).returns.mean()
    assert float(after) > 150


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warm_up": 10}, "warm_up of DQN is 10: it must be at least batch_size"),
        ({"replay": 500}, r"warm_up of DQN is 1000: .* at most replay \(500\)"),
        ({"environments": 1000, "rollout": 100}, "replay of DQN is 50000: it must hold the 100000"),
        ({"epsilon": 2.0}, "epsilon of DQN is 2.0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(values: dict[str, float], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        DQNSettings(**values)  # type: ignore[arg-type]
