"""Fused projections: every matrix in one weight is found, in a module and, where it tells, in a state dict.

The rule behind all of it: fill the weight so that each of its matrices is an isometry. Then AdamO does not
move it, and its spectrum is 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoplast import AdamO, param_groups
from isoplast.diagnostics import weight_spectra
from isoplast.nn import isometric_init_


class Conv1D(nn.Module):
    """GPT-2's linear layer, as in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


class Layer(nn.Module):
    """Projections beside each other, and what their module says of its heads."""

    def __init__(self, says: dict[str, Any], **children: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, value in (says | children).items():
            setattr(self, name, value)


class CodeGenAttention(Layer):
    pass


class Config:
    num_attention_heads, num_key_value_heads = 4, 2


def rows(*counts: int) -> list[Tensor]:
    """For each count the numbers of the rows of one matrix, one matrix after the other."""
    return list(torch.arange(sum(counts)).split(list(counts)))


def by_heads(groups: int, *counts: int) -> list[Tensor]:
    """The rows of every matrix where each head, or group of heads, has queries, key and value together."""
    return rows(*counts * groups)


@dataclasses.dataclass
class Case:
    """A layer with a fused weight.

    Attributes:
        layer: the module.
        name: of the weight.
        matrices: numbers of the rows (columns, if swapped) of each matrix in it.
        told: whether a state dict can tell; None: it looks like a more common layout there.
        swapped: whether the weight is stored as (in, out).
    """

    layer: nn.Module
    name: str
    matrices: list[Tensor]
    told: bool | None = True
    swapped: bool = False


def attention(
    name: str, fused: int, out: int, says: dict[str, Any] | None = None, width: int = 16
) -> nn.Module:
    return Layer(says or {}, **{name: nn.Linear(width, fused)}, out_proj=nn.Linear(out, width))


CASES = {
    "torch": Case(nn.MultiheadAttention(16, 4), "in_proj_weight", rows(16, 16, 16)),
    "timm": Case(
        Layer({"num_heads": 4}, qkv=nn.Linear(16, 48), proj=nn.Linear(16, 16)), "qkv.weight", rows(16, 16, 16)
    ),
    "alone": Case(Layer({}, qkv=nn.Linear(16, 48)), "qkv.weight", rows(16, 16, 16)),
    "narrow heads": Case(attention("to_qkv", 24, 8, {"heads": 2}), "to_qkv.weight", rows(8, 8, 8)),
    "in a list": Case(
        Layer(
            {},
            to_qkv=nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24)),
            to_out=nn.Sequential(nn.Linear(8, 16)),
        ),
        "to_qkv.1.weight",
        rows(8, 8, 8),
    ),
    "grouped queries": Case(
        Layer(
            {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4},
            qkv_proj=nn.Linear(16, 32),
            o_proj=nn.Linear(16, 16),
        ),
        "qkv_proj.weight",
        rows(16, 8, 8),
    ),
    "grouped queries of any name": Case(
        attention("qkv", 32, 16, {"n_heads": 4, "groups_of_mine": 2, "d_head": 4}),
        "qkv.weight",
        rows(16, 8, 8),
        False,
    ),
    "grouped queries by their configuration": Case(
        Layer({"config": Config()}, Wqkv=nn.Linear(16, 32), out_proj=nn.Linear(16, 16)),
        "Wqkv.weight",
        rows(16, 8, 8),
    ),
    "grouped queries alone": Case(
        Layer({"num_heads": 4, "num_kv_heads": 2}, qkv=nn.Linear(16, 32)), "qkv.weight", rows(16, 8, 8), False
    ),
    "one key for all": Case(
        attention("c_attn", 24, 16, {"num_heads": 4, "kv_heads": 1}), "c_attn.weight", rows(16, 4, 4), False
    ),
    "interleaved": Case(
        Layer(
            {"num_attention_heads": 4, "head_size": 4},
            query_key_value=nn.Linear(16, 48),
            dense=nn.Linear(16, 16),
        ),
        "query_key_value.weight",
        by_heads(4, 4, 4, 4),
        False,
    ),
    "interleaved in groups": Case(
        Layer({"num_heads": 4, "num_kv_heads": 2, "head_dim": 4}, query_key_value=nn.Linear(16, 32)),
        "query_key_value.weight",
        by_heads(2, 8, 4, 4),
        False,
    ),
    "interleaved, one key for all": Case(
        Layer({"num_heads": 4, "num_kv_heads": 1}, query_key_value=nn.Linear(16, 24)),
        "query_key_value.weight",
        rows(16, 4, 4),
        False,
    ),
    "heads first": Case(
        Layer(
            {"num_heads": 4, "dim_head": 4, "head_first": True}, qkv=nn.Linear(16, 48), proj=nn.Linear(16, 16)
        ),
        "qkv.weight",
        by_heads(4, 4, 4, 4),
        None,
    ),
    "GPT-BigCode": Case(
        attention("c_attn", 48, 16, {"num_heads": 4, "kv_heads": 4, "head_dim": 4, "multi_query": False}),
        "c_attn.weight",
        by_heads(4, 4, 4, 4),
        None,
    ),
    "GPT-2": Case(
        Layer({"num_heads": 4}, c_attn=Conv1D(48, 16), c_proj=Conv1D(16, 16)),
        "c_attn.weight",
        rows(16, 16, 16),
        True,
        True,
    ),
    "GPT-2 across": Case(
        Layer({"num_heads": 4}, c_attn=Conv1D(32, 16), q_attn=Conv1D(16, 16), c_proj=Conv1D(16, 16)),
        "c_attn.weight",
        rows(16, 16),
        False,
        True,
    ),
    "a parameter": Case(
        Layer({}, in_proj_weight=nn.Parameter(torch.randn(48, 16)), out_proj=nn.Linear(16, 16)),
        "in_proj_weight",
        rows(16, 16, 16),
    ),
    "a parameter, stored as (in, out)": Case(
        Layer({}, qkv_weight=nn.Parameter(torch.randn(16, 48))), "qkv_weight", rows(16, 16, 16), True, True
    ),
    "keys and values": Case(Layer({"heads": 4}, to_kv=nn.Linear(16, 32)), "to_kv.weight", rows(16, 16)),
    "keys and values, narrow": Case(Layer({}, kv=nn.Linear(16, 24)), "kv.weight", rows(12, 12)),
    "gate and up": Case(
        Layer({}, gate_up_proj=nn.Linear(16, 24), down_proj=nn.Linear(12, 16)),
        "gate_up_proj.weight",
        rows(12, 12),
    ),
    "Mamba": Case(
        Layer({}, in_proj=nn.Linear(12, 48), out_proj=nn.Linear(24, 12)), "in_proj.weight", rows(24, 24)
    ),
    "Mamba of width 1.5": Case(
        Layer({}, in_proj=nn.Linear(16, 48), out_proj=nn.Linear(24, 16)), "in_proj.weight", rows(24, 24)
    ),
    "attention's in_proj": Case(attention("in_proj", 48, 16), "in_proj.weight", rows(16, 16, 16)),
    "LSTM": Case(nn.LSTM(16, 4), "weight_ih_l0", rows(4, 4, 4, 4)),
    "LSTM, projected": Case(nn.LSTM(16, 6, proj_size=3), "weight_hh_l0", rows(6, 6, 6, 6)),
    "GRU": Case(nn.GRU(16, 4, bidirectional=True), "weight_hh_l0_reverse", rows(4, 4, 4)),
    "LSTM cell": Case(nn.LSTMCell(16, 4), "weight_hh", rows(4, 4, 4, 4)),
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def filled(case: Case) -> nn.Parameter:
    """The weight of a case, each of its matrices an isometry."""
    weight = case.layer.get_parameter(case.name)
    with torch.no_grad():
        seen = weight.mT if case.swapped else weight
        for numbers in case.matrices:
            seen[numbers] = nn.init.orthogonal_(torch.empty(len(numbers), seen.shape[1]))
    return weight


