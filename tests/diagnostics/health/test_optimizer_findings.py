"""What silently disables a remedy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoplast import AdamO, attach, param_groups
from isoplast.diagnostics.health._optimizer_findings import optimizer_findings
from isoplast.nn import build


def network():
    torch.manual_seed(0)
    return build("mlp", input_shape=(8,), classes=3, width=16, depth=2)


def found(model, optimizer, steps=None):
    return [(one.severity, one.what) for one in optimizer_findings(model, optimizer, steps)]


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
@pytest.mark.parametrize("make", [AdamO, torch.optim.AdamW], ids=["AdamO", "AdamW"])
def test_nothing_is_found_where_all_is_well(name, make):
    shape = (8,) if name == "mlp" else (3, 8, 8)
    model = build(name, input_shape=shape, classes=3)
    assert found(model, make(model.parameters(), lr=1e-3), steps=100_000) == []


def test_param_groups_and_attachments_are_well():
    model = network()
    assert found(model, AdamO(param_groups(model), lr=1e-3)) == []
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(sgd)
    assert found(model, sgd, steps=10_000) == []


def test_a_compiled_model_has_the_same_parameters():
    model = network()
    assert found(torch.compile(model), AdamO(model.parameters())) == []


def test_parameters_that_no_group_holds_are_named():
    model = network()
    optimizer = AdamO(model.parameters())
    model.extra = nn.Linear(4, 4)
    ((severity, what),) = found(model, optimizer)
    assert severity == "critical"
    assert what.startswith("2 trainable parameters (extra.weight, extra.bias) are in no group of AdamO")


def test_long_lists_of_missing_parameters_are_cut():
    model = network()
    ((_, what),) = found(model, torch.optim.SGD(model.head.parameters(), lr=0.1))
    assert what.startswith("4 trainable parameters (layers.0.weight, layers.0.bias, layers.1.weight, ...)")


def test_frozen_parameters_may_be_missing():
    model = network()
    model.layers.requires_grad_(False)
    assert found(model, torch.optim.SGD(model.head.parameters(), lr=0.1)) == []


def test_a_replaced_head_is_found_twice():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model.head = nn.Linear(16, 5)
    (missing, foreign) = found(model, optimizer)
    assert "head.weight, head.bias" in missing[1]
    assert foreign == ("warning", "Adam holds 2 parameters that are not in the model")


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_network_that_is_frozen_altogether(with_optimizer):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
    model.requires_grad_(False)
    assert found(model, optimizer) == [
        ("critical", "no parameter requires a gradient: nothing can be learned")
    ]


def test_a_time_constant_longer_than_the_run():
    model = network()
    optimizer = AdamO(model.parameters(), lr=1e-3, isometry=1e-3)  # 1 / (8 * 1e-3 * 1e-3) = 125 000 steps
    assert found(model, optimizer, steps=125_000) == []
    ((severity, what),) = found(model, optimizer, steps=10_000)
    assert severity == "warning"
    assert "10,000 steps are fewer than the isometry time constant of 125 000 steps" in what


def test_a_schedule_is_judged_by_its_highest_learning_rate():
    model = network()
    optimizer = AdamO(model.parameters(), lr=1e-2, isometry=1e-2)  # 1250 steps
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 1000))
    assert optimizer.param_groups[0]["lr"] == 0
    assert found(model, optimizer, steps=2000) == []
    other = AdamO(model.parameters(), lr=1e-2, isometry=1e-2)
    torch.optim.lr_scheduler.OneCycleLR(other, max_lr=1e-2, total_steps=1500, div_factor=1e6)
    assert found(model, other, steps=1500) == []


def test_a_learning_rate_of_zero_is_a_note():
    model = network()
    ((severity, what),) = found(model, torch.optim.SGD(model.parameters(), lr=0.0))
    assert severity == "note"
    assert what.startswith("a group of SGD has lr 0")


def test_isometry_settings_that_nothing_acts_on():
    model = network()
    optimizer = torch.optim.AdamW(param_groups(model, isometry=1e-2))
    ((severity, what),) = found(model, optimizer, steps=100)
    assert severity == "warning"
    assert "nothing in AdamW acts on them" in what
    attach(optimizer)
    assert found(model, optimizer) == []


def test_isometry_without_a_matrix():
    model = network()
    optimizer = AdamO(model.parameters())
    # What a wrapper that flattens the parameters leaves of them.
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    holder = nn.Module()
    holder.flat = flat
    optimizer.param_groups[0]["params"] = [flat]
    assert found(holder, optimizer) == [
        ("warning", "isometry is asked for, but no group that asks holds a matrix")
    ]
