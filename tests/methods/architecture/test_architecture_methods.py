"""Normalisations, activations and dropout put into finished networks."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Training, training
from isoplast.nn import IntervalDropout, MaxMin, build

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (3, 8, 8), "width": 10, "depth": 2},
    "cnn": {"input_shape": (3, 8, 8), "channels": 4, "width": 10},
    "resnet18": {"input_shape": (3, 8, 8), "width": 4},
    "vit": {"input_shape": (3, 8, 8), "width": 8, "depth": 2, "heads": 2},
}


def network(net: str = "mlp", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(net, classes=5, **{**NETWORKS[net], **options})


def prepared(name: str, model: nn.Module, **settings: Any) -> nn.Module:
    return methods.get(name, **settings).prepare(model)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def unwrap(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, activation())][:-1]).double()


class Sharing(nn.Module):
    """One activation module behind several layers, which are read by others each."""

    def __init__(self, *widths: int, norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(b) if norm else nn.Identity() for b in widths[1:])
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        *body, last = self.layers
        for layer, norm in zip(body, self.norms, strict=False):
            x = self.act(norm(layer(x)))
        return last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["crelu", "fourier"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("widths", [(4, 6, 6, 3), (4, 6, 6, 6, 6, 3), (4, 6, 8, 6, 3), (4, 5, 3)])
def test_every_reader_of_a_shared_activation_is_widened(
    widths: tuple[int, ...], norm: bool, name: str
) -> None:
    model = prepared(name, Sharing(*widths, norm=norm))
    assert [layer.in_features for layer in model.layers] == [
        widths[0],
        *(2 * width for width in widths[1:-1]),
    ]
    assert model(torch.randn(2, widths[0])).shape == (2, widths[-1])


class Mixed(nn.Module):
    """One activation module behind a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.last, self.act = (
            nn.Conv2d(1, 4, 3),
            nn.Linear(4, 4),
            nn.Linear(4, 2),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.linear(self.act(self.conv(x)).mean((2, 3)))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["crelu", "fourier", "maxmin"])
def test_a_shared_activation_along_two_dimensions_is_refused(name: str) -> None:
    with pytest.raises(IsoplastError, match="act serves layers whose features lie in different dimensions"):
        prepared(name, Mixed())
    assert prepared("smooth-leaky", Mixed())(torch.randn(2, 1, 5, 5)).shape == (2, 2)


# --- normalisation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["layernorm", "batchnorm"])
@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18", "vit"])
def test_a_network_becomes_what_build_makes_with_that_normalisation(net: str, kind: str) -> None:
    if (net, kind) == ("vit", "batchnorm"):
        return
    bare = network(net, normalization=None)
    weights = copy.deepcopy(bare.state_dict())
    found = prepared(kind, bare)
    expected = network(net, normalization=kind)
    assert shapes(found) == shapes(expected)
    assert all(torch.equal(found.state_dict()[key], value) for key, value in weights.items())
    expected.load_state_dict(found.state_dict())
    if net in ("mlp", "cnn"):  # the others choose the scale of their branches when they are built
        torch.testing.assert_close(found(images()), expected(images()), rtol=0, atol=0)


def test_normalisations_of_another_kind_are_replaced_where_they_stand() -> None:
    for built, kind in (("batchnorm", "layernorm"), ("layernorm", "batchnorm")):
        for net in ("mlp", "cnn", "resnet18"):
            found = prepared(kind, network(net, normalization=built))
            assert shapes(found) == shapes(network(net, normalization=kind))
            found(images())


def test_a_network_that_is_normalised_that_way_stays_as_it_is() -> None:
    for net, kind in (("vit", "layernorm"), ("resnet18", "batchnorm"), ("cnn", "layernorm")):
        model = network(net, normalization=kind)
        before = list(model.modules())
        assert list(prepared(kind, model).modules()) == before


