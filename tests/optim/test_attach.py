"""The decoupled isometry step beside other optimizers: exact, removable, saved with the state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from isoplast import AdamO, attach, param_groups
from isoplast.isometry import isometry_step, penalty, singular_values
from isoplast.optim._groups import GROUP_DEFAULTS
from isoplast.optim._turns import OWED, WAIT

Make = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05),
    "SGD, momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "Adam, fused": lambda params: torch.optim.Adam(params, lr=0.05, fused=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.05),
    "Muon": lambda params: torch.optim.Muon(params, lr=0.05, weight_decay=0.0),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=0.05),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.05),
    "NAdam": lambda params: torch.optim.NAdam(params, lr=0.05),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.05),
    "Rprop": lambda params: torch.optim.Rprop(params, lr=0.05),
}
MATRICES = ((14, 8), (8, 14), (9, 9))  # Muon takes nothing else
MIXED = (*MATRICES, (6, 2, 3, 3), (11,))

WITHOUT_MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9")
everyone = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[WITHOUT_MUON] if name == "Muon" else [])
        for name, make in OPTIMIZERS.items()
    ],
)


def parameters(make: Make, dtype: torch.dtype = torch.float64) -> list[Parameter]:
    shapes = MATRICES if make is OPTIMIZERS["Muon"] else MIXED
    source = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=source, dtype=torch.float64) / math.sqrt(max(s)) for s in shapes]
    return [Parameter(p.to(dtype)) for p in drawn]


def give_gradients(params: list[Parameter], step: int) -> None:
    source = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype)


def run(optimizer: Optimizer, params: list[Parameter], steps: range = range(6)) -> list[Tensor]:
    for step in steps:
        give_gradients(params, step)
        optimizer.step()
    return [p.detach().clone() for p in params]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def clones(params: list[Parameter]) -> list[Parameter]:
    return [Parameter(p.detach().clone()) for p in params]


@everyone
def test_exact_step_is_eq_20_with_the_optimizers_own_update(make):
    """W - U's move at W - lr lambda grad R(W): a twin that does the two by hand, from the same W."""
    ours = parameters(make)
    twin = clones(ours)
    optimizer, by_hand = make(ours), make(twin)
    attach(optimizer, isometry=0.1, every=1)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(twin, step)
        optimizer.step()
        with torch.no_grad():
            for p in twin:
                if p.ndim > 1:
                    p.copy_(isometry_step(p.reshape(len(p), -1), 0.05 * 0.1).view_as(p))
        by_hand.step()
    for p, q in zip(ours, twin, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    assert not same_bits(ours, run(make(twin), twin)), "the isometry step does nothing here"


@pytest.mark.parametrize("make", [OPTIMIZERS[name] for name in ("SGD", "Adam", "RMSprop")])
def test_gradient_is_taken_before_the_step(make):
    """These updates do not read the weights: the whole is the sum of two moves from the old weights."""
    start = parameters(make)
    plain, ours = clones(start), clones(start)
    run(make(plain), plain, range(1))
    optimizer = make(ours)
    attach(optimizer, isometry=0.1, every=1)
    run(optimizer, ours, range(1))
    for p, q, old in zip(ours, plain, start, strict=True):
        pull = torch.zeros_like(old)
        if old.ndim > 1:
            matrix = old.reshape(len(old), -1)
            pull = (isometry_step(matrix, 0.005) - matrix).view_as(old)
        torch.testing.assert_close(p, q + pull, rtol=0, atol=1e-14)


@pytest.mark.parametrize("every", [1, 3, "auto"])
@pytest.mark.parametrize("fused", [False, True])
def test_adamw_attached_is_adamo(every, fused):
    make = OPTIMIZERS["AdamW"]
    ours, theirs = parameters(make), parameters(make)
    settings = {"lr": 0.05, "weight_decay": 0.01, "fused": fused}
    adamw = torch.optim.AdamW(ours, **settings)
    attach(adamw, isometry=0.1, every=every)
    adamo = AdamO(theirs, isometry=0.1, isometry_every=every, **settings)
    assert same_bits(run(adamw, ours, range(15)), run(adamo, theirs, range(15)))


@everyone
@pytest.mark.parametrize("every", [1, 4, "auto"])
def test_removing_leaves_nothing_behind(make, every):
    ours = parameters(make, torch.float32)  # torch casts NAdam's float32 scalars when float64 weights load
    optimizer = make(ours)
    run(optimizer, ours, range(2))
    before = copy.deepcopy(optimizer.state_dict())
    attachment = attach(optimizer, isometry=0.1, every=every)
    attachment.remove()
    assert str(optimizer.state_dict()) == str(before)
    attachment = attach(optimizer, isometry=0.1, every=every)
    run(optimizer, ours, range(2, 5))
    attachment.remove()
    saved = optimizer.state_dict()
    assert not {OWED, WAIT} & {key for entry in saved["state"].values() for key in entry}
    assert not GROUP_DEFAULTS.keys() & saved["param_groups"][0].keys()
    # And it steps as one that has never been attached, from this state on.
    twin = clones(ours)
    never = make(twin)
    never.load_state_dict(copy.deepcopy(saved))
    assert same_bits(run(optimizer, ours, range(5, 9)), run(never, twin, range(5, 9)))


def test_removing_gives_groups_back_what_they_brought():
    model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(param_groups(model, isometry_time=100), lr=0.1)
    before = [{key: group[key] for key in GROUP_DEFAULTS if key in group} for group in optimizer.param_groups]
    attachment = attach(optimizer)
    assert attachment.report().matrices == 1
    attachment.remove()
    after = [{key: group[key] for key in GROUP_DEFAULTS if key in group} for group in optimizer.param_groups]
    assert after == before
    assert str(attach(optimizer).report()) == str(attachment.report())


@everyone
@pytest.mark.parametrize("every", [1, 4])
def test_saved_and_restored_with_the_optimizer(make, every):
    straight = parameters(make, torch.float32)
    optimizer = make(straight)
    attach(optimizer, isometry=0.1, every=every)
    run(optimizer, straight, range(5))
    saved, resumed = copy.deepcopy(optimizer.state_dict()), clones(straight)
    run(optimizer, straight, range(5, 12))
    other = make(resumed)
    attachment = attach(other, isometry=0.7, every=2)  # the checkpoint's settings win
    other.load_state_dict(saved)
    assert same_bits(run(other, resumed, range(5, 12)), [p.detach() for p in straight])
    assert {k.isometry for k in attachment.report().kept} == {0.1}


@everyone
def test_loading_a_checkpoint_from_before_the_attachment(make):
    plain = parameters(make)
    optimizer = make(plain)
    run(optimizer, plain, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    ours = clones(plain)
    other = make(ours)
    attach(other, isometry=0.3, every=1)
    other.load_state_dict(copy.deepcopy(saved))  # torch shares a state's tensors with what it loads
    assert other.param_groups[0]["isometry"] == 0.3
    assert other.param_groups[0]["isometry_every"] == 1
    twin = clones(plain)
    by_hand = make(twin)
    by_hand.load_state_dict(saved)
    with torch.no_grad():
        for p in twin:
            if p.ndim > 1:
                p.copy_(isometry_step(p.reshape(len(p), -1), 0.05 * 0.3).view_as(p))
    for p, q in zip(run(other, ours, range(3, 4)), run(by_hand, twin, range(3, 4)), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_an_attached_checkpoint_loads_into_a_plain_optimizer():
    make = OPTIMIZERS["Adam"]
    ours = parameters(make)
    optimizer = make(ours)
    attach(optimizer, isometry=0.1, every=5)
    run(optimizer, ours)
    plain = clones(ours)
    other = make(plain)
    other.load_state_dict(optimizer.state_dict())
    run(other, plain)
    assert all(p.isfinite().all() for p in plain)


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("name", ["SGD, momentum", "Adam", pytest.param("Muon", marks=WITHOUT_MUON)])
def test_closures(name, by_keyword):
    """The isometry step waits for the closure, which makes the gradients; the loss comes back."""
    make = OPTIMIZERS[name]
    plain = parameters(make)
    closed = clones(plain)
    one, other = make(plain), make(closed)
    attach(one, isometry=0.1, every=2)
    attach(other, isometry=0.1, every=2)
    calls = 0

    def closure() -> float:
        nonlocal calls
        give_gradients(closed, calls)
        calls += 1
        return 7.0

    for step in range(5):
        give_gradients(plain, step)
        one.step()
        for p in closed:
            p.grad = None
        assert (other.step(closure=closure) if by_keyword else other.step(closure)) == 7.0
    assert calls == 5
    assert same_bits(plain, closed)


def test_schedule_free_moves_its_hidden_sequence_too():
    """The weights y and the hidden z move alike, and with them the average x that is evaluated."""
    schedulefree = pytest.importorskip("schedulefree", reason="the schedulefree package is not installed")
    start = torch.diag(torch.tensor([2.0, 0.5, 1.5], dtype=torch.float64))
    ours, twin = Parameter(start.clone()), Parameter(start.clone())
    optimizer, by_hand = (schedulefree.AdamWScheduleFree([p], lr=0.05) for p in (ours, twin))
    attach(optimizer, isometry=0.2, every=1)
    optimizer.train()
    by_hand.train()
    for step in range(320):
        for p in (ours, twin):
            give_gradients([p], step)
            p.grad.mul_(step < 20)  # then isometry alone
        optimizer.step()
        pull = isometry_step(twin.detach(), 0.05 * 0.2) - twin.detach()
        for moving in (twin.detach(), by_hand.state[twin].get("z")):
            if moving is not None:
                moving.add_(pull)
        by_hand.step()
        torch.testing.assert_close(ours, twin, rtol=0, atol=1e-12)
        torch.testing.assert_close(optimizer.state[ours]["z"], by_hand.state[twin]["z"], rtol=0, atol=1e-12)
    optimizer.eval()
    values = singular_values(ours.detach())
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=0.02)


def test_groups_added_later():
    first, second, third = (Parameter(2 * torch.eye(3)) for _ in range(3))
    optimizer = torch.optim.SGD([first], lr=0.1)
    attachment = attach(optimizer, isometry=0.1, every=1)
    optimizer.add_param_group({"params": [second]})
    optimizer.add_param_group({"params": [third], "isometry": 0.0})
    assert attachment.report().matrices == 2
    for p in (first, second, third):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(first, second)
    assert penalty(first.detach()) < 27
    assert torch.equal(third.detach(), 2 * torch.eye(3))
    optimizer.add_param_group({"params": [Parameter(torch.eye(3))]})
    optimizer.load_state_dict(optimizer.state_dict())  # before its first step
    assert optimizer.param_groups[3]["isometry"] == 0.1
    attachment.remove()
    assert [group.get("isometry") for group in optimizer.param_groups] == [None, None, 0.0, None]


def test_copies_are_attached_again():
    weights, biases = [Parameter(2 * torch.eye(3))], [Parameter(torch.ones(3))]
    optimizer = torch.optim.SGD([{"params": weights}, {"params": biases}], lr=0.1)
    attach(optimizer, isometry_time=50)
    twin = copy.deepcopy(optimizer)
    assert str(attach(twin, isometry_time=50).report()) == str(optimizer._isoplast_attachment.report())


def test_parameters_without_gradient_and_zero_lr():
    for every in (1, 3):
        still, moving = Parameter(2 * torch.eye(3)), Parameter(2 * torch.eye(3))
        optimizer = torch.optim.SGD([still, moving], lr=0.1)
        attach(optimizer, isometry=0.1, every=every)
        for _ in range(4):
            moving.grad = torch.zeros(3, 3)
            optimizer.step()
        assert torch.equal(still.detach(), 2 * torch.eye(3))
        before = moving.detach().clone()
        assert not torch.equal(before, still.detach())
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        assert torch.equal(moving.detach(), before)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_grad_scaler(fused, every):
    params = [Parameter(2 * torch.eye(4)), Parameter(torch.ones(4))]
    optimizer = torch.optim.Adam(params, lr=0.1, fused=fused)
    attach(optimizer, isometry=0.1, every=every)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for infinite in (True, False, True):
        before = [p.detach().clone() for p in params]
        optimizer.zero_grad()
        scaler.scale(sum(p.square().sum() for p in params)).backward()
        if infinite:
            params[0].grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        assert same_bits([p.detach() for p in params], before) is infinite


def test_hooks_of_the_user_still_fire():
    w = Parameter(torch.eye(3))
    optimizer = torch.optim.SGD([w], lr=0.1)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    attachment = attach(optimizer)
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    w.grad = torch.zeros(3, 3)
    optimizer.step()
    attachment.remove()
    optimizer.step()
    assert seen == ["before", "after"] * 2


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda p: attach(p), TypeError, "attach needs a torch optimizer"),
        (lambda p: attach(AdamO([p])), ValueError, "AdamO has the isometry step built in"),
        (lambda p: attach(torch.optim.LBFGS([p])), ValueError, "LBFGS moves the weights several times"),
        (lambda p: attach(torch.optim.SGD([p]), 0.1, isometry_time=9.0), ValueError, "exclude each other"),
        (lambda p: attach(torch.optim.SGD([p]), -0.1), ValueError, "Invalid isometry value: -0.1"),
        (lambda p: attach(torch.optim.SGD([p]), math.inf), ValueError, "Invalid isometry value: inf"),
        (lambda p: attach(torch.optim.SGD([p]), isometry_time=0), ValueError, "Invalid isometry_time value"),
        (lambda p: attach(torch.optim.SGD([p]), every=0), ValueError, "Invalid isometry_every value: 0"),
        (lambda p: attach(torch.optim.SGD([p[0].detach()])), ValueError, r"no matrix.*parameter 0 \(3,\)"),
    ],
)  # fmt: skip
def test_errors(spoil, error, words):
    with pytest.raises(error, match=words):
        spoil(torch.eye(3).requires_grad_())


def test_refusals_change_nothing():
    optimizer = torch.optim.SGD([Parameter(torch.ones(3))], lr=0.1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="holds no matrix"):
        attach(optimizer, isometry=0.1)
    assert optimizer.state_dict() == before
    assert not optimizer._optimizer_step_pre_hooks


def test_second_attachment_is_refused_until_the_first_is_removed():
    optimizer = torch.optim.SGD([Parameter(torch.eye(3))], lr=0.1)
    attachment = attach(optimizer)
    with pytest.raises(ValueError, match=r"already has an attachment: remove\(\) it first"):
        attach(optimizer)
    attachment.remove()
    attach(optimizer)
