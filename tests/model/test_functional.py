"""A network as a function of its parameters: the right outputs, and every parameter where it was."""

from __future__ import annotations

import collections
import copy
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from isoplast._core.errors import IsoplastError
from isoplast.model import applied, one_tensor, outputs, replaced, run, sample_count, take_samples, usable


class Everywhere(nn.Module):
    """One matrix in three modules, one of which has three names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.again, self.blocks = self.a, nn.ModuleList([self.a, self.b])
        self.own = self.a.weight
        self.cell = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.again, *self.blocks):
            x = torch.tanh(layer(x))
        return self.cell((x @ self.own)[:, None])[0][:, 0]  # type: ignore[no-any-return]


def slots(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    for module in model.modules():
        found += [module, *module._parameters.values(), *module._modules.values(), *vars(module).values()]
        found += getattr(module, "_flat_weights", [])
    return found


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def test_outputs_are_those_of_a_network_with_these_parameters() -> None:
    torch.manual_seed(0)
    model, x = Everywhere().double(), torch.randn(5, 4, dtype=torch.float64)
    others = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(others[name])
    before = slots(model)
    assert torch.equal(applied(model, others, x), twin(x))
    assert same(before, slots(model))
    # By any name of a parameter that has several.
    by_another = {"b.weight" if name == "a.weight" else name: value for name, value in others.items()}
    assert torch.equal(applied(model, by_another, x), twin(x))
    assert same(before, slots(model))


def test_derivatives_by_a_shared_parameter_count_every_use() -> None:
    torch.manual_seed(0)
    model, x = Everywhere().double(), torch.randn(5, 4, dtype=torch.float64)
    before = slots(model)
    expected = torch.autograd.grad(model(x).sum(), model.a.weight)[0]
    stand_in = model.a.weight.detach().requires_grad_()
    (found,) = torch.autograd.grad(applied(model, {"a.weight": stand_in}, x).sum(), stand_in)
    assert torch.equal(found, expected)
    del model.cell  # vmap has no rule for the fused kernel of an LSTM
    model.forward = types.MethodType(lambda self, x: self.blocks[1](self.a(x)), model)  # type: ignore[method-assign]
    before = slots(model)
    rows = vmap(jacrev(lambda w, one: applied(model, {"a.weight": w}, one[None])[0]), (None, 0))(stand_in, x)
    assert rows.shape == (5, 4, 4, 4)
    assert same(before, slots(model))


def test_parameters_come_back_after_an_error_and_out_of_each_other() -> None:
    model, x = Everywhere(), torch.randn(5, 3)
    before = slots(model)
    with pytest.raises(RuntimeError, match="shapes"):
        applied(model, {"a.weight": torch.zeros(4, 4)}, x)
    assert same(before, slots(model))
    outer, inner = torch.zeros(4, 4), torch.ones(4, 4)
    with replaced(model, {"a.weight": outer}):
        with replaced(model, {"a.weight": inner}):
            assert model.b.weight is inner
        assert model.b.weight is outer
    assert same(before, slots(model))


class Logits(collections.UserDict[str, Any]):
    pass


@pytest.mark.parametrize(
    "kind", [dict, collections.UserDict, types.MappingProxyType, collections.OrderedDict]
)
def test_any_mapping_is_keyword_arguments(kind: Any) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, extra: Any = None) -> Any:
            return Logits(logits=x + extra["b"])

    inputs = kind({"x": torch.ones(3, 2), "extra": kind({"b": torch.arange(3.0)[:, None]})})
    expected = 1 + torch.arange(3.0)[:, None].expand(3, 2)
    assert torch.equal(outputs(Net(), inputs), expected)
    assert torch.equal(applied(Net(), {}, usable(inputs)), expected)
    assert sample_count(inputs) == 3
    assert torch.equal(outputs(Net(), take_samples(inputs, slice(1, 3))), expected[1:])
    with pytest.raises(IsoplastError, match="do not fit the model") as caught:
        run(Net(), kind({"y": torch.ones(3, 2)}))
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_refused_in_one_line() -> None:
    for value in ((torch.ones(2), torch.ones(2)), {"scores": torch.ones(2)}, None):
        with pytest.raises(IsoplastError, match="wrap it in a module that returns one tensor"):
            one_tensor(value)
    with pytest.raises(IsoplastError, match="found none in list"):
        sample_count([torch.ones(2)])