def of_weight(case: Case, found: Any) -> list[Any]:
    name = case.name.removesuffix(".weight")
    return [spectrum for layer, spectrum in found.items() if layer.partition("[")[0] == name]


@all_cases
def test_a_weight_of_isometries_stays(case: Case) -> None:
    torch.manual_seed(0)
    weight = filled(case)
    before = weight.detach().clone()
    optimizer = AdamO(param_groups(case.layer), lr=5e-3, isometry=1.0, isometry_every=1)
    for _ in range(40):
        for p in case.layer.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    # float32 rounding of 40 steps; any other cut moves it by more than 0.1.
    assert float((weight.detach() - before).norm()) < 1e-4


@all_cases
def test_its_spectrum_is_one(case: Case) -> None:
    torch.manual_seed(0)
    filled(case)
    found = of_weight(case, weight_spectra(case.layer))
    assert [one.shape[0] for one in found] == [len(numbers) for numbers in case.matrices]
    for one in found:
        torch.testing.assert_close(
            one.singular_values, torch.ones_like(one.singular_values), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.told is not None])
def test_a_state_dict_tells_the_same_or_nothing(case: Case) -> None:
    torch.manual_seed(0)
    filled(case)
    found = weight_spectra(case.layer.state_dict())
    shapes = [one.shape[0] for one in of_weight(case, found)]
    if case.told:
        assert shapes == [len(numbers) for numbers in case.matrices]
        assert found.doubts == {}
    else:
        assert len(shapes) == 1, "not cut"
        assert list(found.doubts) == [case.name.removesuffix(".weight")]
        reason = found.doubts[case.name.removesuffix(".weight")]
        assert reason in " ".join(str(found).split())