def test_layernorm_stands_between_layer_and_activation() -> None:
    model = unwrap(4, 6, 3)
    first, last = model[0], model[2]
    x = torch.randn(5, 4, dtype=torch.float64)
    hidden = first(x)
    centred = hidden - hidden.mean(1, keepdim=True)
    hidden = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt()
    expected = last(hidden.relu())
    found = prepared("layernorm", model, eps=1e-3)
    # Two orders of the same float64 sums of 6 terms.
    torch.testing.assert_close(found(x), expected, rtol=1e-12, atol=1e-13)
    assert next(found[1].parameters()).dtype == torch.float64
    assert not list(prepared("layernorm", unwrap(4, 6, 3), affine=False)[1].parameters())


def test_layernorm_in_front_of_a_channel_activation_is_over_channels_and_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    hidden = model[0](images())
    expected = F.layer_norm(hidden, hidden.shape[1:])
    seen: list[Tensor] = []
    found = prepared("layernorm", model)
    found[1][0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    found(images())
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-6)


def test_batchnorm_keeps_running_statistics_and_refuses_tokens() -> None:
    model = prepared("batchnorm", unwrap(4, 6, 3), momentum=0.5)
    x = torch.randn(8, 4, dtype=torch.float64)
    model(x)
    norm = model[1][0]
    torch.testing.assert_close(norm.running_mean, 0.5 * model[0](x).mean(0))
    with pytest.raises(
        IsoplastError, match=r"method batchnorm .* blocks.0.attention works on tokens: use layernorm"
    ):
        prepared("batchnorm", network("vit"))


# --- activations that keep the number of features -------------------------------------------------------


@pytest.mark.parametrize("name", ["maxmin", "smooth-leaky", "adalin", "interval-dropout"])
@pytest.mark.parametrize("net", list(NETWORKS))
def test_activations_are_replaced_and_weights_keep_their_values(net: str, name: str) -> None:
    model = network(net)
    weights = copy.deepcopy(model.state_dict())
    found = prepared(name, model)
    assert all(torch.equal(found.state_dict()[key], value) for key, value in weights.items())
    assert not any(isinstance(module, nn.ReLU) for module in found.modules())
    # A fresh one takes the checkpoint: the structure is final after prepare.
    prepared(name, network(net)).load_state_dict(found.state_dict())
    if name in ("maxmin", "smooth-leaky", "adalin"):
        built = network(net, activation=name)
        built.load_state_dict(found.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(found(images()), built(images()), rtol=1e-5, atol=1e-5)


def test_activations_of_the_outputs_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Softplus())
    found = prepared("maxmin", model)
    assert isinstance(found[1], MaxMin)
    assert isinstance(found[3], nn.Softplus)


def test_maxmin_needs_pairs() -> None:
    with pytest.raises(IsoplastError, match="method maxmin sorts features in pairs, and 3 gets 5: make the"):
        prepared("maxmin", unwrap(4, 6, 5, 2))


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_adalin_changes_nothing_until_it_has_learned(activation: str) -> None:
    model = network(activation=activation)
    before = model(images())
    found = prepared("adalin", model)
    assert torch.equal(found(images()), before)
    assert [p.shape for n, p in found.named_parameters() if "alpha" in n] == [(10,), (10,)]
    method = methods.get("adalin")
    run = Training(method, found, method.optimizer(found, 1e-2))
    for _ in range(3):
        run.step(lambda: cross_entropy(found(images()), torch.arange(6) % 5))
    assert all(p.abs().min() > 0 for n, p in found.named_parameters() if "alpha" in n)


def test_adalin_refuses_what_it_has_no_path_for() -> None:
    with pytest.raises(IsoplastError, match="method adalin has a linear path for ReLU, Tanh, GELU, and 1 is"):
        prepared("adalin", unwrap(4, 6, 2, activation=nn.SiLU))
    relu = nn.ReLU()
    shared = nn.Sequential(nn.Linear(4, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 2))
    with pytest.raises(IsoplastError, match="1 serves 2 layers: give each of them a module of its own"):
        prepared("adalin", shared)
    assert isinstance(prepared("smooth-leaky", shared)[3], type(shared[1]))  # without parameters it may


