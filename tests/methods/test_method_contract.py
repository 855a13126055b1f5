"""What every method must keep to, on every kind of network."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import pickle
import re
import warnings
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, get_args

import pytest
import torch
from contract_runs import (
    IDLE,
    NETWORKS,
    REFUSED,
    batch,
    busy,
    different,
    example,
    hooked,
    network,
    not_owned,
    parts,
    restore,
    saved,
    started,
    train,
    values,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Method, TaskMethod, notify_task, train_step
from isoplast.methods._protocol import Family, Spectrum

COMBINATIONS = ["adamo+layernorm", "redo+l2init"]
everyone = pytest.mark.parametrize("name", methods.names())
everywhere = pytest.mark.parametrize("net", NETWORKS)

# float32 sums of a few dozen terms of order one, taken in another order, differ by some 1e-7.
SAME_FUNCTION = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module", autouse=True)
def without_onednn() -> Iterator[None]:
    """oneDNN prepares every convolution: 8 ms for a step of the tiny ResNet, 4 ms without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own default
        flags = torch.backends.mkldnn.flags(enabled=False)
        flags.__enter__()
        yield
        flags.__exit__(None, None, None)


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the network says, in evaluation mode, without touching the global random numbers."""
    rng, was_training = torch.get_rng_state(), model.training
    with torch.no_grad():
        found = model.eval()(inputs)
    model.train(was_training)
    torch.set_rng_state(rng)
    return found


def watch_function(monkeypatch: pytest.MonkeyPatch, method: Method, model: nn.Module, net: str) -> None:
    """Let every intervention of a method that keeps the function be compared with what was before it."""
    probe, _ = batch(net, torch.Generator().manual_seed(99))

    def keeping(hook: Any) -> Any:
        @functools.wraps(hook)
        def watched(self: Method, context: Any) -> None:
            before = outputs(model, probe)
            hook(self, context)
            torch.testing.assert_close(outputs(model, probe), before, **SAME_FUNCTION)

        return watched

    for part in parts(method):
        if part.info.keeps_function:
            for hook in ("after_step", "on_task"):
                monkeypatch.setattr(type(part), hook, keeping(getattr(type(part), hook)))


@functools.cache
def base_run(name: str, net: str, steps: tuple[int, ...] = (10,)) -> dict[str, Tensor]:
    """Where a method without company ends, its data drawn in stretches of so many steps."""
    method, model, optimizer = started(name, net)
    for first, count in zip(accumulate((1, *steps)), steps, strict=False):
        train(method, model, optimizer, count, net=net, first=first)
    return values(model)


@everywhere
@pytest.mark.parametrize("name", [*methods.names(), *COMBINATIONS])
def test_a_life_of_two_hundred_steps(name: str, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite, all moves, the optimizer owns all; same seed, same bits; a checkpoint goes on to them."""
    if (name, net) in REFUSED:
        with pytest.raises(IsoplastError, match=re.escape(REFUSED[name, net])):
            started(name, net)
        return
    name = name if "+" in name else example(name)
    hyper = busy(name)
    method, model, optimizer = started(name, net, **hyper)
    assert not_owned(model, optimizer) == []
    start = values(model)
    if method.info.keeps_function:
        probe, _ = batch(net, torch.Generator().manual_seed(98))
        torch.testing.assert_close(outputs(model, probe), outputs(network(net), probe), **SAME_FUNCTION)
        network(net)  # the global random numbers as they were when the model had been built

    again, twin, its_optimizer = started(name, net, **hyper)
    train(again, twin, its_optimizer, 10, net=net)
    checkpoint = saved(again, twin, its_optimizer)
    at_ten = values(twin)

    method, model, optimizer = started(name, net, **hyper)
    watch_function(monkeypatch, method, model, net)
    losses = train(method, model, optimizer, 10, net=net)
    assert different(values(model), at_ten) == [], "the same seed gave other bits"
    with method.evaluated(model, optimizer) as shown:
        assert outputs(shown, batch(net, torch.Generator().manual_seed(1))[0]).isfinite().all()
    losses += train(method, model, optimizer, 10, net=net, first=11)
    at_twenty = values(model)

    resumed, other, new_optimizer = started(name, net, **hyper)
    restore(resumed, other, new_optimizer, checkpoint)
    train(resumed, other, new_optimizer, 10, net=net, first=11)
    assert different(values(other), at_twenty) == [], "the checkpoint, or an evaluation, led to other bits"

    losses += train(method, model, optimizer, 180, net=net, first=21)
    assert torch.stack(losses).isfinite().all()
    end = values(model)
    assert [key for key, value in end.items() if not value.isfinite().all()] == []
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.equal(start[key])] == []
    assert not_owned(model, optimizer) == []
    if name != "adam" and (name, net) not in IDLE:
        assert different(end, base_run("adam", net, (10, 10, 180))), "it did nothing"

    method.release()
    assert (method.handles, hooked(model)) == ([], [])


