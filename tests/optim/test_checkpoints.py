"""Checkpoints between AdamO and Adam(W), and what torch.distributed.checkpoint does to an optimizer."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from isoplast import AdamO, attach
from isoplast.optim._groups import GROUP_DEFAULTS

IMPLEMENTATIONS: dict[str, dict[str, Any]] = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}  # fmt: skip # noqa: E501


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        source = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 6, generator=source)).square().mean().backward()
        optimizer.step()


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def through_a_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("every", [1, 4])
def test_adamw_becomes_adamo_and_adamo_adamw(implementation, every):
    """The change of optimizer in the middle: moments and steps come along, bit for bit."""
    settings = {"lr": 1e-2, "weight_decay": 0.05, **implementation}
    straight, changed = network(), network()
    adamw = torch.optim.AdamW(straight.parameters(), **settings)
    train(straight, adamw, range(5))
    first = torch.optim.AdamW(changed.parameters(), **settings)
    train(changed, first, range(5))

    adamo = AdamO(changed.parameters(), isometry=0.0, isometry_every=every, **settings)
    adamo.load_state_dict(through_a_file(first.state_dict()))
    train(straight, adamw, range(5, 9))
    train(changed, adamo, range(5, 9))
    assert same_weights(straight, changed)

    adamo.param_groups[0]["isometry"] = 0.3
    train(changed, adamo, range(9, 12))
    assert not same_weights(straight, changed)

    last = torch.optim.AdamW(changed.parameters(), **settings)
    last.load_state_dict(through_a_file(adamo.state_dict()))
    twin = copy.deepcopy(changed)
    reference = torch.optim.AdamW(twin.parameters(), **settings)
    plain = adamo.state_dict()
    plain["state"] = {
        i: {key: entry[key].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
        for i, entry in plain["state"].items()
    }
    reference.load_state_dict(plain)
    train(changed, last, range(12, 15))
    train(twin, reference, range(12, 15))
    assert same_weights(changed, twin)


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.AdamW])
def test_settings_stay_when_the_checkpoint_says_nothing(base):
    model = network()
    adam = base(model.parameters(), lr=1e-2, weight_decay=0.0)
    train(model, adam, range(3))
    adamo = AdamO(model.parameters(), isometry=0.07, isometry_every=3, bias_decay=0.01)
    saved = adam.state_dict()
    adamo.load_state_dict(saved)
    group = adamo.param_groups[0]
    assert group["lr"] == 1e-2  # of the checkpoint, as everywhere in torch
    assert (group["isometry"], group["isometry_every"], group["bias_decay"]) == (0.07, 3, 0.01)
    assert not GROUP_DEFAULTS.keys() & saved["param_groups"][0].keys(), "loading changed the checkpoint"
    train(model, adamo, range(3, 6))


def test_settings_of_an_adamo_checkpoint_win():
    model = network()
    saved = AdamO(model.parameters(), isometry=0.07, isometry_every=3).state_dict()
    adamo = AdamO(model.parameters(), isometry=0.5)
    adamo.load_state_dict(saved)
    assert adamo.param_groups[0]["isometry"] == 0.07
    assert adamo.param_groups[0]["isometry_every"] == 3


def test_per_group_settings_survive_an_adamw_checkpoint():
    model = network()
    groups = lambda: [{"params": model[0].parameters()}, {"params": model[2].parameters()}]  # noqa: E731
    adamw = torch.optim.AdamW(groups())
    train(model, adamw, range(2))
    first, second = groups()
    adamo = AdamO([{**first, "isometry": 0.2}, {**second, "isometry": 0.0}])
    adamo.load_state_dict(adamw.state_dict())
    assert [group["isometry"] for group in adamo.param_groups] == [0.2, 0.0]


@pytest.mark.parametrize("every", [1, 4, "auto"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("attached", [False, True])
def test_asking_for_a_distributed_state_dict_moves_no_weight(every, implementation, attached):
    """torch makes the missing state by a step with zero gradients and lr 0: isometry must follow lr."""
    model = network()
    if attached:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **implementation)
        attach(optimizer, isometry=0.5, every=every)
    else:
        optimizer = AdamO(
            model.parameters(), lr=1e-2, isometry=0.5, bias_decay=0.3, isometry_every=every, **implementation
        )
    before = copy.deepcopy(model)
    state = get_optimizer_state_dict(model, optimizer)
    assert same_weights(model, before)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert state["param_groups"][0]["isometry"] == 0.5


@pytest.mark.parametrize("every", [1, 4])
def test_distributed_state_dict_round_trip(every):
    straight = network()
    optimizer = AdamO(straight.parameters(), lr=1e-2, isometry=0.5, isometry_every=every)
    train(straight, optimizer, range(6))
    state = copy.deepcopy(get_optimizer_state_dict(straight, optimizer))
    resumed = copy.deepcopy(straight)
    train(straight, optimizer, range(6, 12))
    other = AdamO(resumed.parameters(), lr=1e-2, isometry=0.1)
    set_optimizer_state_dict(resumed, other, through_a_file(state))
    assert other.param_groups[0]["isometry"] == 0.5
    train(resumed, other, range(6, 12))
    assert same_weights(straight, resumed)
