"""Which parameters are kept isometric: every kind of layer, each with its reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from isoplast import AdamO, attach, param_groups
from isoplast._core.errors import IsoplastError


class Named(nn.Module):
    """A module with parameters of its own, which param_groups has never heard of."""

    def __init__(self, **params: torch.Tensor) -> None:
        super().__init__()
        for name, value in params.items():
            self.register_parameter(name, nn.Parameter(value))


class RMSNorm2(Named):
    pass


def decisions(model: nn.Module, **kwargs: Any) -> dict[str, Any]:
    """Decisions by name, after checking what holds for every model."""
    groups = param_groups(model, **kwargs)
    found = {d.name: d for d in groups.decisions}
    expected = dict(model.named_parameters())
    assert list(found) == list(expected), "every parameter is decided on once, in the model's order"
    assert all(found[name].parameter is p for name, p in expected.items())
    inside = [p for group in groups for _, p in group["params"]]
    assert len(inside) == len(expected)
    assert {id(p) for p in inside} == {id(p) for p in expected.values()}
    for group in groups:
        for name, _ in group["params"]:
            assert (group.get("isometry", 1.0) > 0) is found[name].isometric
    assert all(d.reason for d in found.values())
    return found


def last(module: nn.Module) -> nn.Module:
    """The module and a head behind it, so that none of its layers is the last linear one."""
    return nn.ModuleDict({"it": module, "head": nn.Linear(4, 4)})


def spectral(old: bool) -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.utils.spectral_norm(layer) if old else nn.utils.parametrizations.spectral_norm(layer)


LAYERS: dict[str, tuple[nn.Module, dict[str, tuple[str, bool, Any]]]] = {
    "Linear": (nn.Linear(5, 4), {"weight": ("matrix", True, 1), "bias": ("bias", False, 1)}),
    "Linear to one unit": (nn.Linear(5, 1), {"weight": ("other", False, 1), "bias": ("bias", False, 1)}),
    "Linear from one input": (nn.Linear(1, 5, bias=False), {"weight": ("other", False, 1)}),
    "Conv1d": (nn.Conv1d(3, 6, 3), {"weight": ("matrix", True, 1), "bias": ("bias", False, 1)}),
    "Conv2d": (nn.Conv2d(3, 6, 3, bias=False), {"weight": ("matrix", True, 1)}),
    "Conv3d": (nn.Conv3d(3, 6, 3, bias=False), {"weight": ("matrix", True, 1)}),
    "ConvTranspose2d": (nn.ConvTranspose2d(6, 3, 3, bias=False), {"weight": ("matrix", True, 1)}),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2, bias=False), {"weight": ("matrix", True, 2)}),
    "grouped, transposed": (
        nn.ConvTranspose2d(8, 4, 3, groups=2, bias=False),
        {"weight": ("matrix", True, 2)},
    ),
    "grouped to single rows": (
        nn.ConvTranspose2d(4, 4, 3, groups=4, bias=False),
        {"weight": ("depthwise", False, 1)},
    ),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), {"weight": ("depthwise", False, 1)}),
    "depthwise, multiplied": (nn.Conv2d(4, 8, 3, groups=4, bias=False), {"weight": ("depthwise", False, 1)}),
    "Embedding": (nn.Embedding(9, 4), {"weight": ("embedding", False, 1)}),
    "EmbeddingBag": (nn.EmbeddingBag(9, 4), {"weight": ("embedding", False, 1)}),
    "LayerNorm": (nn.LayerNorm(4), {"weight": ("norm", False, 1), "bias": ("norm", False, 1)}),
    "LayerNorm of images": (
        nn.LayerNorm((4, 6)),
        {"weight": ("norm", False, 1), "bias": ("norm", False, 1)},
    ),
    "BatchNorm": (nn.BatchNorm2d(4), {"weight": ("norm", False, 1), "bias": ("norm", False, 1)}),
    "GroupNorm": (nn.GroupNorm(2, 4), {"weight": ("norm", False, 1), "bias": ("norm", False, 1)}),
    "RMSNorm": (nn.RMSNorm((4, 4)), {"weight": ("norm", False, 1)}),
    "someone's norm": (RMSNorm2(scale=torch.ones(4, 4)), {"scale": ("norm", False, 1)}),
    "PReLU": (nn.PReLU(), {"weight": ("vector", False, 1)}),
    "Bilinear": (nn.Bilinear(4, 4, 4), {"weight": ("other", False, 1), "bias": ("bias", False, 1)}),
    "RNN": (
        nn.RNN(5, 4),
        {
            "weight_ih_l0": ("matrix", True, 1),
            "weight_hh_l0": ("matrix", True, 1),
            "bias_ih_l0": ("bias", False, 1),
            "bias_hh_l0": ("bias", False, 1),
        },
    ),
    "GRU": (
        nn.GRU(5, 4, bias=False),
        {"weight_ih_l0": ("matrix", True, 3), "weight_hh_l0": ("matrix", True, 3)},
    ),
    "LSTM": (
        nn.LSTM(5, 4, bias=False, bidirectional=True),
        {f"weight_{kind}_l0{way}": ("matrix", True, 4) for way in ("", "_reverse") for kind in ("ih", "hh")},
    ),
    "LSTM, projected": (
        nn.LSTM(5, 4, bias=False, proj_size=2),
        {
            "weight_ih_l0": ("matrix", True, 4),
            "weight_hh_l0": ("matrix", True, 4),
            "weight_hr_l0": ("matrix", True, 1),
        },
    ),
    "LSTM of one unit": (
        nn.LSTM(5, 1, bias=False),
        {"weight_ih_l0": ("other", False, 1), "weight_hh_l0": ("other", False, 1)},
    ),
    "attention": (
        nn.MultiheadAttention(4, 2),
        {
            "in_proj_weight": ("matrix", True, 3),
            "in_proj_bias": ("bias", False, 1),
            "out_proj.weight": ("matrix", True, 1),
            "out_proj.bias": ("bias", False, 1),
        },
    ),
    "attention, sizes differ": (
        nn.MultiheadAttention(4, 2, kdim=6, vdim=5, bias=False, add_bias_kv=True),
        {
            "q_proj_weight": ("matrix", True, 1),
            "k_proj_weight": ("matrix", True, 1),
            "v_proj_weight": ("matrix", True, 1),
            "bias_k": ("other", False, 1),
            "bias_v": ("other", False, 1),
            "out_proj.weight": ("matrix", True, 1),
        },
    ),
    "weight norm": (
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4, bias=False)),
        {
            "parametrizations.weight.original0": ("parametrised", False, 1),
            "parametrizations.weight.original1": ("parametrised", False, 1),
        },
    ),
    "orthogonal": (
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4, bias=False)),
        {"parametrizations.weight.original": ("parametrised", False, 1)},
    ),
    "spectral norm": (
        spectral(old=False),
        {"bias": ("bias", False, 1), "parametrizations.weight.original": ("parametrised", False, 1)},
    ),
    "spectral norm, old": (
        spectral(old=True),
        {"bias": ("bias", False, 1), "weight_orig": ("parametrised", False, 1)},
    ),
    "a matrix of one's own": (Named(mixing=torch.ones(4, 4)), {"mixing": ("matrix", True, 1)}),
    "a matrix of one's own, unnamed": (Named(scores=torch.ones(4, 4)), {"scores": ("other", False, 1)}),
    "a stack of one's own": (Named(weights=torch.ones(3, 4, 4)), {"weights": ("other", False, 1)}),
    "experts": (Named(experts=torch.ones(3, 4, 4)), {"experts": ("matrix", True, 1)}),
    "cells": (
        nn.GRUCell(5, 4, bias=False),
        {"weight_ih": ("matrix", True, 3), "weight_hh": ("matrix", True, 3)},
    ),
    "a vector of one's own": (Named(gain=torch.ones(4)), {"gain": ("vector", False, 1)}),
    "a bias of one's own": (Named(bias_table=torch.ones(4, 4)), {"bias_table": ("bias", False, 1)}),
    "positions": (Named(pos_embed=torch.ones(1, 5, 4)), {"pos_embed": ("other", False, 1)}),
    "positions, plain": (Named(position=torch.ones(5, 4)), {"position": ("embedding", False, 1)}),
    "tokens": (Named(cls_token=torch.ones(2, 4)), {"cls_token": ("embedding", False, 1)}),
    "complex": (Named(mixing=torch.ones(4, 4, dtype=torch.complex64)), {"mixing": ("other", False, 1)}),
}


@pytest.mark.parametrize(("module", "expected"), LAYERS.values(), ids=LAYERS)
def test_every_kind_of_layer(module, expected):
    found = {name[3:]: d for name, d in decisions(last(module)).items() if name.startswith("it.")}
    assert {name: (d.role, d.isometric, d.split) for name, d in found.items()} == expected


def test_reasons_say_what_to_do():
    found = decisions(last(Named(weights=torch.ones(3, 4, 4), scores=torch.ones(4, 4))))
    assert "batch_dims={'it.weights': 1}" in found["it.weights"].reason
    assert "split={'it.scores': 1}" in found["it.scores"].reason
    assert decisions(last(nn.Linear(5, 1)))["it.weight"].reason == "one side of the matrix is 1"
    assert "not real floating" in decisions(last(LAYERS["complex"][0]))["it.mixing"].reason


@pytest.mark.parametrize("name", ["qkv", "c_attn", "in_proj", "attn_QKV_fused", "Wqkv", "to_qkv"])
def test_linear_layers_named_like_fused_projections(name):
    found = decisions(last(nn.ModuleDict({name: nn.Linear(4, 12)})))
    assert found[f"it.{name}.weight"].split == 3
    odd = decisions(last(nn.ModuleDict({name: nn.Linear(4, 13)})))
    assert odd[f"it.{name}.weight"].split == 1


def test_key_value_projections_are_two():
    assert decisions(last(nn.ModuleDict({"to_kv": nn.Linear(4, 8)})))["it.to_kv.weight"].split == 2


def test_grouped_queries_are_split_by_their_rows():
    model = nn.ModuleDict({"qkv": nn.Linear(8, 16, bias=False), "head": nn.Linear(8, 4, bias=False)})
    groups = param_groups(model, split={"*qkv.weight": (8, 4, 4)})
    assert groups.decisions[0].split == (8, 4, 4)
    optimizer = AdamO(groups, lr=0.1)
    assert optimizer.param_groups[0]["isometry_split"] == (8, 4, 4)
    assert optimizer.report().matrices == 4


@pytest.mark.parametrize("split", [5, (8, 4), (8, 8, 8), 0])
def test_splits_that_do_not_fit(split):
    with pytest.raises(IsoplastError, match=r"qkv\.weight: .*split"):
        param_groups(nn.ModuleDict({"qkv": nn.Linear(8, 16)}), split={"*.weight": split})


def test_blocks_of_single_rows_are_left_alone():
    found = decisions(last(nn.Linear(4, 4)), split={"it.weight": 4})
    assert (found["it.weight"].role, found["it.weight"].isometric) == ("other", False)
    found = decisions(last(nn.Linear(4, 4)), split={"it.weight": (3, 1)})
    assert not found["it.weight"].isometric


def test_heads_of_attention_one_by_one():
    found = decisions(last(nn.MultiheadAttention(8, 4)), per_head=True)
    assert found["it.in_proj_weight"].split == 12
    assert found["it.out_proj.weight"].split == 1
    apart = decisions(last(nn.MultiheadAttention(8, 4, kdim=6, vdim=6)), per_head=True)
    assert {apart[f"it.{name}_proj_weight"].split for name in "qkv"} == {4}


def test_heads_of_attention_written_by_hand():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            self.qkv = nn.Linear(8, 24)
            self.q_proj = nn.Linear(8, 8)
            self.to_kv = nn.Linear(8, 16)
            self.out_proj = nn.Linear(8, 8)

    found = decisions(last(Attention()), per_head=True)
    assert [found[f"it.{name}.weight"].split for name in ("qkv", "q_proj", "to_kv", "out_proj")] == [
        6,
        2,
        4,
        1,
    ]
    whole = decisions(last(Attention()))
    assert [whole[f"it.{name}.weight"].split for name in ("qkv", "q_proj", "to_kv", "out_proj")] == [
        3,
        1,
        2,
        1,
    ]


def test_stacks_of_matrices():
    for name, said in (("experts", {}), ("weights", {"*weights": 1})):
        groups = param_groups(last(Named(**{name: torch.ones(3, 4, 5)})), batch_dims=said)
        assert groups.decisions[0].isometric
        assert AdamO(groups).report().matrices == 4


def test_tied_weights_are_left_alone():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 9)})
    model["head"].weight = model["embed"].weight
    found = decisions(model)
    assert (found["embed.weight"].role, found["embed.weight"].isometric) == ("tied", False)
    assert found["embed.weight"].reason == "the same tensor as head.weight"
    assert found["body.weight"].isometric


def test_two_names_within_one_module_are_tied():
    module = Named(a=torch.ones(4, 4))
    module.b = module.a
    assert decisions(last(module))["it.a"].role == "tied"


def test_a_module_used_twice_is_one():
    layer = nn.Linear(4, 4)
    found = decisions(nn.Sequential(layer, nn.ReLU(), layer))
    assert found["0.weight"].isometric


def test_lazy_layers_must_have_seen_a_batch():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(IsoplastError, match=r"0\.weight is not initialised yet: run one batch"):
        param_groups(model)
    model(torch.ones(2, 3))
    assert decisions(model)["0.weight"].isometric


def test_weights_that_are_orthogonal_by_construction():
    layer = nn.Linear(4, 4)
    layer.weight.hard_isometry = True
    found = decisions(last(layer))
    assert (found["it.weight"].role, found["it.weight"].isometric) == ("isometric", False)
    with pytest.raises(ValueError, match="the two would fight"):
        AdamO(layer.parameters())


@pytest.mark.parametrize("layers", ["ccl", "llc", "cc", "ll"])
def test_head_is_the_last_layer_of_a_chain(layers):
    made = [nn.Linear(4, 4) if kind == "l" else nn.Conv1d(4, 4, 1) for kind in layers]
    roles = [d.role for name, d in decisions(nn.Sequential(*made), head=0.0).items() if "weight" in name]
    assert roles == ["matrix"] * (len(layers) - 1) + ["head"]


def test_a_head_that_is_not_there_is_refused():
    with pytest.raises(IsoplastError, match=r"head=0 was asked for, and Sequential has no linear layer"):
        param_groups(nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4)), head=0.0)


@pytest.mark.parametrize("head", [None, 0.0, 0.25])
@pytest.mark.parametrize("isometry", [None, 0.5])
def test_strength_of_the_head(head, isometry):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    found = decisions(model, head=head, isometry=isometry)
    assert found["2.weight"].isometric is (head != 0)
    optimizer = AdamO(param_groups(model, head=head, isometry=isometry), isometry=0.125)
    strength = {
        name: group["isometry"]
        for group in optimizer.param_groups
        for name in group["param_names"]
    }  # fmt: skip
    body = 0.125 if isometry is None else isometry
    assert strength == {
        "0.weight": body,
        "0.bias": 0.0,
        "2.weight": body if head is None else head,
        "2.bias": 0.0,
    }


def test_isometry_time_of_all_matrices():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = AdamO(param_groups(model, isometry_time=500), lr=1e-2)
    assert optimizer.report().time_constants == pytest.approx((500, 500))


def test_excluding_by_pattern():
    model = nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 4)}
    )
    found = decisions(model, exclude=["encoder.*", "*.bias"])
    assert [d.role for d in found.values()] == ["excluded"] * 4 + ["head", "excluded"]
    assert not decisions(model, exclude=["head.weight"])["head.weight"].isometric


@pytest.mark.parametrize(
    "kwargs", [{"exclude": ["encoder.*"]}, {"split": {"encoder.*": 3}}, {"batch_dims": {"encoder.*": 1}}]
)
def test_patterns_that_match_nothing(kwargs):
    with pytest.raises(
        IsoplastError, match=r"no parameter is named like 'encoder\.\*'; names look like '0\.weight'"
    ):
        param_groups(nn.Sequential(nn.Linear(4, 4)), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"isometry": -1.0}, "Invalid isometry value: -1.0"),
        ({"isometry": float("nan")}, "Invalid isometry value: nan"),
        ({"isometry": float("inf")}, "Invalid isometry value: inf"),
        ({"head": -1.0}, "Invalid head value: -1.0"),
        ({"isometry": 0.1, "isometry_time": 10}, "exclude each other"),
    ],
)
def test_values_out_of_range(kwargs, words):
    with pytest.raises(IsoplastError, match=words):
        param_groups(nn.Sequential(nn.Linear(4, 4)), **kwargs)


def test_printing_shows_every_decision():
    model = nn.Sequential(
        nn.Embedding(100, 8), nn.LayerNorm(8), nn.Linear(8, 8), Named(temperature=torch.ones(()))
    )
    text = str(param_groups(model, head=0.25))
    lines = text.splitlines()
    assert len(lines) == 1 + len(list(model.parameters()))
    assert lines[0].split() == ["parameter", "shape", "role", "isometry", "reason"]
    assert lines[1].split()[:4] == ["0.weight", "100x8", "embedding", "no"]
    cells = {line.split()[0]: line.split()[1:4] for line in lines[1:]}
    assert cells["2.weight"] == ["8x8", "head", "0.25"]
    assert cells["3.temperature"][0] == "scalar"
    assert param_groups(nn.Sequential()) == []


@pytest.mark.parametrize("every", [1, 3])
def test_only_the_chosen_move(every):
    """The groups at work: without a task exactly the parameters that the table calls isometric move."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "norm": nn.LayerNorm(4),
            "conv": nn.Conv2d(4, 8, 3, groups=2),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "rnn": nn.LSTM(4, 4),
            "head": nn.Linear(4, 3),
        }
    )
    groups = param_groups(model)
    for make in (
        lambda: AdamO(copy.deepcopy(list(groups)), isometry=0.5, isometry_every=every),
        lambda: torch.optim.SGD(copy.deepcopy(list(groups)), lr=1e-3),
    ):
        optimizer = make()
        if isinstance(optimizer, torch.optim.SGD):
            attach(optimizer, isometry=0.5, every=every)
        params = {
            name: p
            for group in optimizer.param_groups
            for name, p in zip(group["param_names"], group["params"], strict=True)
        }
        before = {name: p.detach().clone() for name, p in params.items()}
        for _ in range(3):
            for p in params.values():
                p.grad = torch.zeros_like(p)
            optimizer.step()
        moved = {name for name, p in params.items() if not torch.equal(p.detach(), before[name])}
        assert moved == {d.name for d in groups.decisions if d.isometric}


def test_works_with_any_optimizer_without_isometry():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(param_groups(model), lr=0.5).step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old - 0.5)
