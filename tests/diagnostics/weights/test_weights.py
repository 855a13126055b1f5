"""Weight spectra: known answers, what counts as a matrix, and what is done with lost numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import conv_singular_values, weight_spectra
from isoplast.isometry import effective_rank, effective_rank_energy, penalty, stable_rank
from isoplast.nn import MaxMin, build


def linear(matrix: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], dtype=matrix.dtype)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


NETWORKS = [
    ("mlp", dict(input_shape=(20,), width=16)),
    ("cnn", dict(input_shape=(3, 8, 8), channels=8, width=16)),
    ("resnet18", dict(input_shape=(3, 8, 8), width=4)),
    ("vit", dict(input_shape=(3, 8, 8), width=16, heads=2, depth=2)),
]


def test_numbers_of_a_known_spectrum() -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (4, 6))
    sigma = torch.tensor([4.0, 3.0, 2.0, 0.5], dtype=torch.float64)
    weight = left @ torch.diag(sigma) @ right[:4]
    found = weight_spectra(nn.Sequential(linear(weight)))["0"]
    close = dict(rtol=1e-12, atol=1e-12)  # float64
    torch.testing.assert_close(found.singular_values, sigma, **close)
    expected = dict(
        smallest=0.5, largest=4.0, mean=sigma.mean(), std=sigma.std(correction=0), condition_number=8.0,
        effective_rank=effective_rank(sigma), effective_rank_energy=effective_rank_energy(sigma),
        stable_rank=stable_rank(sigma), gram_deviation=penalty(weight), norm=weight.norm(), lipschitz=4.0,
        distance_to_isometry=torch.dist(weight, left @ right[:4]),
    )  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(float(value), rel=1e-12), name
    assert (found.shape, found.finite, found.complete) == ((4, 6), True, True)
    assert math.isnan(found.distance_from_initialisation)


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_orthogonal_networks_have_ones_everywhere(name: str, settings: dict) -> None:
    model = build(name, classes=4, **settings)
    found = weight_spectra(model)
    for layer in found.values():
        # float32 QR and svdvals of matrices up to 192 wide.
        torch.testing.assert_close(
            layer.singular_values, torch.ones_like(layer.singular_values), atol=2e-5, rtol=0
        )
        assert layer.effective_rank == pytest.approx(
            min(layer.shape[0], math.prod(layer.shape[1:])), rel=1e-4
        )
    assert found.condition_number == pytest.approx(1, abs=1e-4)
    assert found.gram_deviation < 1e-6
    assert (found.remarkable, found.finite) == ({}, True)


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_a_state_dict_gives_the_same_report(name: str, settings: dict) -> None:
    torch.manual_seed(0)
    model = build(name, classes=4, init="torch", **settings)
    found, stored = weight_spectra(model), weight_spectra(model.state_dict())
    assert list(found) == list(stored)
    for layer in found:
        assert torch.equal(found[layer].singular_values, stored[layer].singular_values)
    assert found.mean == stored.mean


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 2), (160, 140), (1, 40), (40, 1)])
def test_every_shape_against_float64(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    others = [nn.Linear(shape[1], shape[0]) for _ in range(3)]
    model = nn.Sequential(*others, linear(torch.randn(shape[1], shape[0]).t()), nn.Linear(3, 7))
    found = weight_spectra(model)
    expected = [str(i) for i in range(4)] if min(shape) > 1 else []  # a single row has no spectrum
    assert list(found) == [*expected, "4"]
    for name in expected:
        reference = torch.linalg.svdvals(model[int(name)].weight.detach().double())
        # Backward error of a float32 SVD: a few units of 2^-24 of the largest value.
        torch.testing.assert_close(
            found[name].singular_values.double(), reference, rtol=0, atol=5e-6 * float(reference[0])
        )


def test_what_is_measured_and_what_is_left_out() -> None:
    model = nn.Sequential(
        nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Conv2d(8, 8, 3, groups=8),
        nn.LSTM(4, 6), nn.MultiheadAttention(8, 2), nn.Linear(8, 1),
    )  # fmt: skip
    found = weight_spectra(model)
    assert list(found) == [
        "2", *(f"5.weight_{kind}_l0[{gate}]" for kind in ("ih", "hh") for gate in range(4)),
        *(f"6.in_proj_weight[{part}]" for part in "qkv"), "6.out_proj",
    ]  # fmt: skip
    assert set(found.left_out) == {"0.weight", "4.weight", "7.weight"}
    value = model[6].in_proj_weight[16:]
    torch.testing.assert_close(
        found["6.in_proj_weight[v]"].singular_values, torch.linalg.svdvals(value.detach())
    )


def test_a_state_dict_leaves_out_tables_and_depthwise_kernels_by_name_and_shape() -> None:
    model = nn.ModuleDict(
        dict(stem=nn.Conv2d(1, 4, 3), depthwise=nn.Conv2d(4, 4, 3, groups=4), embedding=nn.Embedding(5, 4))
    )
    found = weight_spectra(model.state_dict())
    assert (list(found), list(found.left_out)) == (["stem"], ["depthwise.weight", "embedding.weight"])


def test_a_grouped_convolution_is_a_block_diagonal_matrix() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 1, groups=2)
    whole = torch.block_diag(*layer.weight.detach().view(2, 3, 2))
    found = weight_spectra(nn.Sequential(layer))["0"]
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(whole)[:4])


def test_tied_weights_count_once() -> None:
    model = nn.ModuleDict(dict(table=nn.Embedding(7, 5), head=nn.Linear(5, 7), other=nn.Linear(5, 7)))
    model["head"].weight = model["table"].weight
    assert list(weight_spectra(model)) == ["head", "other"]
    model["other"].weight = model["head"].weight
    assert list(weight_spectra(model)) == ["head"]


def test_isometric_layers_show_the_weight_they_apply() -> None:
    model = build("mlp", input_shape=(12,), classes=3, width=16, linear="isometric")
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(torch.linspace(1, 3, 16)[:, None])
    for found in (weight_spectra(model), weight_spectra(model.state_dict())):
        for name in ("layers.0", "layers.1", "layers.2"):
            # Seven Newton-Schulz iterations from a condition number of 3 converge to rounding.
            assert found[name].condition_number == pytest.approx(1, abs=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrised_layers_show_the_weight_they_apply() -> None:
    torch.manual_seed(0)
    layers = [
        parametrizations.weight_norm(nn.Linear(5, 6)),
        parametrizations.orthogonal(nn.Linear(6, 6)),
        parametrizations.spectral_norm(nn.Conv2d(4, 8, 3)),
        nn.utils.weight_norm(nn.Linear(6, 4)),
        nn.utils.spectral_norm(nn.Linear(6, 4)),
    ]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        layers[0].parametrizations.weight.original0.mul_(3)
        layers[3].weight_g.mul_(3)  # what the module holds as `weight` is stale until its next forward pass
    before = copy.deepcopy(layers[2].state_dict())
    found = weight_spectra(model)
    assert all(torch.equal(value, before[name]) for name, value in layers[2].state_dict().items())
    applied = [layer.weight for layer in layers[:2]]
    layers[3](torch.zeros(1, 6))
    applied += [layers[2].eval().weight.flatten(1), layers[3].weight]
    for layer, weight in zip("0123", applied, strict=True):
        torch.testing.assert_close(found[layer].singular_values, torch.linalg.svdvals(weight.detach()))
    assert list(found) == list("01234")
    stored = weight_spectra(model.state_dict())
    assert list(stored) == list("0234")  # the rule of the orthogonal one is not in a state dict
    for layer in stored:
        torch.testing.assert_close(stored[layer].singular_values, found[layer].singular_values)


def test_distance_from_initialisation() -> None:
    torch.manual_seed(0)
    model = build("mlp", input_shape=(6,), classes=3, width=8)
    start = copy.deepcopy(model)
    with torch.no_grad():
        model.layers[1].weight.add_(0.5)
    for initial in (start, start.state_dict()):
        found = weight_spectra(model, initial=initial)
        assert found["layers.1"].distance_from_initialisation == pytest.approx(0.5 * 8, rel=1e-6)
        assert found["layers.0"].distance_from_initialisation == 0
        assert found.distance_from_initialisation == pytest.approx(0.5 * 8, rel=1e-6)
    assert weight_spectra(model.state_dict(), initial=start.state_dict()).as_dict() == found.as_dict()
    with pytest.raises(IsoplastError, match=r"layers\.0 of shape .* initial"):
        weight_spectra(model, initial=build("mlp", input_shape=(6,), classes=3, width=9))
    with pytest.raises(IsoplastError, match=r"initial does not fit the model: .*layers\.0\.weight"):
        weight_spectra(model, initial={"another": torch.zeros(2, 2)})


def test_the_product_bounds_what_a_chain_does() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2),
        MaxMin(1),
        nn.Flatten(),
        nn.Linear(36, 5),
    ]
    model = nn.Sequential(*layers)
    found = weight_spectra(model)
    inputs = torch.randn(200, 2, 8, 8)
    other = inputs + 1e-2 * torch.randn_like(inputs)
    with torch.no_grad():
        growth = (model(inputs) - model(other)).norm(dim=1) / (inputs - other).flatten(1).norm(dim=1)
    assert float(growth.max()) <= found.lipschitz_bound
    # A pixel lies in 9 patches with stride 1, in at most 4 with stride 2.
    factors = [3 * found["0"].largest, 2 * found["2"].largest, found["5"].largest]
    assert found.lipschitz_bound == pytest.approx(math.prod(factors), rel=1e-6)
    operator = weight_spectra(model, conv="operator", input_size=8)
    assert float(growth.max()) <= operator.lipschitz_bound <= found.lipschitz_bound
    for layer in ("0", "2"):
        assert operator[layer].largest <= found[layer].lipschitz


def test_operator_spectra_use_the_size_each_layer_meets() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3)
    )
    expected = [conv_singular_values(model[0], 6), conv_singular_values(model[2], 3)]
    for sizes in (dict(input_size=6), dict(input_size=(1, 6, 6)), dict(inputs=torch.zeros(2, 1, 6, 6))):
        found = weight_spectra(model, conv="operator", **sizes)
        for layer, spectrum in zip(("0", "2"), expected, strict=True):
            torch.testing.assert_close(found[layer].singular_values, spectrum.values)
    assert not any(module._forward_pre_hooks for module in model.modules())
    large = weight_spectra(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), conv="operator", input_size=20)["0"]
    assert (large.complete, large.finite, len(large.singular_values)) == (False, True, 2)
    assert math.isnan(large.effective_rank)
    assert large.condition_number > 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_never_healthy(bad: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(2, 2, 3))
    with torch.no_grad():
        model[1].weight[2, 3] = bad
        model[2].weight[0, 0, 0, 0] = bad
    for found in (weight_spectra(model), weight_spectra(model.state_dict())):
        assert [one.finite for one in found.values()] == [True, False, False]
        assert found["1"].singular_values.isnan().all()
        numbers = found["1"].as_dict()
        assert numbers.pop("finite") == 0
        assert all(math.isnan(value) for value in numbers.values())
        assert not math.isnan(found["0"].largest)
        together = {name: value for name, value in found.as_dict().items() if "/" not in name}
        assert together.pop("finite") == 0
        assert all(math.isnan(value) for value in together.values())
        assert found.remarkable.keys() == {"1", "2"}
        assert "1: the weight holds non-finite values" in str(found)


def test_remarkable_layers_are_named() -> None:
    torch.manual_seed(0)
    eye = torch.eye(16)
    rank_one = torch.outer(torch.ones(16), torch.ones(16)) / 16
    model = nn.Sequential(linear(eye), linear(0 * eye), linear(37 * eye), linear(rank_one), nn.Linear(16, 16))
    found = weight_spectra(model)
    assert found.remarkable == {
        "1": "the weight is all zero",
        "2": "the largest singular value is 37",
        "3": "the effective rank is 1 of 16",
    }
    assert "2: the largest singular value is 37" in str(found)
    assert found["1"].condition_number == math.inf


def test_aggregates_speak_of_all_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 9), nn.Conv2d(3, 4, 3))
    found = weight_spectra(model)
    values = torch.cat([one.singular_values for one in found.values()]).double()
    expected = dict(
        smallest=values.min(), largest=values.max(), mean=values.mean(), std=values.std(correction=0),
        norm=values.norm(), distance_to_isometry=(values - 1).norm(),
        gram_deviation=sum(penalty(p.flatten(1)) for p in model.parameters() if p.ndim > 1),
        condition_number=max(one.condition_number for one in found.values()),
    )  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(float(value), rel=1e-5), name


def test_it_prints_within_80_columns_and_turns_into_numbers() -> None:
    model = build("vit", input_shape=(3, 8, 8), classes=4, width=16, heads=2, depth=2, init="torch")
    found = weight_spectra(nn.ModuleDict({"a_rather_long_name_of_a_network": model}))
    assert max(map(len, str(found).splitlines())) <= 80
    numbers = found.as_dict()
    assert all(isinstance(value, float) for value in numbers.values())
    assert numbers["largest"] == max(value for name, value in numbers.items() if name.endswith("/largest"))
    assert "distance_from_initialisation" not in numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = weight_spectra(model)["0"]
    assert found.singular_values.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(
        found.singular_values.double(),
        torch.linalg.svdvals(model[0].weight.detach().double()),
        rtol=0,
        atol=1e-6,
    )


def test_compiled_and_channels_last_models_are_measured_as_they_are() -> None:
    torch.manual_seed(0)
    model = build("resnet18", input_shape=(3, 8, 8), classes=4, width=4, init="torch")
    found = weight_spectra(model)
    assert weight_spectra(torch.compile(model)).as_dict() == found.as_dict()
    inner = nn.Sequential(torch.compile(model))
    assert list(weight_spectra(inner)) == [f"0.{name}" for name in found]
    assert list(weight_spectra(inner.state_dict())) == [f"0.{name}" for name in found]
    turned = weight_spectra(model.to(memory_format=torch.channels_last))
    assert turned.mean == pytest.approx(found.mean, rel=1e-6)


def test_an_isometric_layer_trains_on_as_if_nothing_had_been_measured() -> None:
    """Measuring between backward and step must not cost the layer the factor that its step builds on."""

    def trained(*, measured: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = build("mlp", input_shape=(6,), classes=3, width=8, linear="isometric")
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        inputs, targets = torch.randn(32, 6), torch.randint(3, (32,))
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            if measured:
                weight_spectra(model)
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    pairs = zip(trained(measured=False), trained(measured=True), strict=True)
    assert all(torch.equal(plain, measured) for plain, measured in pairs)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (nn.Linear(3, 3), dict(conv="kernle"), "did you mean 'kernel'"),
        (nn.Conv2d(3, 3, 3), dict(conv="operator"), "give input_size or inputs"),
        (nn.Conv2d(3, 3, 3), dict(conv="operator", input_size=(3, 8, 8, 1)), "input_size"),
        (nn.Conv2d(3, 3, 3), dict(conv="operator", inputs=torch.zeros(1, 2, 8, 8)), "do not fit the model"),
        (nn.Conv2d(3, 3, 3).state_dict(), dict(conv="operator", input_size=8), "only a module has"),
        (nn.ReLU(), {}, "no weight matrix"),
        (nn.Embedding(3, 3), {}, "left out: weight"),
        ({}, {}, "no weight matrix"),
        (nn.LazyLinear(3), {}, "not initialised"),
    ],
)
def test_errors_take_one_line(model: object, settings: dict, message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        weight_spectra(model, **settings)
    assert "\n" not in str(caught.value)


def test_of_a_scripted_model_the_state_dict_is_measured() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(3, 2, 3))
    assert weight_spectra(torch.jit.script(model)).as_dict() == weight_spectra(model.state_dict()).as_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    model = build("resnet18", input_shape=(3, 8, 8), classes=4, width=8, init="torch")
    expected = weight_spectra(model)
    found = weight_spectra(model.cuda(), initial=model.state_dict())
    for layer, one in found.items():
        assert one.singular_values.device.type == "cpu"
        torch.testing.assert_close(one.singular_values, expected[layer].singular_values, rtol=0, atol=1e-5)
        assert one.distance_from_initialisation == 0


def test_what_a_state_dict_holds_besides_matrices_is_left_out_with_its_reason() -> None:
    state = {
        "layer.weight": torch.eye(4),
        "mask": torch.full((4, 4), -math.inf).triu(1),
        "packed.weight": torch.eye(4).to(torch.float8_e4m3fn),
        "sparse.weight": torch.eye(4).to_sparse(),
    }
    found = weight_spectra(state)
    assert list(found) == ["layer"]
    assert found.left_out == {
        "mask": "a mask of attention",
        "packed.weight": "numbers of 8 bits, whose scale is kept elsewhere",
        "sparse.weight": "not a dense tensor",
    }
    with pytest.raises(IsoplastError, match=r"left out: sparse\.weight \(not a dense tensor\)$"):
        weight_spectra({"sparse.weight": state["sparse.weight"]})
