"""Settings: Adam's order, numpy's numbers, and what weight decay does to the target."""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import Parameter

from isoplast import AdamO, attach, param_groups
from isoplast._core.errors import IsoplastError
from isoplast.isometry import singular_values
from isoplast.optim import muon_with_adam
from isoplast.optim._numbers import blocks


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6))


def sgd(model: nn.Module | None = None, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD((model or net()).parameters(), **{"lr": 0.1, **settings})


def attached(**settings: Any) -> torch.optim.Optimizer:
    optimizer = sgd()
    attach(optimizer, **settings)
    return optimizer


def backward(model: nn.Module) -> None:
    model(torch.randn(5, 8, generator=torch.Generator().manual_seed(0))).square().mean().backward()


# Adam's order -------------------------------------------------------------------------------------------


def test_positional_arguments_are_adams():
    ours, theirs = inspect.signature(AdamO), inspect.signature(torch.optim.AdamW)
    of_torch = [name for name, p in theirs.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [name for name, p in ours.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == of_torch
    values = (1e-2, (0.8, 0.99), 1e-6, 1e-3, True)
    group = AdamO(net().parameters(), *values).param_groups[0]
    assert tuple(group[name] for name in of_torch[1:]) == values
    assert group["isometry"] == 1e-2
    with pytest.raises(TypeError, match="positional"):
        AdamO(net().parameters(), *values, 0.1)  # type: ignore[misc]


# numpy's numbers ----------------------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "0-d array": lambda value: np.array(value),
    "0-d array of float32": lambda value: np.array(value, dtype=np.float32),
    "0-d tensor": lambda value: torch.tensor(value, dtype=torch.float64),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

MAKERS: dict[str, Any] = {
    "isometry": lambda n: AdamO(net().parameters(), isometry=n(0.25)),
    "isometry_time": lambda n: AdamO(net().parameters(), isometry_time=n(512.0)),
    "bias_decay": lambda n: AdamO(net().parameters(), bias_decay=n(0.25)),
    "of a module": lambda n: AdamO(net(), isometry=n(0.25)),
    "of a group": lambda n: AdamO(
        [{"params": net().parameters(), "isometry": n(0.25), "bias_decay": n(0.5)}]
    ),
    "time of a group": lambda n: AdamO([{"params": net().parameters(), "isometry_time": n(512.0)}]),
    "attach": lambda n: attached(isometry=n(0.25)),
    "attach, time": lambda n: attached(isometry_time=n(512.0)),
    "param_groups": lambda n: AdamO(param_groups(net(), isometry=n(0.25), head=n(0.5))),
    "param_groups, time": lambda n: AdamO(param_groups(net(), isometry_time=n(512.0))),
}


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_plain(value: Any) -> None:
    if isinstance(value, tuple | list):
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in (float, int, bool, str, type(None)), repr(value)


@every_kind
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_strengths_of_any_kind_of_number(make, kind):
    optimizer, plain = make(kind), make(float)  # 0.25, 0.5 and 512 are exact in all of them
    for group, expected in zip(optimizer.param_groups, plain.param_groups, strict=True):
        for key in expected.keys() - {"params"}:
            assert group[key] == expected[key]
            assert_plain(group[key])
    through_a_file(optimizer.state_dict())


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.array])
def test_adams_own_settings_of_any_kind_of_number(kind):
    def make(n: Any) -> AdamO:
        model = net()
        groups = [{"params": model[0].parameters(), "lr": n(0.5)}, {"params": model[2].parameters()}]
        betas = (n(0.5), n(0.75))
        return AdamO(groups, n(0.25), betas, n(0.125), n(0.0625), isometry=8.0)

    optimizer, plain = make(kind), make(float)
    saved = through_a_file(optimizer.state_dict())
    for group, expected in zip(saved["param_groups"], plain.state_dict()["param_groups"], strict=True):
        assert group == expected
        for value in group.values():
            assert_plain(value)


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8, np.array])
def test_whole_numbers_of_any_kind(whole):
    for optimizer in (AdamO(net(), isometry_every=whole(3)), attached(every=whole(3))):
        assert optimizer.param_groups[0]["isometry_every"] == 3
        assert_plain(optimizer.param_groups[0]["isometry_every"])
    group = {
        "params": [Parameter(torch.randn(2, 12, 4))],
        "isometry_batch_dims": whole(1),
        "isometry_split": whole(3),
    }
    optimizer = AdamO([group])
    assert optimizer.report().matrices == 6
    for rows in (np.array([6, 4, 2]), [6, np.int64(4), 2], (6, 4, 2)):
        optimizer = AdamO([{**group, "isometry_split": rows}])
        assert optimizer.param_groups[0]["isometry_split"] == (6, 4, 2)
        through_a_file(optimizer.state_dict())
    model = nn.ModuleDict({"experts": nn.ParameterDict({"w": Parameter(torch.randn(3, 8, 4))})})
    groups = param_groups(model, batch_dims={"*.w": whole(1)}, split={"*.w": whole(2)})
    assert AdamO(groups).report().matrices == 6
    through_a_file(AdamO(groups).state_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"isometry": "0.1"}, "isometry must be a number, not '0.1'"),
        ({"isometry": [0.1]}, r"isometry must be a number, not \[0.1\]"),
        ({"isometry": np.array([0.1, 0.2])}, "isometry must be a number"),
        ({"isometry": 1j}, "isometry must be a number"),
        ({"isometry_time": "10"}, "isometry_time must be a number, not '10'"),
        ({"bias_decay": None}, "bias_decay must be a number, not None"),
    ],
)
def test_what_is_no_number_is_a_type_error(settings, words):
    with pytest.raises(TypeError, match=words):
        AdamO(net(), **settings)


