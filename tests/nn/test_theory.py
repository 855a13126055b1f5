"""Section 3 of arXiv:2606.09762: networks that are isometric almost everywhere. float64 throughout."""

import itertools

import pytest
import torch
from torch import nn

from isoplast.isometry import polar_factor
from isoplast.nn import GroupSort, IsometricLinear, MaxMin, build

# Products of five layers of 24 features in float64.
EXACT = 1e-10


def network(sizes: list[int], activation: nn.Module, bias: bool = True) -> nn.Sequential:
    """Orthonormal weights (exact polar factors), random biases, the same nonlinearity between all layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(polar_factor(torch.randn(outputs, inputs, dtype=torch.float64)))
            if bias:
                linear.bias.normal_()
        layers += [linear, activation]
    return nn.Sequential(*layers[:-1])


def isometric_mlp(inputs: int, classes: int) -> nn.Module:
    settings = dict(width=16, activation="maxmin", linear="isometric")
    return build("mlp", input_shape=(inputs,), classes=classes, **settings).double()


def sigma(function, x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(function))(x))


def ones_like(values: torch.Tensor) -> bool:
    return torch.allclose(values, torch.ones_like(values), atol=EXACT, rtol=0)


@pytest.mark.parametrize("activation", [MaxMin(), GroupSort(4)])
def test_square_layers_and_the_whole_network_have_isometric_jacobians(activation):
    torch.manual_seed(0)
    net = network([24] * 6, activation)
    x = torch.randn(20, 24, dtype=torch.float64)
    assert ones_like(sigma(net, x))
    hidden = x
    for index in range(0, len(net) - 1, 2):  # Eq 11-13, layer by layer at the points it sees
        layer = net[index : index + 2]
        assert ones_like(sigma(layer, hidden))
        hidden = layer(hidden)


def test_forward_differences_are_preserved_within_a_linear_region_and_norms_without_bias():
    torch.manual_seed(1)
    net = network([24] * 4, MaxMin(), bias=False)
    x = torch.randn(50, 24, dtype=torch.float64)
    assert torch.allclose(net(x).norm(dim=1), x.norm(dim=1), atol=EXACT)
    step = 1e-9 * torch.randn_like(x)
    moved = (net(x + step) - net(x)).norm(dim=1) / step.norm(dim=1)
    assert torch.allclose(moved, torch.ones_like(moved), atol=1e-5)  # 1e-16 over 1e-9, times a few


def test_wide_networks_preserve_norms_backward():
    """Eq 14 where it holds: B B^T = I, for layers with no more outputs than inputs."""
    torch.manual_seed(2)
    sizes = [24, 16, 16, 8, 4]
    net = network(sizes, MaxMin())
    x = torch.randn(20, 24, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(net))(x)
    assert ones_like(torch.linalg.svdvals(jacobians))
    v = torch.randn(4, dtype=torch.float64)
    pulled = jacobians.mT @ v
    assert torch.allclose(pulled.norm(dim=1), v.norm().expand(20), atol=EXACT)


def test_tall_networks_preserve_norms_forward_and_not_backward():
    """The counterexample to Eq 14 as printed: J^T J = I does not give |J^T v| = |v|."""
    torch.manual_seed(3)
    net = network([4, 8, 16], MaxMin())
    x = torch.randn(20, 4, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(net))(x)
    assert ones_like(torch.linalg.svdvals(jacobians))
    v = torch.randn(16, dtype=torch.float64)
    assert ((jacobians.mT @ v).norm(dim=1) < 0.9 * v.norm()).all()


def test_narrow_then_wide_loses_what_the_bottleneck_drops():
    torch.manual_seed(4)
    values = sigma(network([8, 4, 8], MaxMin()), torch.randn(5, 8, dtype=torch.float64))
    expected = torch.tensor([1.0] * 4 + [0.0] * 4, dtype=torch.float64)
    # Zero singular values come out at the square root of rounding at worst.
    assert torch.allclose(values, expected.expand(5, 8), atol=1e-7)


def test_relu_layers_are_partial_isometries_and_their_products_are_not():
    torch.manual_seed(5)
    net = network([64] * 3, nn.ReLU())
    x = torch.randn(10, 64, dtype=torch.float64)
    one = sigma(net[:2], x)
    assert ((one - 1).abs().lt(EXACT) | one.abs().lt(1e-7)).all()
    assert one.gt(0.5).double().mean() < 0.7  # about half the directions are lost
    two = sigma(nn.Sequential(*net, nn.ReLU()), x)
    assert (two.gt(0.05) & two.lt(0.95)).any()


def test_no_pair_of_points_is_pulled_apart():
    """Gradient ascent on |f(x) - f(y)| / |x - y| cannot exceed 1."""
    torch.manual_seed(6)
    net = build(
        "mlp", input_shape=(12,), classes=4, width=16, activation="maxmin", linear="isometric"
    ).double()
    net.head = IsometricLinear(16, 4, dtype=torch.float64)
    x = torch.randn(64, 12, dtype=torch.float64, requires_grad=True)
    y = torch.randn(64, 12, dtype=torch.float64, requires_grad=True)
    opt = torch.optim.Adam([x, y], lr=0.05)
    for _ in range(100):
        ratio = (net(x) - net(y)).norm(dim=1) / (x - y).norm(dim=1)
        opt.zero_grad()
        (-ratio.sum()).backward()
        opt.step()
    # Training-mode layers in float64 iterate until |sigma - 1| < 1e-12.
    assert ratio.max() <= 1 + EXACT
    assert ratio.max() > 0.95  # the bound is attained


def test_the_raw_weights_of_the_isometric_network_are_free_and_its_jacobian_is_not():
    torch.manual_seed(7)
    net = build(
        "mlp", input_shape=(16,), classes=16, width=16, activation="maxmin", linear="isometric"
    ).double()
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.add_(0.1 * torch.randn_like(layer.weight)).mul_(5.0)
    body = nn.Sequential(*[m for pair in zip(net.layers, net.activations, strict=True) for m in pair])
    x = torch.randn(10, 16, dtype=torch.float64)
    conditions = [torch.linalg.cond(layer.weight) for layer in net.layers]
    assert 2 < min(conditions) < max(conditions) < 10
    assert ones_like(sigma(body, x))
