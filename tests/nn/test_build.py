"""build(): names, options, shapes, initialisation, refusals."""

import dataclasses

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.nn import ACTIVATIONS, build, names, spec


def test_mlp_is_the_papers_by_default():
    net = build("mlp", input_shape=(3, 32, 32), classes=10)
    weights = {name: tuple(p.shape) for name, p in net.named_parameters() if p.dim() == 2}
    assert weights == {
        "layers.0.weight": (512, 3072),
        "layers.1.weight": (512, 512),
        "layers.2.weight": (512, 512),
        "head.weight": (10, 512),
    }
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert isinstance(net.head, nn.Linear)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            sigma = torch.linalg.svdvals(parameter)
            assert torch.allclose(sigma, torch.ones_like(sigma), atol=1e-4)  # float32 QR


def test_depth_counts_hidden_layers():
    net = build("mlp", input_shape=(64,), classes=10, width=16, depth=4)
    assert len([p for p in net.parameters() if p.dim() == 2]) == 5


def test_gains_reach_the_hidden_layers_and_the_head():
    net = build("mlp", input_shape=(8,), classes=4, width=8, gain=2.0**0.5, head_gain=0.01)
    assert torch.allclose(torch.linalg.svdvals(net.layers[1].weight), torch.full((8,), 2.0**0.5), atol=1e-4)
    assert torch.allclose(torch.linalg.svdvals(net.head.weight), torch.full((4,), 0.01), atol=1e-4)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("normalization", [None, "layernorm"])
def test_every_activation_fits_its_neighbours(activation, normalization):
    net = build(
        "mlp", input_shape=(6,), classes=3, width=16, activation=activation, normalization=normalization
    )
    net(torch.randn(5, 6)).sum().backward()
    doubled = activation in ("crelu", "fourier")
    assert net.head.in_features == (32 if doubled else 16)
    assert all(p.grad is not None for p in net.parameters())


def test_hidden_activations_are_modules_of_their_own():
    net = build("mlp", input_shape=(6,), classes=3, width=16)
    assert [name for name, m in net.named_modules() if isinstance(m, nn.ReLU)] == [
        f"activations.{i}" for i in range(3)
    ]
    assert len({id(m) for m in net.activations}) == 3


def test_build_draws_only_from_the_global_generator():
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(build("mlp", input_shape=(6,), classes=3, width=16))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


@pytest.mark.parametrize("name", names())
def test_specs_are_frozen_hashable_and_complete(name):
    chosen = spec(name)
    assert hash(chosen) == hash(spec(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.activation = "gelu"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "mpl"}, "did you mean 'mlp'"),
        ({"name": "mlp", "widht": 3}, "did you mean 'width'"),
        ({"name": "mlp", "activation": "maxmim"}, "did you mean 'maxmin'"),
        ({"name": "mlp", "linear": "isometrc"}, "linear kind"),
        ({"name": "mlp", "init": "orthogonl"}, "did you mean 'orthogonal'"),
        ({"name": "mlp", "normalization": "batchnrom"}, "normalization"),
        ({"name": "mlp", "width": 0}, "width of network mlp is 0"),
        ({"name": "mlp", "depth": -1}, "depth of network mlp is -1"),
        ({"name": "mlp", "gain": 0.0}, "gain of network mlp is 0.0"),
        ({"name": "mlp", "classes": 0}, "classes is 0"),
        ({"name": "mlp", "input_shape": ()}, "input_shape"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments, words):
    arguments = {"input_shape": (4,), "classes": 2, **arguments}
    with pytest.raises(IsoplastError, match=words) as caught:
        build(arguments.pop("name"), **arguments)
    assert "\n" not in str(caught.value)
