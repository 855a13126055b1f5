"""The matrices of a network and of its state dict are the same, over a zoo of networks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from isoplast.diagnostics import repair_, weight_spectra
from isoplast.nn import IsometricConv2d, IsometricLinear, build


class Own(nn.Module):
    """A module of one's own with these parameters and children."""

    def __init__(self, **members: Any) -> None:
        super().__init__()
        for name, value in members.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, Tensor) else value)


class Conv1D(Own):
    """GPT-2's linear layer."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__(weight=torch.randn(nx, nf), bias=torch.zeros(nf))


def tied() -> nn.Module:
    model = Own(wte=nn.Embedding(9, 8), body=nn.Linear(8, 8), lm_head=nn.Linear(8, 9, bias=False))
    model.lm_head.weight = model.wte.weight
    return model


def tied_layers() -> nn.Module:
    model = Own(first=nn.Linear(8, 8), second=nn.Linear(8, 8), third=nn.Linear(8, 8))
    model.third.weight = model.first.weight
    return model


def gpt2() -> nn.Module:
    block = Own(
        ln_1=nn.LayerNorm(8),
        attn=Own(c_attn=Conv1D(24, 8), c_proj=Conv1D(8, 8)),
        mlp=Own(c_fc=Conv1D(32, 8), c_proj=Conv1D(8, 32)),
    )
    return Own(wte=nn.Embedding(9, 8), wpe=nn.Embedding(5, 8), h=nn.ModuleList([block]), ln_f=nn.LayerNorm(8))


def llama() -> nn.Module:
    experts = Own(
        gate_up_proj=torch.randn(3, 8, 12),
        down_proj=torch.randn(3, 6, 8),
        gate_up_proj_bias=torch.ones(3, 12),
    )
    block = Own(
        self_attn=Own(qkv_proj=nn.Linear(8, 16, bias=False), o_proj=nn.Linear(8, 8, bias=False)),
        mlp=Own(gate=nn.Linear(8, 3, bias=False), experts=experts),
        input_layernorm=nn.RMSNorm(8),
    )
    block.self_attn.num_heads, block.self_attn.num_key_value_heads = 4, 2
    return Own(
        embed_tokens=nn.Embedding(9, 8), layers=nn.ModuleList([block]), lm_head=nn.Linear(8, 9, bias=False)
    )


def swin() -> nn.Module:
    attention = Own(
        relative_position_bias_table=torch.randn(9, 2), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8)
    )
    return Own(
        patch_embed=Own(proj=nn.Conv2d(3, 8, 2, 2)),
        pos_embed=torch.randn(1, 4, 8),
        cls_token=torch.randn(1, 1, 8),
        attn=attention,
        head=nn.Linear(8, 4),
    )


ZOO: dict[str, Any] = {
    **{
        name: functools.partial(build, name, input_shape=shape, classes=4, **{"width": 8} | extra)
        for name, shape, extra in (
            ("mlp", (6,), {}),
            ("cnn", (3, 8, 8), {"channels": 4}),
            ("resnet18", (3, 8, 8), {"width": 4}),
            ("vit", (3, 8, 8), {"heads": 2, "depth": 2}),
            ("gpt", (6,), {"heads": 2, "depth": 2}),
        )
    },
    "tied table": tied,
    "tied layers": tied_layers,
    "GPT-2": gpt2,
    "Llama with experts": llama,
    "Swin": swin,
    "keys and values": lambda: Own(to_q=nn.Linear(8, 8), to_kv=nn.Linear(8, 16), to_out=nn.Linear(8, 8)),
    "experts in a list": lambda: Own(experts=nn.ModuleList([nn.Linear(8, 8), nn.Conv1d(4, 4, 3)])),
    "torch's transformer": lambda: nn.Transformer(8, 2, 1, 1, 16),
    "attention of other sizes": lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=5, add_bias_kv=True),
    "recurrent": lambda: Own(
        rnn=nn.RNN(5, 4), gru=nn.GRU(5, 4), lstm=nn.LSTM(5, 6, 2, proj_size=3, bidirectional=True)
    ),
    "cells": lambda: Own(rnn=nn.RNNCell(5, 4), gru=nn.GRUCell(5, 4), lstm=nn.LSTMCell(5, 4)),
    "one unit": lambda: Own(lstm=nn.LSTM(5, 1), layer=nn.Linear(5, 1), last=nn.Linear(5, 4)),
    "tables": lambda: Own(
        tokens=nn.Embedding(9, 8),
        shared=nn.Embedding(9, 8),
        emb=nn.Embedding(9, 8),
        tok_emb=nn.Embedding(9, 8),
        word_embeddings=nn.Embedding(9, 8),
        relative_attention_bias=nn.Embedding(9, 2),
        entity_embedding=nn.EmbeddingBag(9, 8),
        wpe=nn.Embedding(9, 8),
        codebook=nn.Embedding(9, 8),
        vocab=nn.Embedding(9, 8),
        layer=nn.Linear(8, 8),
    ),
    "maps that are called like tables": lambda: Own(
        embed=nn.Linear(8, 8), patch_embedding=nn.Conv2d(3, 8, 2, bias=False), to_tokens=nn.Linear(8, 8)
    ),
    "positions": lambda: Own(
        positional_embedding=torch.randn(5, 8),
        rel_pos_h=torch.randn(5, 8),
        mask_token=torch.randn(2, 8),
        position=torch.randn(5, 8),
        class_embedding=torch.randn(2, 8),
        layer=nn.Linear(8, 8),
    ),
    "no maps": lambda: Own(
        A_log=torch.randn(8, 4), latents=torch.randn(5, 8), log_std=torch.randn(2, 8), layer=nn.Linear(8, 8)
    ),
    "maps of one's own": lambda: Own(
        W=torch.randn(4, 8), W_out=torch.randn(8, 4), kernel=torch.randn(8, 8), lora_A=torch.randn(4, 8)
    ),
    "stacks nobody names": lambda: Own(
        kernels=torch.randn(3, 4, 8), weights=torch.randn(2, 3, 4, 8), it=nn.Linear(4, 4)
    ),
    "norms of images": lambda: Own(norm=nn.LayerNorm((4, 6)), bn1=nn.BatchNorm2d(4), layer=nn.Linear(8, 8)),
    "weight norm": lambda: Own(
        new=parametrizations.weight_norm(nn.Linear(8, 8)),
        old=nn.utils.weight_norm(nn.Conv2d(3, 4, 3)),
        qkv=parametrizations.weight_norm(nn.Linear(8, 24)),
    ),
    "spectral norm": lambda: Own(
        new=parametrizations.spectral_norm(nn.Linear(8, 6)),
        old=nn.utils.spectral_norm(nn.Linear(8, 6)),
        up=nn.utils.spectral_norm(nn.ConvTranspose2d(4, 6, 3)),
    ),
    "isometric": lambda: Own(qkv=IsometricLinear(8, 24), conv=IsometricConv2d(3, 4, 3), last=nn.Linear(8, 8)),
    "depthwise": lambda: Own(
        stem=nn.Conv2d(3, 4, 3), depthwise=nn.Conv2d(4, 4, 3, groups=4), last=nn.Linear(8, 8)
    ),
    "dimensions": lambda: Own(
        one=nn.Conv1d(3, 4, 3), three=nn.Conv3d(3, 4, 2), up=nn.ConvTranspose1d(4, 3, 2)
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_a_state_dict_gives_what_its_module_gives(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    found, stored = weight_spectra(model), weight_spectra(model.state_dict())
    assert list(stored) == list(found)
    for name in found:
        # Parametrised weights are made by another formula there: float32 rounding.
        torch.testing.assert_close(
            stored[name].singular_values, found[name].singular_values, rtol=1e-4, atol=1e-5
        )
    assert set(found.left_out) <= set(stored.left_out) | {
        name for name in found.left_out if "parametr" in name
    }
    assert found.doubts == stored.doubts


CANNOT = {
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)), ["0"], ["0"]),
    "marked by its authors": (lambda: marked(), ["layer"], ["W", "layer"]),
    "a linear layer called like a table, without a bias": (
        lambda: Own(embed=nn.Linear(8, 8, bias=False), layer=nn.Linear(8, 8)),
        ["embed", "layer"],
        ["layer"],
    ),
    "a table called like a layer": (
        lambda: Own(users=nn.Embedding(9, 8), it=nn.Linear(8, 8)),
        ["it"],
        ["users", "it"],
    ),
    "a bilinear form": (lambda: Own(form=nn.Bilinear(3, 4, 5), it=nn.Linear(8, 8)), ["it"], ["form", "it"]),
    "an orthogonal parametrisation": (
        lambda: Own(q=parametrizations.orthogonal(nn.Linear(8, 8)), it=nn.Linear(8, 8)),
        ["q", "it"],
        ["it"],
    ),
}


def marked() -> nn.Module:
    model = Own(W=torch.randn(4, 8), layer=nn.Linear(8, 8))
    model.W._no_weight_decay = True
    return model


@pytest.mark.parametrize(("make", "of_module", "of_state"), CANNOT.values(), ids=CANNOT)
def test_what_a_state_dict_cannot_tell(make: Any, of_module: list[str], of_state: list[str]) -> None:
    """The list in the docstring of `weight_spectra`; a case that agrees one day leaves it."""
    model = make()
    found, stored = weight_spectra(model), weight_spectra(model.state_dict())
    assert (list(found), list(stored)) == (of_module, of_state)
    for name in set(found) & set(stored) - {"layer", "it"}:
        assert not torch.allclose(found[name].singular_values[0], stored[name].singular_values[0])


def test_repair_of_a_state_dict_projects_the_matrices_that_its_module_has() -> None:
    torch.manual_seed(0)
    for make in (gpt2, llama, ZOO["recurrent"], ZOO["keys and values"]):
        model = make()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        repair_(model, layers="all", forget=True)
        repair_(state, layers="all", forget=True)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, msg=name)
        for one in weight_spectra(state).values():
            torch.testing.assert_close(
                one.singular_values, torch.ones_like(one.singular_values), atol=1e-5, rtol=0
            )


def test_repair_knows_how_many_inputs_a_stored_layer_has() -> None:
    """Without inputs, biases below minus the root of the number of inputs are lifted: that is 4, not 16."""
    model = Own(c_fc=Conv1D(16, 4))
    model.c_fc.bias.data.copy_(torch.linspace(-4, 0, 16))
    repaired = repair_(model, layers="all", forget=True)
    below = int((torch.linspace(-4, 0, 16) <= -2).sum())
    assert repaired.layers["c_fc"].lifted == below == 8
