"""The networks of the benchmarks: shapes, settings, structure, training."""

import copy
import pickle

import pytest
import torch
from torch import nn

from isoplast import AdamO, param_groups
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import conv_singular_values
from isoplast.nn import ACTIVATIONS, IsometricConv2d, IsometricLinear, build, names, to_plain

SMALL = {
    "mlp": dict(input_shape=(1, 8, 8), width=16),
    "cnn": dict(input_shape=(1, 8, 8), channels=8, width=16),
    "resnet18": dict(input_shape=(1, 8, 8), width=8, normalization=None),
    "vit": dict(input_shape=(1, 8, 8), width=16, depth=2),
    "gpt": dict(input_shape=(8,), width=16, depth=2),
    "octax-cnn": dict(input_shape=(1, 8, 8), width=16, depth=2),
}
CLASSES = 5


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return build(name, classes=CLASSES, **{**SMALL[name], **options})


def batch(name: str, n: int = 6) -> torch.Tensor:
    shape = SMALL[name]["input_shape"]
    return torch.randint(CLASSES, (n, *shape)) if name == "gpt" else torch.randn(n, *shape)


def test_the_table_above_covers_every_network():
    assert sorted(SMALL) == names()


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("linear", ["plain", "isometric"])
@pytest.mark.parametrize("activation", ["relu", "maxmin", "crelu", "adalin"])
def test_every_network_takes_every_setting(name, linear, activation):
    net = small(name, linear=linear, activation=activation)
    outputs = net(batch(name))
    assert outputs.shape == ((6, 8, CLASSES) if name == "gpt" else (6, CLASSES))
    outputs.square().sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", names())
def test_every_activation_fits_every_network(name):
    for activation in ACTIVATIONS:
        plain = small(name, width=16)(batch(name))
        outputs = small(name, activation=activation, width=16)(batch(name))
        assert outputs.shape == plain.shape, activation
        assert outputs.isfinite().all(), activation


@pytest.mark.parametrize("name", names())
def test_isometric_networks_have_one_plain_layer_the_head(name):
    net = small(name, linear="isometric")
    plain = [
        n
        for n, m in net.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and not isinstance(m, IsometricLinear | IsometricConv2d)
    ]
    assert plain == ["head"]
    x = batch(name)
    net.eval()
    assert torch.allclose(to_plain(net)(x), net(x), atol=1e-5)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("linear", ["plain", "isometric"])
def test_networks_learn_under_adamo(name, linear):
    net = small(name, linear=linear, activation="maxmin")
    opt = AdamO(param_groups(net), lr=3e-3)
    x = batch(name, 16)
    y = torch.randint(CLASSES, (16, 8) if name == "gpt" else (16,))
    losses = []
    for _ in range(12):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x).flatten(0, -2), y.flatten())
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", names())
def test_networks_copy_and_pickle(name):
    net = small(name, linear="isometric", activation="maxmin").eval()
    x = batch(name)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))


@pytest.mark.parametrize("name", names())
def test_hidden_nonlinearities_are_modules(name):
    net = small(name)
    found = [n for n, m in net.named_modules() if isinstance(m, nn.ReLU)]
    assert len(found) == {"mlp": 3, "cnn": 5, "resnet18": 17, "vit": 2, "gpt": 2, "octax-cnn": 5}[name]


def test_the_network_of_octax_is_that_of_the_paper():
    net = build("octax-cnn", input_shape=(4, 32, 64), classes=7, gain=2**0.5)
    hidden = torch.zeros(1, 4, 32, 64)
    sizes = []
    for conv in net.convs:
        hidden = conv(hidden)
        sizes.append(tuple(hidden.shape[1:]))
    assert sizes == [(32, 8, 32), (64, 4, 16), (64, 4, 16)]  # rows and columns over the stride: "SAME"
    assert [tuple(layer.weight.shape) for layer in net.layers] == [(64, 4096), (64, 64), (64, 64), (64, 64)]
    with pytest.raises(IsoplastError, match="needs square kernels"):
        build("octax-cnn", input_shape=(4, 32, 64), classes=7, init="delta")


@pytest.mark.parametrize("name", ["mlp", "cnn", "octax-cnn", "resnet18", "vit"])
@pytest.mark.parametrize("linear", ["plain", "isometric"])
def test_networks_can_be_traced(name, linear):
    """Methods that reset units find their consumers in the graph."""
    net = small(name, linear=linear, activation="maxmin")
    traced = torch.fx.symbolic_trace(net)
    x = batch(name)
    assert torch.allclose(traced(x), net(x), atol=1e-4)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert torch.allclose(traced(x), net(x), atol=1e-2)  # the weights are live, not constants


