"""LeanAdam and LeanAdamW are torch's Adam and AdamW to the bit, whatever they are given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoplast.optim import LeanAdam, LeanAdamW

PAIRS = [(LeanAdam, torch.optim.Adam), (LeanAdamW, torch.optim.AdamW)]
SETTINGS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "for-loop": {"foreach": False},
    "amsgrad": {"fused": True, "amsgrad": True, "maximize": True},
    "decay": {"fused": True, "weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
    "tensor lr": {"fused": True, "lr": torch.tensor(0.1)},
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)


def groups(model: nn.Module) -> list[dict[str, Any]]:
    first, _, last = model.children()
    return [{"params": first.parameters()}, {"params": last.parameters(), "lr": 0.05}]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, frozen_at: int = -1
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x = torch.randn(5, 4, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if step == frozen_at:
            model[0].weight.grad = None
        optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return [*model.state_dict().values(), *state]


def assert_same_bits(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("lean", "torchs"), PAIRS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_is_torchs(lean: Any, torchs: Any, settings: dict[str, Any], dtype: torch.dtype) -> None:
    found = []
    for kind in (lean, torchs):
        model = network(dtype)
        optimizer = kind(groups(model), **{"lr": 0.1, **settings})
        found.append(train(model, optimizer, 6, frozen_at=3))
    assert_same_bits(*found)


@pytest.mark.parametrize(("lean", "torchs"), PAIRS)
def test_states_are_exchanged_and_copies_go_on(lean: Any, torchs: Any) -> None:
    found = []
    for first, second in ((lean, torchs), (torchs, lean), (torchs, torchs)):
        model = network()
        optimizer = first(groups(model), lr=0.1, fused=True)
        train(model, optimizer, 3)
        later = second(groups(model), lr=0.7, fused=True)
        later.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        found.append(train(model, later, 3))
    assert_same_bits(found[0], found[2])
    assert_same_bits(found[1], found[2])


@pytest.mark.parametrize(("lean", "torchs"), PAIRS)
def test_parameters_of_several_precisions_and_scaled_gradients(lean: Any, torchs: Any) -> None:
    found = []
    for kind in (lean, torchs):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3).double())]
        optimizer = kind(weights, lr=0.1, fused=True)
        for step in range(4):
            for weight in weights:
                weight.grad = weight.detach() * 8
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(float(step == 2))
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        found.append([*weights, *(value for entry in optimizer.state.values() for value in entry.values())])
    assert_same_bits(*found)


@pytest.mark.parametrize(("lean", "torchs"), PAIRS)
def test_hooks_run_once_a_step_and_the_closure_too(lean: Any, torchs: Any) -> None:
    model = network()
    torchs(network().parameters())  # torch wraps the step of a class when it is first used
    optimizer, calls = lean(model.parameters(), lr=0.1, fused=True), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> Tensor:
        calls.append("closure")
        loss = model(torch.ones(2, 4)).sum()
        loss.backward()
        return loss

    for _ in range(2):
        assert torch.is_tensor(optimizer.step(closure))
    assert calls == ["before", "closure", "after"] * 2
