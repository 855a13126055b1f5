"""Churn against the divergences of torch's distributions, and of action values by hand."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from isoplast.rl import churn, q_churn


def test_of_a_discrete_policy_it_is_the_divergence() -> None:
    before, after = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)), torch.ones(50, 5)
    policy, value = churn(before, after)
    expected = kl_divergence(
        Categorical(logits=before[:, :4].double()), Categorical(logits=after[:, :4].double())
    )
    assert policy.item() == pytest.approx(expected.mean().item(), rel=1e-12)
    assert value.item() == pytest.approx((before[:, 4] - 1).double().square().mean().sqrt().item())


def test_of_a_gaussian_policy_it_is_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
    spreads = (torch.tensor([0.1, -0.5, 0.0]), torch.tensor([-1.0, 0.3, 0.2]))
    one, other = (
        Independent(Normal(outputs[:, :3], spread.double().exp()), 1)
        for outputs, spread in zip((before, after), spreads, strict=True)
    )
    policy, _ = churn(before, after, spreads)
    assert policy.item() == pytest.approx(kl_divergence(one, other).mean().item(), rel=1e-12)


def test_without_a_change_there_is_none() -> None:
    outputs = torch.randn(9, 3)
    assert [found.item() for found in churn(outputs, outputs)] == [0.0, 0.0]
    assert [found.item() for found in q_churn(outputs, outputs)] == [0.0, 0.0]


def test_of_action_values_it_is_the_share_of_other_greedy_actions_and_how_far_they_move() -> None:
    before = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [5.0, 4.0]])
    after = torch.tensor([[3.0, 5.0], [0.0, 2.0], [1.0, 0.5], [5.0, 4.0]])
    action, value = q_churn(before, after)
    assert action.item() == 0.25
    assert value.item() == pytest.approx(((16 + 0.25) / 8) ** 0.5)
