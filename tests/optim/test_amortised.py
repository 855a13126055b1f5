"""Amortised isometry: nothing owed is lost, whatever the schedule; the work is spread; resuming is exact."""

from __future__ import annotations

import copy
import io
import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import isoplast.optim._apply as apply_module
from isoplast import AdamO, attach
from isoplast.optim._turns import AUTO_LONGEST, OWED, UNIT, WAIT, steps_between


class Diary:
    """Who acted in which step with which strength."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[tuple[int, int, float]] = []
        self.now = 0

        def note(matrix: torch.Tensor, strength: float) -> torch.Tensor:
            self.acts.append((self.now, matrix.data_ptr(), strength))
            return matrix

        monkeypatch.setattr(apply_module, "_FLOW", note)
        monkeypatch.setattr(apply_module, "_STACKED_BELOW", {})  # in a stack a matrix is elsewhere

    def total(self, p: Parameter) -> float:
        return sum(strength for _, where, strength in self.acts if where == p.data_ptr())


def owed(optimizer: torch.optim.Optimizer) -> list[float]:
    """What each parameter still owes, as the checkpoint says."""
    state = optimizer.state_dict()["state"]
    return [state.get(i, {}).get(OWED, 0) * UNIT for i in range(len(optimizer.param_groups[0]["params"]))]


def make(n: int) -> list[Parameter]:
    return [Parameter(torch.randn(5, 4, generator=torch.Generator().manual_seed(i))) for i in range(n)]


def step(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    for p in params:
        p.grad = torch.full_like(p, 0.1)
    optimizer.step()


RATES = {
    "constant": lambda t: 0.01,
    "warm-up": lambda t: 0.01 * min(1, (t + 1) / 40),
    "cosine": lambda t: 0.01 * (1 + math.cos(math.pi * t / 97)) / 2,
    "steps": lambda t: (0.05, 0.001, 0.02)[t // 30 % 3],
    "pauses": lambda t: 0.0 if t % 3 else 0.01,
}


@pytest.mark.parametrize("every", [2, 7, 40, "auto"])
@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_applied_and_owed_add_up_to_the_schedule(rate, every, monkeypatch):
    diary, params, isometry = Diary(monkeypatch), make(3), 0.3
    optimizer = AdamO(params, lr=1.0, isometry=isometry, isometry_every=every)
    expected = 0.0
    for t in range(120):
        diary.now = t
        optimizer.param_groups[0]["lr"] = rate(t)
        step(optimizer, params)
        expected += rate(t) * isometry
        for p, left in zip(params, owed(optimizer), strict=True):
            assert diary.total(p) + left == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert all(diary.total(p) > 0 for p in params)


@pytest.mark.parametrize(("n", "every"), [(3, 3), (3, 10), (7, 7), (7, 16), (1, 5)])
def test_no_two_matrices_act_in_the_same_step(n, every, monkeypatch):
    diary, params = Diary(monkeypatch), make(n)
    optimizer = AdamO(params, lr=0.01, isometry=0.1, isometry_every=every)
    for diary.now in range(5 * every):
        step(optimizer, params)
    steps = [now for now, _, _ in diary.acts]
    assert len(steps) == len(set(steps)) == 5 * n
    for p in params:
        turns = [now for now, where, _ in diary.acts if where == p.data_ptr()]
        assert {b - a for a, b in pairwise(turns)} == {every}


def test_more_matrices_than_steps_are_spread_evenly(monkeypatch):
    diary, params = Diary(monkeypatch), make(11)
    optimizer = AdamO(params, lr=0.01, isometry=0.1, isometry_every=4)
    for diary.now in range(40):
        step(optimizer, params)
    work = [sum(now == t for now, _, _ in diary.acts) for t in range(40)]
    assert set(work) <= {2, 3}


def test_matrices_without_a_gradient_owe_nothing(monkeypatch):
    diary, params = Diary(monkeypatch), make(2)
    optimizer = AdamO(params, lr=0.01, isometry=0.1, isometry_every=4)
    for diary.now in range(12):
        for p in params:
            p.grad = torch.zeros_like(p)
        if diary.now % 2:
            params[1].grad = None
        optimizer.step()
    totals = [diary.total(p) + left for p, left in zip(params, owed(optimizer), strict=True)]
    assert totals == pytest.approx([12e-3, 6e-3])


def test_auto_period():
    assert steps_between(1e-4) == 25  # 1 % of 1 / (4 c)
    assert steps_between(1e-5) == AUTO_LONGEST == 250  # where the longest wait begins
    assert steps_between(2e-5) == 125
    assert steps_between(1e-12) == AUTO_LONGEST
    assert steps_between(10.0) == 1


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("every", [1, 3, 8, "auto"])
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_resuming_gives_the_same_bits(stop, every, attached):
    """Saved in the middle of a period, through a file, and gone on with: as if nothing had happened."""

    def build() -> tuple[list[Parameter], torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        params = make(3)
        settings = {"lr": 0.05, "weight_decay": 0.0}
        if attached:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(params, **settings)
            attach(optimizer, isometry=0.05, every=every)
        else:
            optimizer = AdamO(params, isometry=0.05, isometry_every=every, **settings)
        return params, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    straight, optimizer, scheduler = build()
    for t in range(20):
        if t == stop:
            file = io.BytesIO()
            state = {"w": straight, "o": optimizer.state_dict(), "s": scheduler.state_dict()}
            torch.save(copy.deepcopy(state), file)
        step(optimizer, straight)
        scheduler.step()

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, optimizer, scheduler = build()
    with torch.no_grad():
        for p, w in zip(resumed, saved["w"], strict=True):
            p.copy_(w)
    optimizer.load_state_dict(saved["o"])
    scheduler.load_state_dict(saved["s"])
    for _ in range(stop, 20):
        step(optimizer, resumed)
        scheduler.step()
    assert all(torch.equal(p, q) for p, q in zip(straight, resumed, strict=True))


def test_what_is_owed_is_plain_numbers_in_the_state():
    params = [Parameter(torch.randn(5, 4).bfloat16())]
    optimizer = AdamO(params, lr=0.01, isometry=0.1, isometry_every=10)
    for _ in range(4):
        step(optimizer, params)
    entry = optimizer.state_dict()["state"][0]
    assert type(entry[OWED]) is int
    assert type(entry[WAIT]) is int
    assert entry[OWED] * UNIT == pytest.approx(3e-3, rel=1e-12)  # step 1 was its turn
    # torch casts floating tensors of a loaded state to the parameter's dtype; numbers stay.
    other = AdamO([Parameter(torch.randn(5, 4).bfloat16())], isometry_every=10)
    other.load_state_dict(optimizer.state_dict())
    assert other.state_dict()["state"][0][OWED] == entry[OWED]


def test_exact_mode_needs_no_state():
    params = make(2)
    optimizer = AdamO(params, lr=0.01, isometry=0.1, isometry_every=1)
    step(optimizer, params)
    assert set(optimizer.state[params[0]]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("every", [5, 20])
def test_amortised_follows_exact(every):
    """After whole periods both are where they would be: to the relative bias 4 c T that waiting costs."""
    ends = []
    for mode in (1, every):
        w = Parameter(torch.diag(torch.tensor([1.3, 0.8, 1.1], dtype=torch.float64)))
        optimizer = AdamO([w], lr=1e-2, isometry=0.1, isometry_every=mode)
        for _ in range(10 * every + 1):  # the first turn, of one step's strength, is at once
            w.grad = torch.zeros_like(w)
            optimizer.step()
        ends.append(w.detach() - torch.eye(3))
    torch.testing.assert_close(ends[1], ends[0], rtol=4 * 1e-3 * every, atol=1e-12)


def test_a_wait_from_a_low_learning_rate_ends_when_it_rises():
    w = Parameter(2 * torch.eye(3))
    optimizer = AdamO([w], lr=1e-6, isometry=1.0)
    for _ in range(3):  # the first step acts at once, then the wait is 100
        w.grad = torch.zeros_like(w)
        optimizer.step()
    before = w.detach().clone()
    optimizer.param_groups[0]["lr"] = 1e-2  # "auto" now acts in every step
    optimizer.step()
    assert not torch.equal(w, before)


def test_parameters_that_come_and_go_all_get_their_turns(monkeypatch):
    """Experts that get a gradient only when it is another one's turn must not wait for ever."""
    diary, params = Diary(monkeypatch), make(4)
    optimizer = AdamO(params, lr=0.01, isometry=0.1, isometry_every=4)
    present = [0, 0, 0, 0]
    for diary.now in range(400):
        for i, p in enumerate(params):
            there = diary.now % (1, 2, 4, 7)[i] == 0
            p.grad = torch.zeros_like(p) if there else None
            present[i] += there
        optimizer.step()
    for p, count, left in zip(params, present, owed(optimizer), strict=True):
        assert diary.total(p) + left == pytest.approx(count * 1e-3, rel=1e-12)
        # Never more than a few rounds of the steps in which it took part.
        assert left <= 16 * 1e-3


