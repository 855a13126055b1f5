"""isometric_init_ on every layer kind."""

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import conv_singular_values
from isoplast.isometry import matrix_views
from isoplast.nn import isometric_init_

LAYERS = [
    (nn.Linear(6, 4), "weight", 1),
    (nn.Linear(4, 6), "weight", 1),
    (nn.Conv1d(3, 8, 3), "weight", 1),
    (nn.Conv2d(3, 8, 3), "weight", 1),
    (nn.Conv2d(4, 8, 3, groups=2), "weight", 2),
    (nn.Conv3d(2, 4, 2), "weight", 1),
    (nn.ConvTranspose2d(4, 6, 3), "weight", 1),
    (nn.MultiheadAttention(8, 2), "in_proj_weight", 3),
    (nn.MultiheadAttention(8, 2), "out_proj.weight", 1),
    (nn.MultiheadAttention(8, 2, kdim=6, vdim=6), "k_proj_weight", 1),
    (nn.LSTM(5, 4), "weight_ih_l0", 4),
    (nn.GRU(5, 4), "weight_hh_l0", 3),
    (nn.RNN(5, 4), "weight_hh_l0", 1),
]


@pytest.mark.parametrize(("layer", "name", "blocks"), LAYERS, ids=lambda v: str(v)[:30])
def test_every_matrix_of_every_layer_kind_becomes_gain_times_an_isometry(layer, name, blocks):
    torch.manual_seed(0)
    isometric_init_(layer, 1.5, head_gain=1.5)
    for view in matrix_views(layer.get_parameter(name).detach(), split=blocks):
        sigma = torch.linalg.svdvals(view)
        assert torch.allclose(sigma, torch.full_like(sigma, 1.5), atol=1e-5)
    for other, parameter in layer.named_parameters():
        if "bias" in other:
            assert not parameter.any()


def test_norms_are_reset_and_embeddings_left_alone():
    net = nn.Sequential(
        nn.Embedding(5, 4), nn.LayerNorm(4), nn.BatchNorm1d(4), nn.RMSNorm(4), nn.Linear(4, 4)
    )
    for module in net[1:4]:
        nn.init.uniform_(module.weight)
    table = net[0].weight.clone()
    isometric_init_(net)
    assert torch.equal(net[0].weight, table)
    assert all(torch.equal(module.weight, torch.ones(4)) for module in net[1:4])


def test_the_head_is_the_attribute_or_the_last_linear_layer():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    isometric_init_(net, head_gain=0.01)
    assert torch.allclose(torch.linalg.svdvals(net[2].weight.detach()), torch.full((2,), 0.01), atol=1e-6)
    assert torch.allclose(torch.linalg.svdvals(net[0].weight.detach()), torch.ones(4), atol=1e-5)


def test_branch_ends_are_scaled_down():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(x)))

    net = nn.Sequential(*[Block() for _ in range(4)], nn.Linear(8, 2))
    isometric_init_(net, 2.0, branch_ends=["*.down"], branch_gain=0.5)
    for block in net[:4]:
        assert torch.allclose(
            torch.linalg.svdvals(block.up.weight.detach()), torch.full((8,), 2.0), atol=1e-5
        )
        assert torch.allclose(torch.linalg.svdvals(block.down.weight.detach()), torch.ones(8), atol=1e-5)
    isometric_init_(net, branch_ends=["*.down"], branch_gain=0.0)
    x = torch.randn(3, 8)
    assert torch.equal(net[:4](x), x)


def test_delta_follows_stride_and_padding():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 16, 3, stride=2, padding=1), nn.Conv2d(2, 8, 2, 2)
    )
    isometric_init_(net, conv="delta")
    for conv in net:
        values = conv_singular_values(conv, 6).values
        assert torch.allclose(values, torch.ones_like(values), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(gain=0.0), "gain of isometric_init_ is 0.0"),
        (dict(branch_gain=-1.0), "branch_gain"),
        (dict(conv="delta-orthogonal"), "choose 'kernel' or 'delta'"),
        (dict(branch_ends=["*.donw"]), r"no module is named like '\*.donw'"),
        (dict(conv="delta"), "stem is Conv2d"),
    ],
)
def test_bad_settings_are_refused_in_one_line(arguments, words):
    net = nn.ModuleDict({"stem": nn.Conv2d(4, 4, 3, groups=2), "head": nn.Linear(4, 2)})
    with pytest.raises(IsoplastError, match=words) as caught:
        isometric_init_(net, **arguments)
    assert "\n" not in str(caught.value)
