"""What every method must keep to, on every kind of network: the contract that `isoplast.testing` offers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contract_runs import built, busy, example, parts, started, train, values
from torch import Tensor

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Method, TaskMethod
from isoplast.testing import NETWORKS, _life
from isoplast.testing._methods import (
    check_metadata,
    check_settings,
    check_strength_zero,
    check_training,
    refusal,
)

ALL = {**NETWORKS, **{f"{net} of build": built(net) for net in ("resnet18", "vit")}}
COMBINATIONS = ["adamo+layernorm", "redo+l2init"]
LR = 1e-2
# Where a method has nothing to do: behind BatchNorm, and a GELU, every unit fires in every batch for so few
# steps, and these networks normalise already.
IDLE = {
    ("snr", "resnet18 of build"),
    ("snr", "vit of build"),
    ("batchnorm", "resnet18 of build"),
    ("batchnorm", "cnn"),
    ("layernorm", "vit of build"),
    ("layernorm", "gpt"),
}
# Networks that a method cannot take, and what it says then.
REFUSED: dict[tuple[str, str], str] = {
    (
        "batchnorm",
        "vit of build",
    ): "normalises over samples, and blocks.0.attention works on tokens: use layernorm",
    ("batchnorm", "gpt"): "normalises over samples, and tokens works on tokens: use layernorm",
    ("batchnorm", "tied"): "normalises over samples, and table works on tokens: use layernorm",
    ("crelu", "resnet18 of build"): "build the network with activation='crelu'",
    ("fourier", "resnet18 of build"): "build the network with activation='fourier'",
    ("crelu", "shared"): "build the network with activation='crelu'",
    ("fourier", "shared"): "build the network with activation='fourier'",
}
everyone = pytest.mark.parametrize("name", methods.names())
everywhere = pytest.mark.parametrize("net", ALL)


@pytest.fixture(scope="module", autouse=True)
def without_onednn() -> Iterator[None]:
    """oneDNN prepares every convolution: 8 ms for a step of the tiny ResNet, 4 ms without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own default
        flags = torch.backends.mkldnn.flags(enabled=False)
        flags.__enter__()
        yield
        flags.__exit__(None, None, None)


def lively(name: str) -> Method:
    """A method in the company it needs, with settings with which it acts within a few steps."""
    together = example(name)
    return methods.get(together, **busy(together))


@functools.cache
def adams_end(net: str, steps: int) -> dict[str, Tensor]:
    """Where Adam alone ends."""
    life = _life.start(methods.get("adam"), ALL[net], LR)
    _life.advance(life, ALL[net], steps)
    return _life.values(life.model)


@everywhere
@pytest.mark.parametrize("name", [*methods.names(), *COMBINATIONS])
def test_a_method_keeps_its_contract(name: str, net: str) -> None:
    network = ALL[net]
    method = methods.get(name, **busy(name)) if "+" in name else lively(name)
    reason = refusal(method, network, LR)
    if (name, net) in REFUSED:
        assert REFUSED[name, net] in str(reason)
        return
    assert reason is None
    life = check_training(method, network, lr=LR)
    if name != "adam" and (name, net) not in IDLE:
        assert _life.different(_life.values(life.model), adams_end(net, life.steps)), "it did nothing"


@everyone
def test_a_method_stays_finite_for_two_hundred_steps(name: str) -> None:
    life = started(example(name), **busy(example(name)))
    losses = train(life, 200)
    assert torch.stack(losses).isfinite().all()
    assert [key for key, value in values(life.model).items() if not value.isfinite().all()] == []


@everywhere
@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).info.strength])
def test_at_strength_zero_it_is_the_base_method_to_the_bit(name: str, net: str) -> None:
    check_strength_zero(methods.get(name), ALL[net], lr=LR, steps=10)


@everyone
def test_metadata_and_settings(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    check_metadata(method)
    check_settings(method)
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|\b(19|20)\d\d\b", method.info.source), (
        "a number or a full reference"
    )
    assert name in example(name).split("+")
    for settings in (dict(method.settings()), busy(name)):
        one, other = methods.get(name, **settings), methods.get(name, **settings)
        assert one == other == pickle.loads(pickle.dumps(one))
        assert methods.get(name, **dict(one.settings())) == one


@everyone
def test_what_metadata_says_is_not_said_again(name: str) -> None:
    """Cost, what it controls and whether it needs boundaries are shown with the documentation."""
    document = " ".join((type(methods.get(name)).__doc__ or "").split())
    assert not re.search(r"\btold of\b|\bCosts\b|\bControls\b|\btask boundaries\b", document)