def test_interval_dropout_lets_each_side_through_at_its_rate() -> None:
    x = torch.cat((torch.ones(100_000), -torch.ones(100_000)))
    torch.manual_seed(0)
    layer = IntervalDropout(0.7)
    y = layer(x)
    assert set(y.tolist()) == {0.0, 1.0, -1.0}
    # Four standard deviations of a frequency of 100 000 draws are 4 sqrt(.7 x .3 / 1e5) = .006.
    assert y[:100_000].mean().item() == pytest.approx(0.7, abs=0.006)
    assert y[100_000:].mean().item() == pytest.approx(-0.3, abs=0.006)
    torch.testing.assert_close(layer.eval()(x[::100_000]), torch.tensor([0.7, -0.3]))
    before = torch.get_rng_state()
    assert torch.equal(IntervalDropout(1.0)(x), x.relu())
    assert torch.equal(torch.get_rng_state(), before)


# --- activations that double the features ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["crelu", "fourier"])
@pytest.mark.parametrize("net", ["mlp", "cnn", "vit"])
def test_a_network_becomes_what_build_makes_with_doubled_features(net: str, name: str) -> None:
    found = prepared(name, network(net))
    built = network(net, activation=name)
    assert shapes(found) == shapes(built)
    built.load_state_dict(found.state_dict())
    torch.testing.assert_close(found(images()), built(images()), rtol=0, atol=0)
    prepared(name, network(net)).load_state_dict(found.state_dict())


def test_crelu_by_hand_and_what_it_draws_anew() -> None:
    model = unwrap(4, 6, 3)
    first, last = copy.deepcopy(model[0]), copy.deepcopy(model[2])
    found = prepared("crelu", model)
    x = torch.randn(5, 4, dtype=torch.float64)
    z = first(x)
    expected = torch.cat((z.relu(), (-z).relu()), 1) @ found[2].weight.T + last.bias
    torch.testing.assert_close(found(x), expected, rtol=1e-12, atol=1e-13)
    weight = found[2].weight
    assert weight.shape == (3, 12)
    # torch's own initialisation, uniform within 1 / sqrt(inputs), filling most of it
    assert 0.8 * 12**-0.5 < weight.abs().max() <= 12**-0.5


def test_wider_layers_are_orthogonal_with_the_same_gain_if_the_old_ones_were() -> None:
    found = prepared("crelu", network("cnn", gain=1.5, head_gain=0.5))
    for name, gain in (("convs.1", 1.5), ("layers.0", 1.5), ("layers.1", 1.5), ("head", 0.5)):
        values = torch.linalg.svdvals(found.get_submodule(name).weight.detach().flatten(1))
        torch.testing.assert_close(values, torch.full_like(values, gain), rtol=1e-5, atol=0)
    # Delta-orthogonal kernels keep their tap, a head of zeros stays one.
    found = prepared("crelu", network("cnn", init="delta"))
    kernel = found.convs[1].weight.detach()
    values = torch.linalg.svdvals(kernel[:, :, 1, 1])
    torch.testing.assert_close(values, torch.ones_like(values), rtol=1e-5, atol=0)
    assert kernel.count_nonzero() == kernel[:, :, 1, 1].count_nonzero() == 4 * 8
    zero = network()
    nn.init.zeros_(zero.head.weight)
    assert not prepared("crelu", zero).head.weight.any()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: network("resnet18"),
            "doubles the features behind activation, which is added to other features of the old width: "
            "build the network with activation='crelu'",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
            "the normalisation 2 has the old width: put it in front of the activation",
        ),
        (
            lambda: network(linear="isometric"),
            r"layers.1 \(IsometricLinear\) cannot be made wider: build the network with activation='crelu'",
        ),
        (lambda: network(activation="crelu"), "which is no plain layer of units"),
        (tied, "cannot be made wider|is added to other features"),
    ],
)
def test_crelu_refuses_what_would_not_fit_and_touches_nothing(model: Any, message: str) -> None:
    refused = model()
    before = copy.deepcopy(dict(refused.named_parameters()))
    with pytest.raises(IsoplastError, match=message) as error:
        prepared("crelu", refused)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in refused.named_parameters())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(F.relu(self.first(inputs)))