def test_a_parameter_put_in_anothers_place_is_seen():
    """Methods that grow or reset a network replace parameters inside the groups."""
    params = make(2)
    optimizer = AdamO(params, lr=0.1, isometry=0.5, isometry_every=2)
    for _ in range(3):
        step(optimizer, params)
    new = Parameter(3 * torch.eye(4))
    optimizer.param_groups[0]["params"][0] = new
    for _ in range(4):
        new.grad = torch.zeros_like(new)
        params[1].grad = torch.zeros_like(params[1])
        optimizer.step()
    assert float(new.detach()[0, 0]) < 2.9


def test_groups_that_change_places_keep_what_they_owe():
    params = make(4)
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = AdamO(groups, lr=0.01, isometry=0.1, isometry_every=30)
    for _ in range(10):
        step(optimizer, params)
    before = [optimizer.state_dict()["state"][i][OWED] for i in range(4)]
    optimizer.param_groups.reverse()
    step(optimizer, params)
    after = [optimizer.state_dict()["state"][i][OWED] for i in (2, 3, 0, 1)]
    assert after == [units + round(1e-3 / UNIT) for units in before]


def test_settings_may_change_between_steps():
    """Between amortised and exact, how a parameter is cut, how often: as lr may."""
    w = Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = AdamO([w], lr=0.1, isometry=0.1, isometry_every=4)
    changes: list[dict[str, Any]] = [
        {},
        {"isometry_split": 2},
        {"isometry_every": 1},
        {"isometry_every": "auto"},
    ]
    for change in [*changes, {"isometry_split": 1}, {"isometry_split": 2, "isometry_every": 2}]:
        optimizer.param_groups[0].update(change)
        for _ in range(30):
            w.grad = torch.zeros_like(w)
            optimizer.step()
    blocks = torch.linalg.svdvals(w.detach().view(2, 3, 4))
    assert (blocks - 1).abs().max() < 0.05


