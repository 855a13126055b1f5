"""What every instrument owes to the network that it is lent: to give it back as it was."""

from __future__ import annotations

import collections
import contextlib
import gc
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from instrument_networks import NETWORKS, batch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import cross_entropy

from isoplast import Monitor, diagnose
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import (
    Churn,
    Updates,
    activity,
    conv_singular_values,
    curvature,
    gradients,
    inspect,
    jacobian,
    ntk,
    plasticity,
    repair_,
    update_ratio,
    weight_spectra,
)


def monitored(model: nn.Module, x: Any, y: Tensor) -> None:
    measures = ["weights", "activity", "jacobian", "ntk", "plasticity"]
    monitor = Monitor(model, inputs=x, measures=measures, warn=False)
    monitor.step()
    monitor.measure()


def operators(model: nn.Module, x: Any, y: Tensor) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            conv_singular_values(module, 4)
            conv_singular_values(module, 4, dense_limit=1)


Instrument = Callable[[nn.Module, Any, Tensor], Any]
INSTRUMENTS: dict[str, Instrument] = {
    "weight_spectra": lambda model, x, y: weight_spectra(model, initial=model),
    "operators": operators,
    "activity": lambda model, x, y: activity(model, x),
    "jacobian": lambda model, x, y: jacobian(model, x),
    "jacobian, extremes": lambda model, x, y: jacobian(model, x, exact=False, layers=False),
    "ntk": lambda model, x, y: ntk(model, x, targets=y),
    "ntk by samples": lambda model, x, y: ntk(model, x, method="samples"),
    "ntk by products": lambda model, x, y: ntk(model, x, method="lanczos", steps=4),
    "ntk by layers": lambda model, x, y: ntk(model, x, method="layers"),
    "hessian": lambda model, x, y: curvature(model, x, y, steps=5),
    "hessian in parts": lambda model, x, y: curvature(model, x, y, steps=5, batch_size=3),
    "gauss-newton": lambda model, x, y: curvature(model, x, y, kind="gauss-newton", steps=5),
    "gradients": lambda model, x, y: gradients(model, x, y),
    "update_ratio": lambda model, x, y: (update_ratio(model, model), Updates(model).step()),
    "churn": lambda model, x, y: Churn(model, x).step(),
    "plasticity": lambda model, x, y: plasticity(model, x, tasks=2, steps=2),
    "inspect": lambda model, x, y: inspect(model, x),
    "repair_": lambda model, x, y: repair_(model, x, biases="keep", layers=[]),
    "diagnose": lambda model, x, y: diagnose(model, x, y, probe=False),
    "monitor": monitored,
}
# All others run the network, and refuse one that makes its parameters as it runs: they would not know them.
WEIGHTS = ("weight_spectra", "operators", "update_ratio")
# What an instrument may refuse in one line, as its documentation says.
REFUSALS = {
    ("jacobian", "Tokens"): "one tensor of real numbers",
    ("jacobian, extremes", "Tokens"): "one tensor of real numbers",
    ("jacobian", "Masked"): "one tensor of real numbers",
    ("jacobian, extremes", "Masked"): "one tensor of real numbers",
    ("jacobian", "Frozen"): "no gradient leads",
    ("jacobian, extremes", "Frozen"): "no gradient leads",
} | {
    ("ntk by layers", name): "no layer-wise formula"
    for name in ("InListsAndDicts", "Tied", "parametrised", "normed_by_hooks", "isometric", "Recurrent",
                 "Attention", "Experts", "Tokens")
}  # fmt: skip
REFUSALS |= {
    (name, "made_late"): "made by the model's first forward pass"
    for name in INSTRUMENTS
    if name not in WEIGHTS
}
REFUSALS["plasticity", "normed_by_hooks"] = "nothing knows how to draw"
# Operations whose derivatives cannot be differentiated again.
REFUSALS |= {
    (name, "Tokens"): "without a second derivative"
    for name in ("hessian", "hessian in parts", "gauss-newton", "ntk by products")
}