@pytest.mark.parametrize("case", [case for name, case in CASES.items() if "parameter" not in name])
def test_initialisation_makes_every_matrix_an_isometry(case: Case) -> None:
    torch.manual_seed(0)
    isometric_init_(case.layer, 2.0, head_gain=2.0)
    for one in of_weight(case, weight_spectra(case.layer)):
        torch.testing.assert_close(
            one.singular_values, torch.full_like(one.singular_values, 2.0), atol=1e-5, rtol=0
        )


UNKNOWN = {
    "no width fits": (
        Layer({}, qkv=nn.Linear(16, 40)),
        "qkv.weight",
        "nothing says how its 40 rows hold q, k, v",
    ),
    "heads that do not fit": (
        Layer({"num_heads": 8, "num_kv_heads": 2, "head_dim": 8}, qkv=nn.Linear(16, 48)),
        "qkv.weight",
        "nothing says how its 48 rows hold q, k, v",
    ),
    "grouped without a head count": (
        Layer({}, qkv=nn.Linear(16, 32), proj=nn.Linear(16, 16)),
        "qkv.weight",
        "nothing says how its 32 rows hold q, k, v",
    ),
    "interleaved or not": (
        Layer({}, query_key_value=nn.Linear(16, 48)),
        "query_key_value.weight",
        "q, k, v may be interleaved head by head",
    ),
    "Mamba-2": (
        Layer({}, in_proj=nn.Linear(16, 2 * 32 + 2 * 8 + 4), out_proj=nn.Linear(32, 16)),
        "in_proj.weight",
        "nothing says which parts its 84 rows hold",
    ),
    "slices for several machines": (
        CodeGenAttention(
            {"num_attention_heads": 4, "head_dim": 4}, qkv_proj=nn.Linear(16, 48), out_proj=nn.Linear(16, 16)
        ),
        "qkv_proj.weight",
        "nothing says how its 48 rows hold q, k, v",
    ),
    "a convolution": (
        Layer({}, to_qkv=nn.Conv2d(16, 48, 1)),
        "to_qkv.weight",
        "if it holds q, k and v, say split=3",
    ),
}