@everyone
def test_settings_are_checked_by_name_type_and_range(name: str) -> None:
    method = methods.get(name)
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    unknown = rf"unknown setting of method {name} 'nonsense': .*Known: "
    if not fields:
        unknown = f"method {name} has no settings: leave 'nonsense' out"
    with pytest.raises(IsoplastError, match=unknown):
        methods.get(name, nonsense=1.0)
    for field, value in fields.items():
        with pytest.raises(
            IsoplastError, match=rf"unknown setting of method {name} '{field}s?_': did you mean '{field}'\?"
        ):
            methods.get(name, **{f"{field}_": value})
        with pytest.raises(IsoplastError, match=rf"^{field} of method {name} is \[\[\]\]: it must be "):
            methods.get(name, **{field: [[]]})
        if type(value) in (int, float):
            for wrong in (float("nan"), float("inf"), type(value)(-(10**9))):
                said = f"{field} of method {name} is {wrong}: it must "
                with pytest.raises(IsoplastError, match=re.escape(said)) as error:
                    methods.get(name, **{field: wrong})
                assert "\n" not in str(error.value)
            if type(value) is float and value.is_integer():
                whole = methods.get(name, **{field: int(value)})
                assert whole == method, "1 and 1.0 are the same setting"


@everyone
def test_methods_that_need_task_boundaries_act_between_tasks_alone(name: str) -> None:
    """A new task before the first step changes nothing; after one it does."""
    method = lively(name)
    if not method.info.needs_task_boundaries:
        assert not isinstance(method, TaskMethod)
        return
    network = ALL["mlp"]
    life = _life.start(method, network, LR)
    before = _life.values(life.model)
    life.new_task()
    assert _life.different(_life.values(life.model), before) == []
    _life.advance(life, network, 3, tasks=False)
    trained, moments = _life.values(life.model), copy.deepcopy(life.optimizer.state_dict()["state"])
    batch = network.inputs(torch.Generator().manual_seed(0))
    life.new_task(batch, lambda: _life.distance(life.model(batch), 0))
    changed = _life.different(_life.values(life.model), trained)
    after = life.optimizer.state_dict()["state"]
    assert changed or after.keys() != moments.keys() or str(after) != str(moments)


class Secret:
    """A task that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a method that needs no task boundaries read task.{name}")


def test_a_combination_passes_tasks_to_the_parts_that_need_them() -> None:
    together = methods.get("full-reset+orthogonal-init")
    assert together.info.needs_task_boundaries
    seen: list[str] = []
    for part in parts(together):
        object.__setattr__(part, "on_task", lambda task, part=part: seen.append(part.name))
    together.on_task(Secret())  # type: ignore[arg-type]
    assert seen == ["full-reset"]


def test_names_are_sorted() -> None:
    assert methods.names() == sorted(methods.names())


def test_a_combination_takes_the_settings_of_its_parts() -> None:
    together = methods.get("adamo+parseval", strength=0.5, **{"adamo.isometry": 0.25})
    adamo, parseval = parts(together)
    assert (adamo.isometry, parseval.strength) == (0.25, 0.5)  # type: ignore[attr-defined]
    assert methods.get(together.name, **dict(together.settings())) == together
    assert hash(methods.get(together.name, **dict(together.settings()))) == hash(together)
    with pytest.raises(IsoplastError, match=r"strength of method .* write parseval.strength or spectral-reg"):
        methods.get("parseval+spectral-regularization", strength=1)
    with pytest.raises(
        IsoplastError, match=r"unknown setting of method adamo\+fire 'isometri': did you mean"
    ):
        methods.get("adamo+fire", isometri=1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("adamo+muon", "adamo and muon cannot be combined: both bring an optimizer of their own"),
        ("spectral-norm+newton-schulz", "both compute the weights from other parameters"),
        ("adamo+adamo", "names adamo twice"),
    ],
)
def test_parts_that_would_fight_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(IsoplastError, match=reason) as error:
        methods.get(name)
    assert "\n" not in str(error.value)


def on_a_gpu() -> list[tuple[str, str]]:
    """All methods on two networks where there is a GPU, else one case: one skip, not a hundred."""
    cases = [(name, net) for name in methods.names() for net in ("agent", "vit of build")]
    return cases if torch.cuda.is_available() else cases[:1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: no method was tried on one")
@pytest.mark.parametrize(("name", "net"), on_a_gpu())
def test_on_a_gpu_it_trains_and_goes_on_from_a_checkpoint(name: str, net: str) -> None:
    """The network moves after `prepare`; everything a method makes follows it there."""
    network = ALL[net]
    if (name, net) in REFUSED:
        return
    ends = []
    checkpoint = b""
    for resumed in (False, True):
        torch.manual_seed(0)
        life = methods.training(lively(name), network.build(), lr=LR, device="cuda")
        if resumed:
            _life.restore(life, checkpoint)
        else:
            _life.advance(life, network, 10)
            checkpoint = _life.saved(life)
        losses = _life.advance(life, network, 10)
        assert torch.stack(losses).isfinite().all()
        ends.append(_life.values(life.model))
    for key, value in ends[0].items():
        assert value.is_cuda
        # The sums of some kernels are taken in another order every time.
        torch.testing.assert_close(ends[1][key], value, rtol=1e-3, atol=1e-4)