def noted(model: nn.Module) -> list[Any]:
    """Everything that a network is: objects as they are, contents of tensors as copies."""
    found: list[Any] = []
    for module in model.modules():
        found.append(module)
        for name, value in vars(module).items():
            found += [name, value]
            if isinstance(value, dict):
                found += [part for item in value.items() for part in item]
            elif isinstance(value, list | set):
                found += list(value)
            elif isinstance(value, Tensor) and value.grad_fn is None:
                found.append(Copy(value))
            elif isinstance(value, torch.Generator):
                found.append(Copy(value.get_state()))
        found += map(Copy, [*module._buffers.values(), *module._parameters.values()])
    for parameter in model.parameters():
        found += [parameter.requires_grad, parameter.grad, Copy(parameter.grad), type(parameter)]
        found.append(len(parameter._backward_hooks or ()))
    found += [Copy(torch.get_rng_state()), random.getstate(), Copy(np.random.get_state()[1])]  # noqa: NPY002
    found += [torch.is_grad_enabled(), torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()]
    return found


class Copy:
    """The contents of a tensor at one time."""

    def __init__(self, tensor: Any) -> None:
        self.values = None if tensor is None else torch.as_tensor(tensor).detach().clone()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Copy) and isinstance(other, Copy):
        if one.values is None or other.values is None:
            return one.values is other.values
        return torch.equal(one.values, other.values)
    return one is other or (isinstance(one, str | int | tuple) and one == other)


def prepared(name: str) -> tuple[nn.Module, Any, Tensor]:
    """A network in the middle of its training: with gradients, hooks, a frozen parameter and modes."""
    torch.manual_seed(0)
    model = NETWORKS[name]().train()
    x, y = batch(name)
    calls: list[Any] = []
    for module in model.modules():
        module.register_forward_hook(lambda *args: calls.append(1))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    first = next(iter(model.parameters()))
    first.register_hook(lambda gradient: pytest.fail("a hook of the user's on a parameter was called"))
    list(model.parameters())[-1].requires_grad_(False)
    return model, x, y


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*spectral_norm.*")
def test_a_network_is_given_back_as_it_was(name: str, instrument: str) -> None:
    model, x, y = prepared(name)
    before = noted(model)
    refusal = REFUSALS.get((instrument, name))
    if refusal is None:
        INSTRUMENTS[instrument](model, x, y)
    else:
        with pytest.raises(IsoplastError, match=refusal) as caught:
            INSTRUMENTS[instrument](model, x, y)
        assert "\n" not in str(caught.value)
    after = noted(model)
    assert len(before) == len(after)
    different = [(a, b) for a, b in zip(before, after, strict=True) if not same(a, b)]
    assert not different


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("name", ["convolutional", "shared", "Recurrent"])
def test_inputs_are_let_go_of(name: str, instrument: str) -> None:
    model, given, y = prepared(name)
    x = given.clone()
    values = StorageWeakRef(x.untyped_storage())
    with contextlib.suppress(IsoplastError):
        INSTRUMENTS[instrument](model, x, y)
    del x
    gc.collect()
    assert values.expired()


@pytest.mark.parametrize("kind", [collections.UserDict, types.MappingProxyType, collections.OrderedDict])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_any_mapping_is_taken_like_the_dict_with_the_same_items(kind: Any, instrument: str) -> None:
    if (instrument, "Masked") in REFUSALS:
        pytest.skip("it needs one tensor of numbers")
    model, x, y = prepared("Masked")
    plain, other = (INSTRUMENTS[instrument](model, inputs, y) for inputs in (x, kind(x)))
    if hasattr(plain, "as_dict"):
        assert plain.as_dict() == pytest.approx(other.as_dict(), rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*spectral_norm.*")
def test_training_goes_on_to_the_same_bits(name: str) -> None:
    def trained(measured: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = NETWORKS[name]().train()
        x, y = batch(name)
        outputs = _call(model, x)  # layers that are made late are there
        sparse = any(getattr(module, "sparse", False) for module in model.modules())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.0 if sparse else 0.9)
        for _ in range(3):
            outputs = _call(model, x)
            optimizer.zero_grad()
            cross_entropy(outputs, y).backward()
            if measured:
                diagnose(model, x, y, optimizer=optimizer, probe=False)
            optimizer.step()
        return [*model.parameters(), *model.buffers()]

    plain, measured = trained(False), trained(True)
    assert all(map(torch.equal, plain, measured))


def _call(model: nn.Module, x: Any) -> Tensor:
    found = model(**x) if isinstance(x, dict) else model(x)
    return found["logits"] if isinstance(found, dict) else found