@everywhere
@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).info.strength])
def test_at_strength_zero_it_is_the_base_method_to_the_bit(name: str, net: str) -> None:
    about = methods.get(name).info
    together = example(name)
    strength = f"{name}.{about.strength}" if "+" in together else str(about.strength)
    method, model, optimizer = started(together, net, **{strength: 0})
    train(method, model, optimizer, 10, net=net)
    assert different(values(model), base_run(about.base, net)) == []


@everyone
def test_a_method_is_a_frozen_hashable_dataclass_that_its_settings_make_again(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    for settings in (dict(method.settings()), busy(name)):
        one, other = methods.get(name, **settings), methods.get(name, **settings)
        assert one == other == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
        assert hash(one) == hash(other)
        assert methods.get(name, **dict(one.settings())) == one
    assert methods.get(name, **dict(method.settings())) == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.state = {}  # type: ignore[misc]
    assert method.state == {}
    assert method.handles == []


@everyone
def test_a_method_says_what_it_is(name: str) -> None:
    method = methods.get(name)
    about, document = method.info, inspect.getdoc(type(method)) or ""
    assert about.title
    assert about.controls
    assert about.cost
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|\b(19|20)\d\d\b", about.source), (
        "an arXiv number or a full reference"
    )
    assert about.family in get_args(Family)
    assert about.spectrum in get_args(Spectrum)
    assert about.base in methods.names()
    fields = [field.name for field in dataclasses.fields(method) if field.init]
    assert about.strength is None or about.strength in fields
    assert name in (about.example or name).split("+")

    assert document.split("\n")[0].endswith("."), "a summary of one line"
    assert "told of tasks" in " ".join(document.split()), "whether it is told of tasks"
    if fields:
        arguments = document.partition("Args:")[2]
        assert [field for field in fields if not re.search(rf"\b{field}\b", arguments)] == []


@everyone
def test_settings_are_checked_by_name_type_and_range(name: str) -> None:
    method = methods.get(name)
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    with pytest.raises(IsoplastError, match=rf"unknown setting of method {name} 'nonsense': .*Known: "):
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


class Secret:
    """A task that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a method that is not told of tasks read task.{name}")


@everyone
def test_task_information_reaches_only_methods_that_say_so(name: str) -> None:
    method = methods.get(name)
    if method.info.needs_task_boundaries:
        assert isinstance(method, TaskMethod)
        alone, model, optimizer = started(example(name))
        step = (alone, model, optimizer, cross_entropy, batch("mlp", torch.Generator().manual_seed(0)), 1)
        with pytest.raises(
            IsoplastError, match=f"method {name} acts where tasks begin, and was told of none"
        ):
            train_step(*step)
    else:
        assert type(method).on_task is Method.on_task
        notify_task(method, Secret())  # type: ignore[arg-type]


def test_a_combination_tells_of_tasks_only_the_parts_that_say_so() -> None:
    told = next(name for name in methods.names() if methods.get(name).info.needs_task_boundaries)
    together = methods.get(f"{told}+orthogonal-init")
    assert together.info.needs_task_boundaries
    seen: list[str] = []
    for part in parts(together):
        object.__setattr__(part, "on_task", lambda task, part=part: seen.append(part.name))
    notify_task(together, Secret())  # type: ignore[arg-type]
    assert seen == [told]


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(IsoplastError, match=r"unknown method 'admo': did you mean 'adamo'\? Known: .*adam, "):
        methods.get("admo")
    with pytest.raises(IsoplastError, match=r"unknown method 'firr': did you mean 'fire'\?"):
        methods.get("adamo+firr")


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
    cases = [(name, net) for name in methods.names() for net in ("mlp", "vit")]
    return cases if torch.cuda.is_available() else cases[:1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: no method was tried on one")
@pytest.mark.parametrize(("name", "net"), on_a_gpu())
def test_on_a_gpu_it_trains_and_goes_on_from_a_checkpoint(name: str, net: str) -> None:
    """The network moves after `prepare`, as a study does it; everything a method makes follows it there."""
    ends = []
    checkpoint = b""
    for resumed in (False, True):
        method = methods.get(example(name), **busy(example(name)))
        model = method.prepare(network(net)).to("cuda")
        optimizer = method.optimizer(model, 1e-2)
        if resumed:
            restore(method, model, optimizer, checkpoint)
        else:
            train(method, model, optimizer, 10, net=net)
            checkpoint = saved(method, model, optimizer)
        losses = train(method, model, optimizer, 10, net=net, first=11)
        assert torch.stack(losses).isfinite().all()
        ends.append(values(model))
    for key, value in ends[0].items():
        assert value.is_cuda
        # The sums of some kernels are taken in another order every time.
        torch.testing.assert_close(ends[1][key], value, rtol=1e-3, atol=1e-4)
