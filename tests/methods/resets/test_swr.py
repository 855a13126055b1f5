"""Selective weight reinitialisation: which weights are taken, what they become, what is forgotten."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.methods import get
from isoplast.methods._protocol import StepContext
from isoplast.methods.resets.swr import SelectiveWeights


def ready(method: SelectiveWeights, model: nn.Module) -> StepContext:
    """After one step of Adam, its memory full everywhere."""
    inputs, targets = torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
    optimizer = method.optimizer(model, 1e-3)
    method.begin(model, optimizer)
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return StepContext(model, optimizer, inputs, loss.detach(), 1)


@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
def test_the_least_useful_weights_start_anew_and_only_they(utility: str) -> None:
    torch.manual_seed(0)
    method = get("swr", fraction=0.25, every=1, utility=utility)
    assert isinstance(method, SelectiveWeights)
    model = nn.Linear(6, 8)
    context = ready(method, model)
    weight = model.weight.detach().clone()
    assert model.weight.grad is not None
    worth = (weight * model.weight.grad if utility == "gradient" else weight).abs()
    lowest = worth <= worth.flatten().kthvalue(12).values
    method.after_step(context)
    assert torch.equal(model.weight != weight, lowest)
    state = context.optimizer.state[model.weight]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[key] == 0, lowest)
    assert state["step"] == 1


def test_a_threshold_takes_what_is_worth_less_than_a_part_of_the_mean() -> None:
    torch.manual_seed(0)
    method = get("swr", fraction=0.5, every=1, utility="magnitude", selection="threshold")
    assert isinstance(method, SelectiveWeights)
    model = nn.Linear(6, 8)
    context = ready(method, model)
    weight = model.weight.detach().clone()
    method.after_step(context)
    assert torch.equal(model.weight != weight, weight.abs() <= 0.5 * weight.abs().mean())


def test_new_weights_come_from_the_initial_distribution() -> None:
    torch.manual_seed(0)
    method = get("swr", fraction=1.0, every=1)
    assert isinstance(method, SelectiveWeights)
    model = nn.Sequential(nn.Linear(6, 5000), nn.LayerNorm(5000))
    nn.init.normal_(model[0].weight, 0.5, 2.0)
    nn.init.zeros_(model[0].bias)
    context = ready(method, model)
    method.after_step(context)
    # 30 000 draws: the mean is off by 2 / sqrt(30000) = 0.012, the deviation by 0.008; four times that.
    assert model[0].weight.mean().item() == pytest.approx(0.5, abs=0.05)
    assert model[0].weight.std().item() == pytest.approx(2.0, abs=0.035)
    assert not model[0].bias.any()
    assert (model[1].weight == 1).all()


def test_parts_of_a_weight_are_taken_at_random_with_the_right_mean() -> None:
    """0.3 of one bias: 300 of 1000 times, give or take four standard deviations of sqrt(1000 * 0.21)."""
    torch.manual_seed(0)
    method = SelectiveWeights(fraction=0.3)
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    taken = sum(len(method._choose(parameter)) for _ in range(1000))
    assert abs(taken - 300) < 58


def test_non_contiguous_weights_are_written_in_place() -> None:
    torch.manual_seed(0)
    method = SelectiveWeights(fraction=0.5, every=1, utility="magnitude")
    model = nn.Linear(6, 8)
    model.weight = nn.Parameter(torch.randn(6, 8).t())
    context = ready(method, model)
    weight = model.weight.detach().clone()
    method.after_step(context)
    assert torch.equal(model.weight != weight, weight.abs() <= weight.abs().flatten().kthvalue(24).values)


def test_bad_settings() -> None:
    with pytest.raises(IsoplastError, match=r"fraction of method swr is 2\.0"):
        get("swr", fraction=2.0)
    with pytest.raises(
        IsoplastError, match=r"utility of method swr is 'age': it must be 'gradient' or 'magnitude'"
    ):
        get("swr", utility="age")
