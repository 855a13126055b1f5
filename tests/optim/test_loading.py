"""State dicts of optimizers with other groups: moments come to the parameter of their name, or it is said."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from isoplast import AdamO, attach, param_groups
from isoplast.optim._turns import OWED, UNIT


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(50, 16),
        nn.Linear(16, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.Linear(16, 4),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        source = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randint(0, 50, (8,), generator=source)).square().mean().backward()
        optimizer.step()


def twin_of(model: nn.Module) -> nn.Sequential:
    twin = net(1)
    twin.load_state_dict(model.state_dict())
    return twin


def assert_moments_came(old: nn.Module, saved: Any, new: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for (name, p), q in zip(old.named_parameters(), new.parameters(), strict=True):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(saved.state[p][key], optimizer.state[q][key]), (name, key)


def assert_same_course(old: nn.Module, one: Any, new: nn.Module, other: Any) -> None:
    """Without isometry both go on to the same bits: AdamW treats every parameter by itself."""
    for group in other.param_groups:
        group["isometry"] = 0.0
    train(old, one, range(10, 14))
    train(new, other, range(10, 14))
    assert all(torch.equal(p, q) for p, q in zip(old.parameters(), new.parameters(), strict=True))


def decayed_and_not(model: nn.Module) -> list[dict[str, Any]]:
    """The two groups of nanoGPT and many others."""
    named = list(model.named_parameters())
    return [
        {"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.004},
        {"params": [(n, p) for n, p in named if p.ndim == 1], "weight_decay": 0.0},
    ]


FORMS: dict[str, Any] = {
    "named": lambda m: torch.optim.AdamW(m.named_parameters(), lr=1e-2, weight_decay=0.003),
    "unnamed": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.003),
    "adam": lambda m: torch.optim.Adam(m.named_parameters(), lr=1e-2),
    "backwards": lambda m: torch.optim.AdamW(
        reversed(list(m.named_parameters())), lr=1e-2, weight_decay=0.003
    ),
    "its own groups": lambda m: torch.optim.AdamW(param_groups(m), lr=1e-2, weight_decay=0.003),
}


@pytest.mark.parametrize("made", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "to", [AdamO, lambda m: AdamO(param_groups(m, head=0.0)), lambda m: AdamO(param_groups(m))]
)
def test_into_the_groups_of_a_model(made, to):
    old = net()
    saved = made(old)
    train(old, saved, range(5))
    new = twin_of(old)
    optimizer = to(new)
    strengths = {n: g["isometry"] for g in optimizer.param_groups for n in g["param_names"]}
    names = [group["param_names"] for group in optimizer.param_groups]
    state = copy.deepcopy(saved.state_dict())
    optimizer.load_state_dict(state)  # a copy: torch shares the tensors that it loads
    assert str(saved.state_dict()) == str(state), "loading changed the state dict"
    assert_moments_came(old, saved, new, optimizer)
    assert [group["param_names"] for group in optimizer.param_groups] == names
    assert {n: g["isometry"] for g in optimizer.param_groups for n in g["param_names"]} == strengths
    for group in optimizer.param_groups:
        assert group["lr"] == 1e-2
        assert group["weight_decay"] == saved.param_groups[0]["weight_decay"]
    assert_same_course(old, saved, new, optimizer)


def test_from_adamo_of_a_model_into_plain_groups_and_back():
    old = net()
    saved = AdamO(old, lr=1e-2, isometry=0.3)
    train(old, saved, range(5))
    new = twin_of(old)
    plain = AdamO(new.named_parameters(), lr=1e-3, isometry=0.7)
    plain.load_state_dict(saved.state_dict())
    assert_moments_came(old, saved, new, plain)
    assert plain.param_groups[0]["lr"] == 1e-2
    assert plain.param_groups[0]["isometry"] == 0.7  # what is kept differs, so the settings stay
    third = twin_of(new)
    again = AdamO(third, lr=1e-2, isometry=0.3)
    again.load_state_dict(plain.state_dict())
    assert_moments_came(old, saved, third, again)


def test_saved_groups_that_differ():
    """Weights decayed, biases and norms not: where one of our groups holds both, its own setting stays."""
    old = net()
    saved = torch.optim.AdamW(decayed_and_not(old), lr=1e-2)
    train(old, saved, range(3))
    new = twin_of(old)
    optimizer = AdamO(new, weight_decay=0.001)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.load_state_dict(saved.state_dict())
    assert_moments_came(old, saved, new, optimizer)
    decay = {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}
    assert decay["1.weight"] == 0.004
    assert decay["1.bias"] == 0.0
    assert decay["0.weight"] == decay["2.weight"] == 0.001  # the embedding and the norm are one group here
    who = "the saved groups of 0.weight, 2.weight, 2.bias"
    found = [str(w.message) for w in caught]
    assert found == [f"{who} differ in weight_decay: the present weight_decay=0.001 stays"]


def test_what_is_missing_or_besides():
    old = net()
    saved = torch.optim.AdamW(old.named_parameters(), lr=1e-2)
    train(old, saved, range(3))
    wider = twin_of(old)
    wider[5] = nn.Linear(16, 9)
    with pytest.raises(ValueError, match=r"5\.weight has shape \(9, 16\), but its exp_avg .* \(4, 16\)"):
        AdamO(wider).load_state_dict(saved.state_dict())
    new = twin_of(old)
    new[5] = nn.Identity()
    new.append(nn.Linear(16, 9))
    optimizer = AdamO(new)
    before = copy.deepcopy(optimizer.state_dict())
    words = r"lacks 6\.weight, 6\.bias and has 5\.weight, 5\.bias besides.*strict=False"
    with pytest.raises(ValueError, match=words) as error:
        optimizer.load_state_dict(saved.state_dict())
    assert "\n" not in str(error.value)
    assert str(optimizer.state_dict()) == str(before)
    optimizer.load_state_dict(saved.state_dict(), strict=False)
    assert not optimizer.state[new[6].weight]
    assert torch.equal(optimizer.state[new[1].weight]["exp_avg"], saved.state[old[1].weight]["exp_avg"])
    train(new, optimizer, range(3, 5))


@pytest.mark.parametrize(
    ("made", "to", "words"),
    [
        ("unnamed", lambda m: AdamO(decayed_and_not(m)), "the state dict's parameters have no names"),
        (
            "named",
            lambda m: AdamO([{"params": [p]} for p in m.parameters() if p.ndim > 1], isometry=0.0),
            "this optimizer's parameters have no names",
        ),
    ],
)
def test_without_names_it_is_said_how(made, to, words):
    old = net()
    saved = FORMS[made](old)
    train(old, saved, range(2))
    optimizer = to(twin_of(old))
    with pytest.raises(ValueError, match=words) as error:
        optimizer.load_state_dict(saved.state_dict())
    assert "param_groups(model)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_nameless_state_of_another_model_is_found_out_by_its_shapes():
    other = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)), nn.Linear(3, 3, bias=False))
    assert len(list(other.parameters())) == len(list(net().parameters()))
    saved = torch.optim.AdamW(other.parameters())
    other(torch.randn(2, 3)).sum().backward()
    saved.step()
    with pytest.raises(ValueError, match="the state dict is another model's"):
        AdamO(net()).load_state_dict(saved.state_dict())


def test_equal_groups_are_taken_by_position_as_torch_does():
    """Renamed parameters (a prefix of DDP or of torch.compile) go where torch would put them."""
    old = net()
    saved = torch.optim.AdamW(((f"module.{n}", p) for n, p in old.named_parameters()), lr=1e-2)
    train(old, saved, range(3))
    new = twin_of(old)
    optimizer = AdamO(new.named_parameters())
    optimizer.load_state_dict(saved.state_dict())
    assert_moments_came(old, saved, new, optimizer)


@pytest.mark.parametrize("every", [1, 5])
def test_attached_optimizers_take_states_by_name_too(every):
    old = net()
    saved = torch.optim.AdamW(old.named_parameters(), lr=1e-2, weight_decay=0.0)
    train(old, saved, range(3))
    new = twin_of(old)
    optimizer = torch.optim.AdamW(param_groups(new), lr=1e-2, weight_decay=0.0)
    attachment = attach(optimizer, 0.4, every=every)
    kept = attachment.report().table()
    optimizer.load_state_dict(saved.state_dict())
    assert_moments_came(old, saved, new, optimizer)
    assert attachment.report().table() == kept


def test_what_is_owed_comes_along_by_name():
    old = net()
    saved = AdamO(old.named_parameters(), lr=1e-2, isometry=0.2, isometry_every=40)
    train(old, saved, range(17))
    owed = {
        name: entry.get(OWED)
        for name, entry in zip(
            dict(old.named_parameters()), saved.state_dict()["state"].values(), strict=True
        )
    }
    new = twin_of(old)
    optimizer = AdamO(new, lr=1e-2, isometry=0.2, isometry_every=40)
    optimizer.load_state_dict(saved.state_dict())
    train(new, optimizer, range(17, 18))
    for group, packed in zip(optimizer.param_groups, optimizer.state_dict()["param_groups"], strict=True):
        for name, index in zip(group["param_names"], packed["params"], strict=True):
            if group["isometry"] > 0 and name in ("1.weight", "4.weight", "5.weight"):
                now = optimizer.state_dict()["state"][index][OWED]
                assert now in (0, owed[name] + round(2e-3 / UNIT)), name


def test_old_checkpoints_with_their_debts_in_floating_point():
    """Before debts were counted in units, they were sums of floats, with a countdown per matrix."""
    model = net()
    optimizer = AdamO(model.named_parameters(), lr=1e-2, isometry=0.1, isometry_every=10)
    train(model, optimizer, range(3))
    saved = optimizer.state_dict()
    owed = {1: (0.25, 3), 5: (0.5, 2), 7: (0.125, 4)}
    saved["state"] = {i: {k: v for k, v in e.items() if k not in ("isometry_owed", "isometry_wait")} for i, e in saved["state"].items()}  # fmt: skip # noqa: E501
    for index, (debt, wait) in owed.items():
        saved["state"][index].update(isometry_owed=debt, isometry_wait=wait)
    other = AdamO(model.named_parameters(), lr=1e-2, isometry=0.1, isometry_every=10)
    other.load_state_dict(saved)
    train(model, other, range(3, 4))
    now = other.state_dict()["state"]
    assert {i: now[i][OWED] * UNIT for i in owed} == {
        i: pytest.approx(debt + 1e-3) for i, (debt, _) in owed.items()
    }
    assert {now[i]["isometry_wait"] for i in owed} == {1}  # the smallest of them, one step later
