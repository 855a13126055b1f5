"""Names of parameters: which of them are maps between layers, which tables, biases, stacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from isoplast import AdamO, param_groups
from isoplast._core.layer_kinds import named_embedding, named_experts, named_map, named_normalisation

SOURCE = Path(__file__).parents[3] / "src" / "isoplast"

MAPS = (
    "weight", "W", "w", "w1", "w2", "W_q", "Wq", "W_out", "w_in", "Wqkv", "weight_ih", "in_proj_weight",
    "kernel", "up_proj", "projection", "mixing", "matrix", "transition_matrix", "lora_A", "U", "V",
    "gate_proj", "fc1", "experts",
)  # fmt: skip
NO_MAPS = (
    "A_log", "A_logs", "D", "dt", "latents", "queries", "memory", "prototypes", "centroids", "scale", "gamma",
    "log_std", "alpha", "freqs", "anchors", "temperature", "slots", "theta", "width", "u", "v",
)  # fmt: skip
TABLES = (
    "wte.weight", "wpe.weight", "embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight",
    "emb.weight", "tok_emb.weight", "pos_emb.weight", "embedding.weight", "embd.weight", "shared.weight",
    "token_embedding.weight", "lookup_table.weight", "codebook.weight", "vocab.weight",
    "encoder.embed.weight", "pos_embed", "cls_token", "positional_embedding", "position",
    "relative_position_bias_table", "rel_pos_h", "class_embedding", "decoder.mask_token",
    "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
)  # fmt: skip
LAYERS = (
    "layer.weight", "composition.weight", "remember.weight", "embeddings.proj.weight", "embed.0.weight",
    "fc.weight", "composer", "assembly.weight", "pos_mlp.fc.weight",
)  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_a_parameter_that_is_called_like_a_map_is_kept(name: str) -> None:
    assert named_map(name)
    assert decision(name).isometric


@pytest.mark.parametrize("name", NO_MAPS)
def test_any_other_is_left_alone_until_its_user_names_it(name: str) -> None:
    assert not named_map(name)
    found = decision(name)
    assert (found.role, found.isometric) == ("other", False)
    assert f"split={{'{name}': 1}}" in found.reason
    assert param_groups(module(name), split={name: 1}).decisions[0].isometric


def module(name: str) -> nn.Module:
    made = nn.Module()
    made.register_parameter(name, nn.Parameter(torch.randn(6, 4)))
    return made


def decision(name: str):
    return param_groups(module(name)).decisions[0]


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str) -> None:
    assert named_embedding(name)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_no_tables(name: str) -> None:
    assert not named_embedding(name)


def test_normalisations_and_stacks() -> None:
    assert all(
        map(named_normalisation, ("norm", "layers.0.input_layernorm", "bn1", "ln_f", "h.0.ln_2", "norm2"))
    )
    assert not any(map(named_normalisation, ("layer", "normal_proj", "lnot", "blend")))
    assert named_experts("layers.0.mlp.experts.w1")
    assert not named_experts("layers.0.mlp.experts.3.w1")


class StateSpace(nn.Module):
    """Mamba's parameters, a table of relative positions, biases of experts, S4's marks."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.randn(8, 4))
        self.relative_position_bias_table = nn.Parameter(torch.randn(9, 2))
        self.gate_up_proj_bias = nn.Parameter(torch.randn(3, 8))
        self.W = nn.Parameter(torch.randn(8, 4))
        self.weight = nn.Parameter(torch.randn(8, 4))
        self.layer = nn.Linear(4, 4)
        for marked in (self.W, self.layer.weight):
            setattr(
                marked, *{"mamba": ("_no_weight_decay", True), "s4": ("_optim", {"weight_decay": 0.0})}[mark]
            )


@pytest.mark.parametrize("mark", ["mamba", "s4"])
def test_only_maps_move(mark: str) -> None:
    torch.manual_seed(0)
    model = StateSpace(mark)
    optimizer = AdamO(param_groups(model), lr=1e-2, isometry=1.0, isometry_every=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(10):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["weight"]
    roles = {d.name: d.role for d in param_groups(model).decisions}
    assert roles["relative_position_bias_table"] == roles["gate_up_proj_bias"] == "bias"
    marked = next(d for d in param_groups(model).decisions if d.name == "W")
    assert marked.reason == "its authors marked it as free of weight decay"


class TokenEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(9, 4))


class NormedLinear(nn.Linear):
    pass


class LlamaRMSNorm(TokenEmbedding):
    pass


def test_classes_of_ones_own_are_known_by_their_names() -> None:
    model = nn.ModuleDict(
        {"a": TokenEmbedding(), "b": NormedLinear(4, 4), "c": LlamaRMSNorm(), "head": nn.Linear(4, 4)}
    )
    roles = [d.role for d in param_groups(model).decisions if d.name.endswith("weight")]
    assert roles == ["embedding", "matrix", "norm", "head"]


def test_no_other_file_keeps_a_list_of_kinds() -> None:
    """Three or more classes of torch.nn that name a kind, side by side, belong into layer_kinds."""
    kinds = (
        r"nn\.(?:\w*Conv\w*[123]d|BatchNorm[123]d|LayerNorm|GroupNorm|RMSNorm|ReLU|Tanh|GELU|Embedding\w*)"
    )
    several = re.compile(rf"{kinds}(?:\s*[,|]\s*{kinds}){{2}}")
    found = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if several.search(path.read_text()) and "layer_kinds" not in path.parts
    ]
    assert found == []
