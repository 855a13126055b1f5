"""Wrong settings are refused at once, with the value and the remedy, and change nothing. And the report."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from isoplast import AdamO


def matrix() -> Parameter:
    return Parameter(torch.eye(3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"lr": math.nan}, "Invalid learning rate: nan"),
        ({"lr": math.inf}, "Invalid learning rate: inf"),
        ({"lr": torch.tensor(math.inf)}, "Invalid learning rate: inf"),
        ({"lr": torch.tensor([0.1, 0.1])}, "Tensor lr must be 1-element"),
        ({"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ({"eps": math.nan}, "Invalid epsilon value: nan"),
        ({"eps": math.inf}, "Invalid epsilon value: inf"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (-0.1, 0.9)}, "Invalid beta parameter at index 0: -0.1"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ({"betas": (0.9, math.nan)}, "Invalid beta parameter at index 1: nan"),
        ({"betas": (math.inf, 0.9)}, "Invalid beta parameter at index 0: inf"),
        ({"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
        ({"weight_decay": math.inf}, "Invalid weight_decay value: inf"),
        ({"isometry": -1e-3}, "Invalid isometry value: -0.001"),
        ({"isometry": math.nan}, "Invalid isometry value: nan"),
        ({"isometry": math.inf}, "Invalid isometry value: inf"),
        ({"isometry_time": 0.0}, "Invalid isometry_time value: 0.0"),
        ({"isometry_time": -3}, "Invalid isometry_time value: -3"),
        ({"isometry_time": math.inf}, "Invalid isometry_time value: inf"),
        ({"isometry_time": math.nan}, "Invalid isometry_time value: nan"),
        ({"isometry_time": 10, "lr": 0.0}, "which is no finite number"),
        ({"isometry": 1e-3, "isometry_time": 10}, "isometry=0.001 and isometry_time=10 exclude each other"),
        ({"isometry": 1e-2, "isometry_time": 10}, "isometry=0.01 and isometry_time=10 exclude each other"),
        ({"isometry": 0.0, "isometry_time": 10}, "exclude each other"),
        ({"isometry_every": 0}, "Invalid isometry_every value: 0"),
        ({"isometry_every": -2}, "Invalid isometry_every value: -2"),
        ({"isometry_every": 2.5}, "Invalid isometry_every value: 2.5"),
        ({"isometry_every": True}, "Invalid isometry_every value: True"),
        ({"isometry_every": "often"}, "Invalid isometry_every value: often"),
        ({"isometry_every": 5, "capturable": True}, "isometry_every=5 with capturable=True"),
        ({"bias_decay": -1.0}, "Invalid bias_decay value: -1.0"),
        ({"bias_decay": math.inf}, "Invalid bias_decay value: inf"),
    ],
)
def test_values_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        AdamO([matrix()], **settings)
    assert "\n" not in str(caught.value)


def test_unknown_arguments_are_type_errors():
    with pytest.raises(TypeError, match="isometri"):
        AdamO([matrix()], isometri=0.1)


def test_the_default_is_used_where_none_or_nothing_is_said():
    for settings in ({}, {"isometry": None}):
        assert AdamO([matrix()], **settings).param_groups[0]["isometry"] == 1e-2
    assert AdamO([matrix()], isometry=None, isometry_time=125, lr=1e-2).param_groups[0]["isometry"] == 0.1


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"isometry": -1.0}, "Invalid isometry value: -1.0"),
        ({"isometry": 0.1, "isometry_time": 10}, "exclude each other"),
        ({"isometry_time": 0}, "Invalid isometry_time value: 0"),
        ({"isometry_every": 0}, "Invalid isometry_every value: 0"),
        ({"isometry_split": 2}, "3 rows cannot be split into 2 equal blocks"),
        ({"isometry_split": (2, 2)}, r"split=\(2, 2\) must be positive row counts that add up to 3"),
        ({"params": [Parameter(torch.ones(3))], "isometry": 0.1}, r"no matrix, only parameter 0 \(3,\)"),
        ({"params": [("scale", Parameter(torch.ones(3)))], "isometry": 0.1}, "param group with names"),
    ],
)  # fmt: skip
def test_add_param_group_refuses_and_leaves_the_optimizer_as_it_was(group, words):
    optimizer = AdamO([matrix()])
    before, groups = copy.deepcopy(optimizer.state_dict()), list(optimizer.param_groups)
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": [matrix()], **group})
    assert optimizer.state_dict() == before
    assert optimizer.param_groups == groups
    optimizer.add_param_group({"params": [matrix()]})
    assert len(optimizer.param_groups) == 2


def test_isometry_of_vectors_alone_is_refused_with_their_names():
    norm = nn.LayerNorm(4)
    with pytest.raises(ValueError, match=r"no matrix, only weight \(4,\), bias \(4,\)\. Set isometry=0"):
        AdamO(norm.named_parameters())
    with pytest.raises(ValueError, match=r"parameter 4 \(4,\) and 3 more"):
        AdamO([Parameter(torch.ones(4)) for _ in range(8)])
    with pytest.raises(ValueError, match="fully_shard"):
        AdamO([Parameter(torch.ones(64))], isometry=0.1)  # what a flattening wrapper leaves
    AdamO(norm.parameters(), isometry=0)


def test_vectors_beside_matrices_need_no_setting_of_their_own():
    groups = [{"params": [matrix()]}, {"params": [Parameter(torch.ones(3))], "weight_decay": 0.0}]
    assert AdamO(groups).report().matrices == 1


@pytest.mark.parametrize("settings", [{}, {"isometry_time": 100}, {"isometry": 0.3}])
def test_group_dictionaries_can_be_used_again(settings):
    """torch completes the dictionaries it is given; a second optimizer must take them as they are then."""
    groups: list[dict[str, Any]] = [{"params": [matrix()]}, {"params": [Parameter(torch.ones(3))]}]
    first = AdamO(groups, **settings)
    second = AdamO(groups, **settings)
    assert str(second.report()) == str(first.report())


def test_a_groups_own_time_or_strength_comes_before_the_default():
    optimizer = AdamO(
        [
            {"params": [matrix()], "isometry_time": 10},
            {"params": [matrix()], "isometry": 0.5},
            {"params": [matrix()], "lr": 0.1},
            {"params": [matrix()], "isometry": 0.0},
        ],
        lr=1e-2,
        isometry_time=100,
    )
    strengths = [group["isometry"] for group in optimizer.param_groups]
    assert strengths == pytest.approx([1.25, 0.5, 1 / (8 * 0.1 * 100), 0.0])


def test_report_counts():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = AdamO(model.named_parameters(), lr=1e-3, isometry=1e-2)
    found = optimizer.report()
    assert str(found) == "2 matrices, 9.47 k of 9.61 k parameters under isometry, time constant 12 500 steps"
    assert (found.matrices, found.parameters_kept, found.parameters) == (2, 9472, 9610)
    assert [k.name for k in found.kept] == ["0.weight", "2.weight"]
    lines = found.table().splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["0.weight", "128x64", "1", "0.01", "12", "500"]
    assert str(found) in repr(optimizer)


def test_report_of_unnamed_and_split_and_varying_groups():
    fused = Parameter(torch.ones(12, 4))
    optimizer = AdamO(
        [{"params": [fused], "isometry_split": 3, "isometry": 0.1}, {"params": [matrix()]}],
        lr=1e-2,
        isometry=0.05,
    )
    found = optimizer.report()
    assert found.matrices == 4
    assert found.kept[0].name == "group 0, parameter 0"
    assert found.time_constants == pytest.approx((125, 250))
    assert "time constant 125 to 250 steps" in str(found)
    optimizer.param_groups[1]["lr"] = 0.0
    assert "infinitely many" in str(optimizer.report())
    assert str(AdamO([matrix()], isometry=0).report()) == "nothing is kept isometric"
    assert str(AdamO([matrix()], lr=1e-2).report()).startswith("1 matrix, 9 of 9 parameters")


def test_report_warns_of_runs_that_are_too_short():
    found = AdamO([matrix()], lr=1e-3, isometry=1e-2).report()
    assert found.warning(12_500) is None
    assert "100 steps are fewer than the isometry time constant of 12 500 steps" in (found.warning(100) or "")


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf])
def test_a_groups_own_learning_rate_is_checked_too(lr):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        AdamO([{"params": [matrix()], "lr": lr}])


def test_a_time_so_short_that_the_strength_overflows_is_refused():
    with pytest.raises(ValueError, match="which is no finite number"):
        AdamO([matrix()], lr=1e-200, isometry_time=1e-200)


def test_a_report_without_a_learning_rate_says_so_once():
    # Every LambdaLR warm-up starts here.
    assert str(AdamO([matrix()], lr=0.0).report()).endswith("time constant infinitely many steps")


@pytest.mark.filterwarnings("ignore:weight decay moves the target")
def test_decay_is_decoupled_and_says_so():
    optimizer = AdamO([matrix()], weight_decay=0.1)
    assert optimizer.param_groups[0].get("decoupled_weight_decay", True)