@pytest.mark.parametrize("attached", [False, True])
def test_asking_for_the_state_changes_no_bit(attached):
    ends = []
    for asks in (False, True):
        params = make(3)
        if attached:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(params, lr=0.03, weight_decay=0.0)
            attach(optimizer, isometry=0.05, every=5)
        else:
            optimizer = AdamO(params, lr=0.03, isometry=0.05, isometry_every=5)
        for t in range(17):
            step(optimizer, params)
            if asks and t % 3 == 0:
                optimizer.state_dict()
                copy.deepcopy(optimizer)
        ends.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


def test_copies_and_pickles_go_on_as_the_original():
    params = make(3)
    optimizer = AdamO(params, lr=0.03, isometry=0.05, isometry_every=7)
    for _ in range(10):
        step(optimizer, params)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        straight = copy.deepcopy(optimizer)
        straight.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares the tensors it loads
        ends = []
        for one in (straight, twin):
            held = one.param_groups[0]["params"]
            for _ in range(9):
                step(one, held)
            ends.append(held)
        assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))
        assert straight.state_dict()["state"][0][OWED] == twin.state_dict()["state"][0][OWED]


def test_the_state_of_a_fresh_optimizer_says_that_something_may_be_owed():
    """torch.distributed.checkpoint reads back only what the fresh optimizer's state has keys for."""
    params = make(2)
    optimizer = AdamO(params, lr=0.0, isometry=0.1, isometry_every=5)
    step(optimizer, params)  # what torch does to make the state: no gradient to speak of, and lr 0
    assert all(entry.keys() >= {OWED, WAIT} for entry in optimizer.state_dict()["state"].values())
    exact = AdamO(params, lr=0.0, isometry=0.1, isometry_every=1)
    step(exact, params)
    assert not any(OWED in entry for entry in exact.state_dict()["state"].values())


@pytest.mark.parametrize("every", [1, 3, "auto"])
@pytest.mark.parametrize("shape", [(12, 8), (2, 12, 8), (24, 8)])
def test_stacks_of_small_matrices_move_as_each_by_itself(every, shape, monkeypatch):
    """Equal shapes go through one batched product; beside one of another shape, split and batched ones."""
    ends = []
    for stacked in (True, False):
        source = torch.Generator().manual_seed(0)
        drawn = [torch.randn(s, generator=source) for s in (shape, shape, (5, 4), shape)]
        params = [Parameter(p) for p in drawn]
        layout = {"isometry_batch_dims": len(shape) - 2, "isometry_split": 2}
        groups = [
            {"params": [p for p in params if p.shape == shape], **layout},
            {"params": [params[2]]},
        ]
        if not stacked:
            monkeypatch.setattr(apply_module, "_STACKED_BELOW", {})
        optimizer = AdamO(groups, lr=0.05, isometry=0.1, isometry_every=every)
        for _ in range(12):
            step(optimizer, params)
        ends.append(params)
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