@pytest.mark.parametrize(
    "name", ["crelu", "maxmin", "adalin", "dropout", "smooth-leaky", "interval-dropout", "layernorm"]
)
def test_activations_must_be_modules(name: str) -> None:
    with pytest.raises(
        IsoplastError, match=r"behind first is a function call: write it as a module, such as"
    ):
        prepared(name, Functional())


def test_a_network_without_activations_has_nothing_to_change() -> None:
    with pytest.raises(IsoplastError, match="method crelu found no hidden activation in Linear"):
        prepared("crelu", nn.Linear(3, 2))


def test_doubled_networks_are_not_made_single_again() -> None:
    with pytest.raises(IsoplastError, match="multiplies it by 2: build the network with activation='maxmin'"):
        prepared("maxmin", network(activation="crelu"))


# --- dropout --------------------------------------------------------------------------------------------


def test_dropout_acts_behind_the_activations_in_training_only() -> None:
    method, model = methods.get("dropout", p=0.25), network("cnn")
    before = model.eval()(images())
    names = list(model.state_dict())
    method.prepare(model)
    assert torch.equal(model(images()), before)
    assert list(model.state_dict()) == names
    seen: list[Tensor] = []
    model.activations[0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    model.train()(images(100))
    model.eval()(images(100))
    dropped, whole = seen
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    # About 100 x 256 / 2 active entries: four standard deviations of the rate are .015.
    rate = 1 - kept.sum() / (whole != 0).sum()
    assert rate.item() == pytest.approx(0.25, abs=0.02)
    copied = copy.deepcopy(model).train()
    assert not torch.equal(copied(images()), copied(images()))
    method.release()
    assert torch.equal(model.train()(images()), before)


# --- ranges and combinations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("layernorm", {"eps": 0}, "eps of method layernorm is 0.0: it must be positive"),
        ("batchnorm", {"momentum": 2}, r"momentum of method batchnorm is 2.0: it must be in \[0, 1\]"),
        ("smooth-leaky", {"alpha": 1}, r"alpha of method smooth-leaky is 1.0: it must be in \[0, 1\)"),
        ("smooth-leaky", {"power": 0}, "power of method smooth-leaky is 0.0: it must be positive"),
        ("dropout", {"p": 1}, r"p of method dropout is 1.0: it must be in \[0, 1\)"),
        ("interval-dropout", {"p": -0.1}, r"p of method interval-dropout is -0.1: it must be in \[0, 1\]"),
    ],
)
def test_what_is_out_of_range_is_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        methods.get(name, **settings)


def test_one_activation_and_one_normalisation_at_a_time() -> None:
    with pytest.raises(IsoplastError, match="both choose the nonlinearity"):
        methods.get("crelu+maxmin")
    with pytest.raises(IsoplastError, match="both choose the normalisation"):
        methods.get("layernorm+batchnorm")


@pytest.mark.parametrize("name", ["layernorm+crelu+dropout+adamo", "adamo+dropout+newton-schulz+fourier"])
def test_architectures_combine_in_any_order(name: str) -> None:
    run = training(name, network("cnn"))
    model = run.model
    assert model.convs[1].in_channels == 8
    assert [bool(activation._forward_hooks) for activation in model.activations] == 5 * [True]
    for _ in range(3):
        loss = run.step(lambda: cross_entropy(model(images()), torch.arange(6) % 5))
    assert loss.isfinite()