@pytest.mark.parametrize("every", [np.float64(2.0), np.bool_(True), np.array([2]), "3", None])
def test_what_is_no_whole_number_of_steps_is_refused(every):
    with pytest.raises(ValueError, match="Invalid isometry_every value"):
        AdamO(net(), isometry_every=every)


def test_a_group_that_is_refused_for_its_type_changes_nothing():
    optimizer = AdamO(net().parameters())
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(TypeError, match="must be a number"):
        optimizer.add_param_group({"params": [Parameter(torch.eye(3))], "isometry": "much"})
    assert optimizer.state_dict() == before
    with pytest.raises(ValueError, match="Invalid isometry_split value: rows"):
        optimizer.add_param_group({"params": [Parameter(torch.eye(3))], "isometry_split": "rows"})
    with pytest.raises(ValueError, match="Invalid isometry_batch_dims value: -1"):
        optimizer.add_param_group({"params": [Parameter(torch.eye(3))], "isometry_batch_dims": -1})
    assert optimizer.state_dict() == before


@pytest.mark.parametrize(
    "make",
    [
        AdamO,
        pytest.param(
            lambda m: muon_with_adam(m, np.float64(1e-3)),
            marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9"),
        ),
        "attached",
    ],
)
def test_numbers_that_a_scheduler_puts_into_the_groups(make):
    """A scheduler of numpy's sets lr, a sweep sets the strength, in the middle of a run."""
    model = net()
    if make == "attached":
        optimizer = sgd(model, momentum=0.9)
        attach(optimizer)
    else:
        optimizer = make(model)
    for lr in np.linspace(1e-2, 1e-3, 3):
        optimizer.param_groups[0]["lr"] = lr
        if "isometry" in optimizer.param_groups[0]:
            optimizer.param_groups[0]["isometry"] = np.float32(0.5)
        backward(model)
        optimizer.step()
    saved = through_a_file(optimizer.state_dict())
    for group in saved["param_groups"]:
        assert_plain([value for key, value in group.items() if key != "params"])
    assert isinstance(optimizer.param_groups[0]["lr"], np.float64), "asking for the state changed a setting"


def test_tensor_learning_rates_stay_tensors():
    rate = torch.tensor(1e-2)
    assert AdamO(net(), lr=rate).param_groups[0]["lr"] is rate


def test_numpy_settings_of_param_groups_are_checked_as_others():
    with pytest.raises(IsoplastError, match=r"Invalid isometry value: -0\.5"):
        param_groups(net(), isometry=np.float32(-0.5))


# what weight decay does to the target -------------------------------------------------------------------


def test_the_target_that_is_reported_is_where_the_singular_values_go():
    """sigma^2 = 1 - wd / (4 lambda), for AdamO, and for SGD with what momentum makes of its decay."""
    w = Parameter(1.3 * torch.eye(3, dtype=torch.float64))
    makers: list[tuple[Any, torch.optim.Optimizer]] = []
    for momentum, dampening in ((0.0, 0.0), (0.9, 0.0), (0.9, 0.5)):
        v = Parameter(w.detach().clone())
        base = torch.optim.SGD([v], lr=0.02, momentum=momentum, dampening=dampening, weight_decay=0.02)
        makers.append((attach(base, 0.5, every=1), base))
    makers.append((adamo := AdamO([w], lr=0.02, isometry=0.5, isometry_every=1, weight_decay=0.4), adamo))
    targets = []
    for reporting, optimizer in makers:
        p = optimizer.param_groups[0]["params"][0]
        for _ in range(1500):  # the time constant is 12.5 steps
            p.grad = torch.zeros_like(p)
            optimizer.step()
        report = reporting.report()
        low, high = report.targets
        assert low == high == report.kept[0].target
        # Exact to first order in lr: both pulls are taken at weights that differ by one step.
        reached = singular_values(p.detach()).square()
        torch.testing.assert_close(reached, torch.full_like(reached, low), rtol=0, atol=2e-3)
        assert f"target sigma^2 = {low:.3g} (weight decay)" in str(report)
        assert "sigma^2" in report.table().splitlines()[0]
        targets.append(low)
    assert targets == pytest.approx([0.99, 0.9, 0.95, 0.8])


def test_nothing_is_said_of_a_target_of_one():
    for report in (AdamO(net()).report(), attach(sgd()).report()):
        assert "target" not in str(report)
        assert "sigma^2" not in report.table()
        assert report.targets == (1.0, 1.0)


