"""Adam, AdamW and AdamO do what their sources say: strength 0 is the base method, and so on."""

from __future__ import annotations

import pytest
import torch
from contract_runs import network, started, train
from torch import nn

import isoplast
from isoplast import methods
from isoplast._core.errors import IsoplastError


def weights_after(name: str, **settings: object) -> dict[str, torch.Tensor]:
    run = started(name, **settings)
    model = run.model
    train(run, 25)
    return model.state_dict()


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_strength_zero_is_the_base_method_to_the_bit() -> None:
    adam = weights_after("adam")
    assert_equal(weights_after("adamw", weight_decay=0.0), adam)
    assert_equal(weights_after("adamo", isometry=0.0), adam)
    decayed = weights_after("adamw", weight_decay=0.1)
    assert_equal(weights_after("adamo", isometry=0.0, weight_decay=0.1), decayed)
    assert any(not torch.equal(decayed[key], adam[key]) for key in adam)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_defaults_are_torchs(name: str, kind: type[torch.optim.Optimizer]) -> None:
    ours = methods.get(name).optimizer(network(), 1e-2).defaults
    torchs = kind(network().parameters(), lr=1e-2, fused=True).defaults
    assert ours == torchs


def test_adamo_keeps_every_matrix_isometric_the_head_too() -> None:
    run = started("adamo", isometry=1.0, isometry_every=1)
    model = run.model
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    train(run, 300)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            values = torch.linalg.svdvals(parameter)
            # Adam pushes an entry by at most lr = 0.01 a step; isometry pulls at 8 lr lambda = 0.08 a step.
            assert values.min() > 0.5, name
            assert values.max() < 1.5, name


def test_adamo_takes_a_strength_or_a_time() -> None:
    default = isoplast.AdamO(network().parameters()).param_groups[0]["isometry"]
    assert methods.get("adamo").isometry == default
    by_time = methods.get("adamo", isometry_time=1000)
    assert by_time.isometry is None
    optimizer = by_time.optimizer(network(), 1e-2)
    assert optimizer.param_groups[0]["isometry"] == pytest.approx(1 / (8 * 1e-2 * 1000))
    with pytest.raises(
        IsoplastError, match=r"isometry=0.1 and isometry_time=10.0: they set the same strength"
    ):
        methods.get("adamo", isometry=0.1, isometry_time=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"isometry": -1}, "isometry of method adamo is -1.0: it must not be negative"),
        ({"isometry_time": 0}, "isometry_time of method adamo is 0.0: it must be positive"),
        ({"isometry_every": 0}, "isometry_every of method adamo is 0: it must be at least 1"),
        (
            {"isometry_every": "often"},
            "isometry_every of method adamo is 'often': it must be a whole number or 'auto'",
        ),
        ({"isometry_every": 2.5}, "isometry_every of method adamo is 2.5"),
        ({"weight_decay": -1}, "weight_decay of method adamo is -1.0"),
        ({"isometry": float("inf")}, "isometry of method adamo is inf"),
    ],
)
def test_adamo_refuses_what_is_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        methods.get("adamo", **settings)


def test_adamo_says_what_it_keeps_and_whether_the_run_is_long_enough() -> None:
    method = methods.get("adamo", isometry=1e-2)
    optimizer = method.optimizer(network(), 1e-2)
    assert method.report(optimizer, 100_000) == [str(optimizer.report())]
    (_, warning) = method.report(optimizer, 1249)  # the time constant is 1 / (8 x 0.01 x 0.01) = 1250 steps
    assert warning.startswith("warning: 1,249 steps are fewer than the isometry time constant of 1 250 steps")
    assert len(method.report(optimizer, 1250)) == 1
    assert len(methods.get("adamo", isometry=0.0).report(optimizer, 1)) == 1
