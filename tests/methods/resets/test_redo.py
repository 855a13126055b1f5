"""ReDo: which units count as dormant, when they are recycled, and what that leaves unchanged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast._core.errors import IsoplastError
from isoplast.methods import StepContext, Training, get, trace_units
from isoplast.methods.resets.redo import ReDo, dormancy
from isoplast.nn import build


def step(run: Training, inputs: Tensor) -> None:
    targets = torch.zeros(len(inputs)).long()
    run.step(lambda: cross_entropy(run.model(inputs), targets), inputs=inputs)


def three_units() -> nn.Sequential:
    """Mean activities 0, 1 and 3 on an input of ones."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0], [1.0], [3.0]]))
        model[0].bias.zero_()
    return model


def test_scores_are_activities_over_the_mean_of_the_layer() -> None:
    """(0, 1, 3) / (4/3) by hand."""
    model = three_units()
    (score,) = dormancy(model, torch.ones(2, 1), list(trace_units(model)))
    torch.testing.assert_close(score, torch.tensor([0.0, 0.75, 2.25]))


@pytest.mark.parametrize("restart", [False, True])
def test_the_first_step_of_a_reset_unit_under_adam(restart: bool) -> None:
    """0.1 / sqrt(0.001) = 3.2 learning rates with Adam's count of steps as it was, one with a new one."""
    torch.manual_seed(0)
    model = three_units()
    method = get("redo", tau=0.5, every=1000, restart_count=restart)
    optimizer = method.optimizer(method.prepare(model), 1e-3)
    run = Training(method, model, optimizer)
    for _ in range(1000):
        step(run, torch.ones(2, 1))
    assert (model[2].weight[:, 0] == 0).all(), "the unit was not reset"
    model[0].weight.data[0] = 1.0  # so that it fires, and its outgoing weights learn
    step(run, torch.ones(2, 1))
    moved = model[2].weight[:, 0].abs().max().item() / 1e-3
    # Bias corrections after 1000 steps are 1 - 0.999^1000 = 0.63: 0.1 / sqrt(0.001 / 0.63) = 2.5.
    assert moved == pytest.approx(1.0 if restart else 2.51, rel=0.02)


def test_the_activity_of_a_channel_is_its_mean_over_samples_and_positions() -> None:
    torch.manual_seed(0)
    model = build("cnn", input_shape=(2, 5, 5), classes=3, channels=4, width=8)
    inputs = torch.randn(3, 2, 5, 5)
    score = dormancy(model, inputs, list(trace_units(model)))[0]
    activity = model.convs[0](inputs).relu().abs().mean((0, 2, 3))  # type: ignore[index, operator, union-attr]
    torch.testing.assert_close(score, (activity / activity.mean()).detach())


def test_a_dead_layer_is_dormant_as_a_whole() -> None:
    model = three_units()
    model[0].weight.data.zero_()
    assert not dormancy(model, torch.ones(2, 1), list(trace_units(model)))[0].any()


def test_dormant_units_are_recycled_at_the_period_and_only_they() -> None:
    torch.manual_seed(0)
    method = ReDo(tau=0.1, every=3)
    model = method.prepare(three_units())
    optimizer = method.optimizer(model, 1e-3)
    run = Training(method, model, optimizer)
    weights = []
    for _ in range(6):
        step(run, torch.ones(2, 1))
        weights.append([p.detach().clone() for p in model.parameters()])
    first, _, head, _ = weights[2]
    # 11 / 3 is the mean square of the initial rows (1, 1 and 9).
    assert first[0].abs().item() == pytest.approx((11 / 3) ** 0.5, rel=1e-6)
    assert not head[:, 0].any()
    assert head[:, 1:].all()
    assert (first[1:] - weights[1][0][1:]).abs().max() < 2e-3  # one step of Adam
    assert torch.equal(weights[1][0][0], torch.tensor([-1.0]))  # dead: no gradient, no change before
    for state in (optimizer.state[p] for p in model.parameters()):
        assert state["step"] == 6


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18"])
def test_tau_zero_leaves_the_outputs_unchanged(net: str) -> None:
    """Units that are silent on the batch are recycled; on that batch nothing changes, to 1e-6."""
    torch.manual_seed(0)
    shapes = {"mlp": (6,), "cnn": (2, 5, 5), "resnet18": (2, 8, 8)}
    sizes: dict[str, Any] = {
        "mlp": {"width": 8},
        "cnn": {"channels": 4, "width": 8},
        "resnet18": {"width": 4},
    }
    method = ReDo(tau=0.0, every=1)
    model = method.prepare(build(net, input_shape=shapes[net], classes=3, **sizes[net]))
    with torch.no_grad():
        for group in trace_units(model):
            for slot in (*group.incoming, *group.norms):
                if slot.tensor in ("weight", "bias"):
                    slot.view(slot.find(model))[0] = 0.0 if slot.tensor == "weight" else -1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method.begin(model, optimizer)
    inputs = torch.randn(4, *shapes[net])
    model(inputs)  # BatchNorm has seen the batch
    before = copy.deepcopy(model.eval())
    method.after_step(StepContext(model, optimizer, inputs, torch.zeros(()), 1))
    for live, _ in method.groups:
        for entries in live.incoming:
            assert entries[entries.tensor.detach()][0].any() == (entries.slot.tensor == "weight")
        for entries in live.outgoing:
            assert not entries[entries.tensor.detach()][0].any()
    # float32, sums of some hundred terms.
    torch.testing.assert_close(model(inputs), before(inputs), rtol=1e-5, atol=1e-6)


def test_scores_leave_no_trace() -> None:
    torch.manual_seed(0)
    model = build("resnet18", input_shape=(2, 8, 8), classes=3, width=4)
    before = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    dormancy(model, torch.randn(2, 2, 8, 8, generator=torch.Generator()), list(trace_units(model)))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


def test_units_are_found_after_all_methods_have_changed_the_network() -> None:
    """Its norms are inserted after ReDo has seen the network, and are reset with the units."""
    method = get("redo+layernorm", every=1, tau=100.0)
    model = method.prepare(build("mlp", input_shape=(6,), classes=3, width=8, depth=1))
    optimizer = method.optimizer(model, 1e-1)
    run = Training(method, model, optimizer)
    step(run, torch.randn(4, 6))
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert norms
    for norm in norms:
        for value, start in ((norm.weight, 1.0), (norm.bias, 0.0)):
            assert value is None or (value == start).all()


def test_what_redo_cannot_take() -> None:
    with pytest.raises(
        IsoplastError, match="method redo finds no unit that it could reset: it has no nonlin"
    ):
        get("redo").prepare(nn.Linear(2, 2))
    with pytest.raises(IsoplastError, match="1: its units are outputs of the network"):
        get("redo").prepare(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    computed = nn.Sequential(
        nn.Linear(2, 4), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))
    )
    with pytest.raises(IsoplastError, match=r"2\.weight is computed from other parameters"):
        get("redo").prepare(computed)
    with pytest.raises(IsoplastError, match="tau of method redo is -1"):
        ReDo(tau=-1.0)
    with pytest.raises(IsoplastError, match="every of method redo is 0"):
        ReDo(every=0)