def test_cnn_is_the_papers():
    net = build("cnn", input_shape=(3, 32, 32), classes=100)
    assert [tuple(m.weight.shape) for m in net.convs] == [(32, 3, 3, 3), (32, 32, 3, 3), (32, 32, 3, 3)]
    assert [m.stride for m in net.convs] == [(1, 1), (1, 1), (2, 2)]
    assert [tuple(m.weight.shape) for m in net.layers] == [(256, 32 * 16 * 16), (256, 256)]
    assert net.head.weight.shape == (100, 256)


def test_odd_images_fit_the_cnn():
    assert build("cnn", input_shape=(2, 7, 9), classes=2)(torch.randn(1, 2, 7, 9)).shape == (1, 2)


def test_resnet18_has_18_weight_layers_besides_shortcuts():
    net = build("resnet18", input_shape=(3, 32, 32), classes=10, width=8)
    layers = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([n for n in layers if not n.endswith("shortcut")]) == 18
    assert len([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]) == 20
    full = build("resnet18", input_shape=(3, 32, 32), classes=10, bias=False)
    assert sum(p.numel() for p in full.parameters()) - 10 * 512 == 11_173_962 - 5_130


def test_delta_initialisation_makes_conv_operators_isometric():
    net = small("cnn", init="delta")
    for conv in list(net.convs)[1:]:
        spectrum = conv_singular_values(conv, 8)
        assert abs(spectrum.largest - 1) < 1e-5
        assert abs(spectrum.smallest - 1) < 1e-5
    kernel = small("cnn", init="orthogonal")
    assert conv_singular_values(kernel.convs[1], 8).largest > 1.2


def test_branches_keep_the_signal_of_order_one_without_normalisation():
    torch.manual_seed(1)
    net = build("vit", input_shape=(1, 8, 8), classes=5, width=64, depth=16, normalization=None)
    with torch.no_grad():
        tokens = torch.randn(32, 4, 64)
        start = tokens.std()
        for block in net.blocks:
            tokens = block(tokens)
    assert net.blocks[0].scale == 32**-0.5
    assert tokens.std() < 2.0 * start  # at most e^(1/2) = 1.65 in theory
    assert build("vit", input_shape=(1, 8, 8), classes=5).blocks[0].scale == 1.0


def test_gpt_is_causal_and_takes_short_sequences():
    net = small("gpt")
    x = torch.randint(CLASSES, (2, 8))
    changed = x.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % CLASSES
    assert torch.allclose(net(x)[:, :5], net(changed)[:, :5], atol=1e-5)
    assert torch.allclose(net(x[:, :3]), net(x)[:, :3], atol=1e-5)


def test_vit_cuts_patches_where_they_are():
    net = build("vit", input_shape=(2, 8, 12), classes=3, width=32, patch=4)
    with torch.no_grad():
        net.patches.weight.copy_(torch.eye(32))
        net.patches.bias.zero_()
    image = torch.randn(1, 2, 8, 12)
    seen = []
    net.patches.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(image)
    assert torch.allclose(seen[0][0, 4].view(2, 4, 4), image[0, :, 4:8, 4:8], atol=1e-6)


def test_attention_projections_are_four_matrices_or_one_per_head():
    net = small("vit", width=16)
    table = str(param_groups(net))
    for part in ("query", "key", "value", "output"):
        assert f"blocks.0.attention.{part}.weight" in table
    groups = param_groups(net, isometry=10.0, per_head=True)
    splits = {d.name: d.split for d in groups.decisions}
    for part, blocks in (("query", 4), ("key", 4), ("value", 4), ("output", 1)):
        assert splits[f"blocks.0.attention.{part}.weight"] == blocks
    opt = AdamO(groups, lr=1e-2, isometry_every=1)
    with torch.no_grad():
        net.blocks[0].attention.query.weight.mul_(1.05)
    for _ in range(20):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        opt.step()
    heads = net.blocks[0].attention.query.weight.detach().unflatten(0, (4, 4))
    assert torch.allclose(torch.linalg.svdvals(heads), torch.ones(4, 4), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cnn", dict(input_shape=(64,)), "needs images"),
        ("vit", dict(input_shape=(1, 10, 8)), "10 x 8 images do not divide into patches of 4"),
        ("vit", dict(width=18), "width 18 is not a multiple of 4 heads"),
        ("vit", dict(normalization="batchnorm"), "use 'layernorm' or None"),
        ("gpt", dict(input_shape=(3, 8, 8)), "token sequences"),
        ("resnet18", dict(branch_scale=0.0), "branch_scale of network resnet18 is 0.0"),
        ("mlp", dict(linear="isometric", gain=1.4), "isometric layers have gain 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options, words):
    with pytest.raises(IsoplastError, match=words) as caught:
        small(name, **options)
    assert "\n" not in str(caught.value)