@pytest.mark.parametrize(("layer", "name", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_nobody_says_is_not_cut_and_the_table_says_so(layer: nn.Module, name: str, reason: str) -> None:
    model = nn.ModuleDict({"it": layer, "head": nn.Linear(4, 4)})
    groups = param_groups(model)
    decision = next(d for d in groups.decisions if d.name == f"it.{name}")
    assert (decision.isometric, decision.split, decision.parts) == (True, 1, ())
    assert reason in decision.reason
    assert reason in str(groups)
    assert reason in next(iter(weight_spectra(model).doubts.values()))
    counts = (8, decision.parameter.shape[0] - 8)
    asked = param_groups(model, split={f"it.{name}": counts})
    assert next(d for d in asked.decisions if d.name == f"it.{name}").split == counts


ORDINARY = {
    "a projection in": Layer({}, in_proj=nn.Linear(16, 24)),
    "as wide as its output": Layer({}, in_proj=nn.Linear(16, 24), out_proj=nn.Linear(24, 16)),
    "main_proj": Layer({}, main_proj=nn.Linear(4, 12)),
    "a query": Layer({"num_heads": 2}, q_proj=nn.Linear(16, 48)),
    "qkvz": Layer({}, in_proj_qkvz=nn.Linear(16, 48)),
    "inside of something called qkv": Layer({}, qkv_block=nn.ModuleDict({"fc": nn.Linear(4, 12)})),
}


@pytest.mark.parametrize("layer", ORDINARY.values(), ids=ORDINARY)
def test_a_name_that_only_looks_like_one(layer: nn.Module) -> None:
    model = nn.ModuleDict({"it": layer, "head": nn.Linear(4, 4)})
    first = param_groups(model).decisions[0]
    assert (first.isometric, first.split, first.reason) == (True, 1, "linear layer")
    assert weight_spectra(model).doubts == {}


def test_parts_say_what_each_matrix_is() -> None:
    parts = {name: param_groups(case.layer).decisions for name, case in CASES.items()}
    found = {name: next(d.parts for d in parts[name] if d.name == CASES[name].name) for name in parts}
    assert found["GPT-2"] == found["grouped queries"] == ("q", "k", "v")
    assert found["interleaved in groups"] == ("q0", "k0", "v0", "q1", "k1", "v1")
    assert found["keys and values"] == ("k", "v")
    assert found["LSTM"] == ()


def test_every_head_a_matrix_with_grouped_queries() -> None:
    layer = Layer(
        {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4},
        qkv_proj=nn.Linear(16, 32), k_proj=nn.Linear(16, 8), q_proj=nn.Linear(16, 16), c_attn=Conv1D(32, 16),
    )  # fmt: skip
    found = {d.name: (d.split, d.parts) for d in param_groups(layer, per_head=True).decisions}
    heads = ("q0", "q1", "q2", "q3", "k0", "k1", "v0", "v1")
    assert found["qkv_proj.weight"] == (8, heads)
    assert found["c_attn.weight"] == (-8, heads)
    assert found["q_proj.weight"] == (4, heads[:4])
    assert found["k_proj.weight"] == (2, heads[4:6])


def test_the_differentiable_step_writes_columns_back_where_they_were() -> None:
    torch.manual_seed(0)
    states = []
    for differentiable in (False, True):
        torch.manual_seed(1)
        layer = Layer({"num_heads": 4}, c_attn=Conv1D(48, 16), c_proj=Conv1D(16, 16))
        leaf = layer.get_parameter("c_attn.weight")
        optimizer = AdamO(
            param_groups(layer), lr=1e-3, isometry=1.0, isometry_every=1, differentiable=differentiable
        )
        for p in layer.parameters():
            p.requires_grad_(not differentiable)
            p.grad = torch.zeros_like(p)
        optimizer.step()
        states.append(leaf.detach().clone())
    torch.testing.assert_close(*states, rtol=0, atol=1e-6)