def test_no_target_is_given_for_coupled_decay_of_adaptive_optimizers():
    optimizer = torch.optim.Adam(net().parameters(), weight_decay=0.1)
    assert attach(optimizer).report().targets == (1.0, 1.0)
    assert attach(torch.optim.AdamW(net().parameters(), weight_decay=0.004)).report().targets == (0.9, 0.9)


def told(make: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("decay", "isometry", "times"),
    [(0.0, 1e-2, 0), (0.02, 1e-2, 0), (0.021, 1e-2, 1), (0.1, 1e-2, 1), (0.1, 1.0, 0), (0.1, 0.0, 0)],
)
def test_a_target_below_one_half_is_told_once(decay, isometry, times):
    def make() -> None:
        optimizer = AdamO(net(), weight_decay=decay, isometry=isometry)
        optimizer.report()
        optimizer.step()

    found = told(make)
    assert len(found) == times
    if times:
        target = 1 - decay / (4 * isometry)
        assert f"= {target:.3g} (0.weight, isometry {isometry:g})" in found[0]
        assert "\n" not in found[0]


@pytest.mark.parametrize("module", [False, True])
def test_the_weight_decay_of_an_adamw_checkpoint_is_told_of_when_it_is_loaded(module):
    model = net()
    adamw = torch.optim.AdamW(model.named_parameters(), weight_decay=0.1)
    backward(model)
    adamw.step()
    adamo = AdamO(model if module else model.named_parameters())
    found = told(lambda: adamo.load_state_dict(adamw.state_dict()))
    assert len(found) == 1
    assert "= -1.5 (0.weight" in found[0]
    optimizer = torch.optim.AdamW(model.named_parameters(), weight_decay=0.0)
    attach(optimizer)
    assert len(told(lambda: optimizer.load_state_dict(adamw.state_dict()))) == 1


def test_groups_without_isometry_may_decay_as_they_like():
    model = net()
    groups = param_groups(model)
    for group in groups:
        group["weight_decay"] = 0.5 if group.get("isometry") == 0 else 0.0
    assert told(lambda: AdamO(groups)) == []


def test_the_state_of_adam_decays_decoupled_in_adamo():
    """Adam's groups say decoupled_weight_decay=False; AdamO's decay is decoupled whatever it loads."""
    model = net()
    adam = torch.optim.Adam(model.parameters(), weight_decay=1e-3)
    backward(model)
    adam.step()
    adamo = AdamO(model.parameters(), isometry=0.05)
    adamo.load_state_dict(adam.state_dict())
    assert adamo.param_groups[0].get("decoupled_weight_decay", True)
    assert adamo.report().targets[0] == pytest.approx(1 - 1e-3 / 0.2)


# the guard ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "isometry", "words"),
    [(100.0, 0.1, "from a singular value of 7.14 on"), (1.0, 3.0, "for any matrix")],
)
@pytest.mark.parametrize("attach_it", [False, True])
def test_an_unstable_strength_is_told_once(sigma, isometry, words, attach_it):
    params = [Parameter(sigma * torch.eye(size)) for size in (3, 3, 5, 4)]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(params, lr=0.1)
    if attach_it:
        attach(optimizer, isometry, every=1)
    else:
        optimizer = AdamO(params, lr=0.1, isometry=isometry, isometry_every=1)

    def train() -> None:
        for _ in range(5):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()

    found = told(train)
    assert len(found) == 1, found
    assert words in found[0]
    assert told(train) == []
    assert all(p.isfinite().all() for p in params)


def test_the_stable_modes_are_silent():
    def train(**settings: Any) -> None:
        w = Parameter(settings.pop("scale") * torch.eye(40))
        optimizer = AdamO([w], lr=0.1, **settings)
        for _ in range(5):
            w.grad = torch.zeros_like(w)
            optimizer.step()

    assert told(lambda: train(scale=100.0, isometry=10.0)) == []
    assert told(lambda: train(scale=1.5, isometry=0.1, isometry_every=1)) == []


@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_weights_of_any_size_stay_finite(every):
    """Squares of singular values from 1.8e19 on are infinite in float32: the step was NaN everywhere."""
    params = [Parameter(size * torch.eye(40)[:, :30]) for size in (1e18, 1e20, 1e25, 1e37)]
    optimizer = AdamO(params, lr=1e-2, isometry=1.0, isometry_every=every)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(8):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
    for p, size in zip(params, (1e18, 1e20, 1e25, 1e37), strict=True):
        assert p.isfinite().all()
        assert 0 < float(p.detach()[0, 0]) < size


@pytest.mark.parametrize("split", [2, -3, (1, 2), (-2, -4), [np.int64(1), np.int64(2)]])
def test_a_split_counts_rows_or_all_columns(split: Any) -> None:
    kept = blocks(split)
    assert kept == (split if isinstance(split, int) else tuple(split))
    assert all(type(count) is int for count in (kept if isinstance(kept, tuple) else (kept,)))


@pytest.mark.parametrize("split", [0, 2.0, True, "3", (), (1, 0), (1, -2), (1, 2.0), None])
def test_a_split_of_neither_is_refused(split: Any) -> None:
    with pytest.raises(ValueError, match="isometry_split"):
        blocks(split)
