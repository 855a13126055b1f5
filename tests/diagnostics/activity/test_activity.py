"""Activity: units made by hand, every way in which a network can call an activation, and no traces left."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import activity
from isoplast.diagnostics.activity import _features
from isoplast.diagnostics.activity._features import Features, srank
from isoplast.isometry import effective_rank, stable_rank
from isoplast.nn import MaxMin, build


def hidden(weight: list[list[float]], activation: nn.Module, bias: float = 0.0) -> nn.Sequential:
    """One hidden layer with given weights."""
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.fill_(bias)
    return nn.Sequential(layer, activation, nn.Linear(len(weight), 2))


def positive(count: int = 200, features: int = 2) -> Tensor:
    return 0.1 + torch.rand(count, features, generator=torch.Generator().manual_seed(0))


def test_scores_and_shares_of_units_made_by_hand() -> None:
    weight = [
        [1.0, 1.0],  # positive on all inputs: ReLU is the identity here
        [-1.0, -1.0],  # dead
        [0.01, 0.0],  # barely alive, and positive on all inputs
        [1.0, -1.0],
        [2.0, -2.0],  # twice the one before
        [-1.0, 1.0],
    ]
    inputs = positive()
    outputs = F.relu(inputs @ torch.tensor(weight).t()).double()
    found = activity(hidden(weight, nn.ReLU()), inputs, tau=(0.0, 0.1, 0.5))["1"]
    expected = outputs.mean(0) / (outputs.mean() + 1e-9)
    torch.testing.assert_close(found.scores, expected, rtol=1e-6, atol=0)  # float32 features
    assert found.dead == pytest.approx(1 / 6)
    assert found.dormant_at == {
        tau: pytest.approx(float((expected <= tau).double().mean())) for tau in (0, 0.1, 0.5)
    }
    assert (found.dormant_at[0.0], found.dormant_at[0.1]) == (pytest.approx(1 / 6), pytest.approx(2 / 6))
    assert found.dormant == found.dormant_at[0.5]
    assert found.linearised == pytest.approx(2 / 6)
    assert found.duplicates == pytest.approx(1 / 6)
    assert found.saturated == 0
    assert (found.kind, found.units, found.samples, found.finite) == ("relu", 6, 200, True)
    assert found.feature_norm == pytest.approx(float(outputs.norm(dim=1).mean()), rel=1e-6)


def test_a_layer_that_is_dead_altogether() -> None:
    found = activity(hidden([[1.0, 0.0], [0.0, 1.0]], nn.ReLU(), bias=-100.0), positive())["1"]
    assert (found.dead, found.dormant, found.feature_rank, found.effective_rank) == (1, 1, 0, 0)
    assert (found.stable_rank, found.feature_norm, found.duplicates, found.finite) == (0, 0, 0, True)


@pytest.mark.parametrize(
    ("activation", "share"),
    # Pre-activations: 100, -100, 0.01 and one that changes its sign; a ReLU6 has no lower bound to stick to.
    [
        (nn.Tanh(), 0.5),
        (nn.Sigmoid(), 0.5),
        (nn.Hardtanh(), 0.5),
        (nn.Softsign(), 0.5),
        (nn.ReLU6(), 0.25),
        (nn.ReLU(), 0),
    ],
)
def test_saturated_units(activation: nn.Module, share: float) -> None:
    inputs = torch.cat((torch.ones(400, 1), torch.linspace(-1, 1, 400)[:, None]), 1)
    model = hidden([[100.0, 0.0], [-100.0, 0.0], [0.01, 0.0], [0.0, 100.0]], activation)
    # The last unit runs evenly through [-100, 100]: less than 5 % of it lies between the steep part's ends,
    # except for softsign, which comes near its bounds only beyond 19.
    if type(activation) in (nn.Tanh, nn.Sigmoid, nn.Hardtanh):
        share += 0.25
    assert activity(model, inputs)["1"].saturated == share


def test_ranks_of_features_with_a_known_spectrum() -> None:
    torch.manual_seed(0)
    sigma = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(50, 5, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(9, 5, dtype=torch.float64)).Q
    features = left @ torch.diag(sigma) @ right.t()
    for batch_size in (3, 50):
        found = activity(nn.Identity().double(), features, layers=[""], batch_size=batch_size)["output"]
        assert found.kind == "output"
        assert found.feature_rank == 4  # 15 of 15.1 is 99.3 %, 14 is 92.7 %
        # The Gram matrix in float64 knows singular values to 1e-8 of the largest.
        assert found.effective_rank == pytest.approx(float(effective_rank(sigma)), rel=1e-6)
        assert found.stable_rank == pytest.approx(float(stable_rank(sigma)), rel=1e-6)


def test_srank() -> None:
    assert srank(torch.ones(100, dtype=torch.float64)) == 99
    assert srank(torch.ones(10, dtype=torch.float64)) == 10
    assert srank(torch.tensor([1.0, 1.0, 1e-9])) == 2
    assert srank(torch.tensor([3.0])) == 1


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1, 5), (400, 140), (64, 64)])
@pytest.mark.parametrize("batches", [1, 5])
def test_features_in_a_stream_are_those_of_the_whole_matrix(shape: tuple[int, int], batches: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) + 3
    features = Features(shape[1], shape[0])
    for part in matrix.t().contiguous().t().tensor_split(batches):
        features.add(part)
    values = features.singular_values()
    reference = torch.linalg.svdvals(matrix.double())
    torch.testing.assert_close(values, reference, rtol=0, atol=1e-7 * float(reference[0]))
    assert features.samples == shape[0]


@pytest.mark.parametrize("rows", [30, 500])
def test_duplicates_are_units_that_repeat_an_earlier_one(rows: int) -> None:
    torch.manual_seed(0)
    first = torch.randn(rows, 50, dtype=torch.float64)
    noise = torch.randn(rows, 5, dtype=torch.float64)
    matrix = torch.cat((first, 5 - 2 * first[:, :3], torch.ones(rows, 2), first[:, :5] + 0.01 * noise), 1)
    expected = (torch.corrcoef(matrix.t()).abs().tril(-1) > 0.95).any(1).double().mean()
    for chunk in (7, 1024):
        features = Features(matrix.shape[1], rows)
        features.add(matrix)
        assert features.duplicates(0.95, chunk) == pytest.approx(8 / 60)
        assert float(expected) == pytest.approx(8 / 60)


def test_of_a_wide_layer_a_part_of_the_samples_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_features, "SIDE", 32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 100), nn.Identity(), nn.Linear(100, 2))
    found = activity(model, torch.randn(1000, 4), batch_size=100)["0"]
    assert 30 <= found.rank_samples <= 40
    assert (found.samples, found.feature_rank) == (1000, 5)  # four inputs and the bias


class Functional(nn.Module):
    """Every activation is a function call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.first, self.second, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv(images)).flatten(1)
        x = self.first(x).clamp(min=0)
        x = torch.tanh_(self.second(x) + x)
        return self.head(x), F.softplus(self.head.bias)


def test_functional_activations_are_seen_with_the_module_that_calls_them() -> None:
    torch.manual_seed(0)
    model, images = Functional(), torch.randn(20, 1, 4, 4)
    found = activity(nn.Sequential(model), images)
    assert [(name, one.kind, one.units, one.samples) for name, one in found.items()] == [
        ("0.relu", "relu", 3, 80),  # channels are units, 2 x 2 positions of 20 images samples
        ("0.relu_1", "relu", 8, 20),
        ("0.tanh", "tanh", 8, 20),
    ]
    channels = F.relu(model.conv(images)).double().mean((0, 2, 3))
    torch.testing.assert_close(
        found["0.relu"].scores, (channels / channels.mean()).detach(), rtol=1e-6, atol=0
    )
    assert found.observed == "3 outputs of relu, tanh"


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Shared(nn.Module):
    """One activation module in two places, and one block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 4)
        self.act = Swish()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.first(x))))
        return self.block(self.block(x))


def test_shared_activations_are_places_of_their_own_and_shared_blocks_are_not() -> None:
    torch.manual_seed(0)
    model, inputs = Shared(), torch.randn(30, 3)
    found = activity(model, inputs, batch_size=16)
    assert [(name, one.kind, one.units, one.samples) for name, one in found.items()] == [
        ("act", "swish", 5, 30),
        ("act_1", "swish", 4, 30),
        ("block.1", "relu", 4, 60),
    ]
    outputs = Swish()(model.first(inputs)).detach().double()
    expected = outputs.abs().mean(0) / outputs.abs().mean()
    torch.testing.assert_close(found["act"].scores, expected, rtol=1e-6, atol=0)


ACTIVATIONS = (
    "relu", "tanh", "gelu", "leaky-relu", "smooth-leaky", "maxmin", "groupsort4", "crelu", "fourier",
    "adalin",
)  # fmt: skip
SHAPES = {"mlp": (6,), "cnn": (3, 8, 8), "resnet18": (3, 8, 8), "vit": (3, 8, 8)}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
def test_our_networks_with_every_activation(name: str, shape: tuple[int, ...], activation: str) -> None:
    torch.manual_seed(0)
    sizes = {"mlp": {}, "cnn": dict(channels=4), "resnet18": {}, "vit": dict(heads=2, depth=2)}[name]
    width = 4 if name == "resnet18" else 8
    model = build(name, input_shape=shape, classes=3, activation=activation, width=width, **sizes)
    found = activity(model, torch.randn(5, *shape))
    expected = [n for n, _ in model.named_modules() if re.search(r"activation(\d|s\.\d)?$", n)]
    assert [n for n in found if "attention" not in n] == expected
    attention = [f"blocks.{i}.attention.sdpa" for i in range(2)] if name == "vit" else []
    assert [n for n in found if "attention" in n] == attention
    assert found.finite
    factor = 2 if activation in ("crelu", "fourier") else 1
    if name == "resnet18":
        assert [one.units for one in found.values()] == [4 * factor] * 5 + [8 * factor] * 4 + [
            16 * factor
        ] * 4 + [32 * factor] * 4
    if name == "vit":
        assert [one.units for one in found.values()] == [8, 32 * factor] * 2
        assert {one.samples for one in found.values()} == {5 * 4}  # tokens


def test_scores_do_not_depend_on_the_batches() -> None:
    torch.manual_seed(0)
    model = build("resnet18", input_shape=(3, 8, 8), classes=3, width=4)
    inputs = torch.randn(23, 3, 8, 8)
    whole = activity(model, inputs).as_dict()
    for batch_size in (1, 7):
        parts = activity(model, inputs, batch_size=batch_size).as_dict()
        assert parts.keys() == whole.keys()
        for name, value in parts.items():
            # Kernels for other batch sizes round differently; float32, 17 layers.
            assert value == pytest.approx(whole[name], rel=1e-3), name


def test_torch_attention_and_transformer_layers() -> None:
    """Their fast paths call one fused kernel that would hide the activation."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    found = activity(model, torch.randn(6, 5, 8))
    places = [("self_attn", "attention", 8), ("relu", "relu", 16)]
    assert [(name, one.kind, one.units, one.samples) for name, one in found.items()] == [
        (f"layers.{i}.{place}", kind, units, 30) for i in range(2) for place, kind, units in places
    ]
    alone = activity(nn.MultiheadAttention(8, 2), (torch.randn(5, 6, 8),) * 3)
    assert [(name, one.units, one.samples) for name, one in alone.items()] == [("attention", 8, 30)]


def test_recurrent_layers() -> None:
    torch.manual_seed(0)
    model, inputs = nn.LSTM(3, 6, batch_first=True), torch.randn(4, 7, 3)
    outputs = model(inputs)[0].abs().double().mean((0, 1)).detach()
    found = activity(model, inputs)["lstm"]
    torch.testing.assert_close(found.scores, outputs / outputs.mean(), rtol=1e-6, atol=0)
    assert (found.units, found.samples) == (6, 28)


def test_units_lie_where_the_layer_before_puts_them() -> None:
    """Channels after a convolution, features after a linear layer, whatever the number of dimensions."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 3, 1), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            return F.gelu(self.linear(x.permute(0, 2, 3, 1)))

    found = activity(Last(), torch.randn(4, 2, 6, 7))
    assert [(one.units, one.samples) for one in found.values()] == [(3, 4 * 42), (5, 4 * 42)]
    sequence = activity(nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU()), torch.randn(4, 2, 9))["1"]
    assert (sequence.units, sequence.samples) == (3, 36)


def test_without_activations_the_hidden_linear_layers_count() -> None:
    torch.manual_seed(0)
    model = build("mlp", input_shape=(6,), classes=3, width=8, depth=2, activation="linear")
    found = activity(model, torch.randn(40, 6))
    assert list(found) == ["layers.0", "layers.1"]
    assert "no activation function ran" in found.observed
    assert found["layers.1"].feature_rank == 6


def test_chosen_layers() -> None:
    torch.manual_seed(0)
    model = build("resnet18", input_shape=(3, 8, 8), classes=3, width=4)
    inputs = torch.randn(4, 3, 8, 8)
    assert list(activity(model, inputs, layers=["blocks.?", "stem"])) == [
        "stem",
        *(f"blocks.{i}" for i in range(8)),
    ]
    automatic = activity(model, inputs)["blocks.0.activation2"]
    chosen = activity(model, inputs, layers=["blocks.0"])["blocks.0"]
    assert torch.equal(automatic.scores, chosen.scores)
    with pytest.raises(IsoplastError, match="did you mean 'stem'"):
        activity(model, inputs, layers=["sten"])


@pytest.mark.parametrize("compiled", [False, True])
def test_the_network_stays_as_it_was(compiled: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        MaxMin(),
        nn.Linear(8, 2),
    )
    model[1].eval()
    seen: list[str] = []
    handles = [model[2].register_forward_hook(lambda *_: seen.append("user's"))]
    inputs = torch.randn(16, 4)
    model(inputs).sum().backward()
    seen.clear()
    state = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    hooks = [
        list(module._forward_hooks.items()) + list(module._forward_pre_hooks.items()) for module in model
    ]
    random = torch.get_rng_state()
    found = activity(torch.compile(model, backend="eager") if compiled else model, inputs)
    assert list(found) == ["2", "5"]
    assert seen == ["user's"]
    assert hooks == [list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in model]
    assert [module.training for module in model] == [True, False, *[True] * 5]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), gradients, strict=True))
    assert torch.is_grad_enabled()
    handles[0].remove()
    # BatchNorm by its running statistics, no dropout, no autocast.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = activity(model, inputs)
    expected = F.relu(model.eval()[:2](inputs)).detach().double().mean(0)
    torch.testing.assert_close(again["2"].scores, expected / expected.mean(), rtol=1e-6, atol=0)


def test_hooks_are_gone_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(IsoplastError, match=r"shape \(3, 5\) do not fit"):
        activity(model, torch.randn(3, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.overrides._get_current_function_mode() is None


def test_compiled_parts_inside_a_network_are_seen() -> None:
    torch.manual_seed(0)
    part = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), backend="eager")
    inputs = torch.randn(10, 3)
    model = nn.Sequential(part, nn.Linear(4, 2))
    model(inputs)
    found = activity(model, inputs)
    assert list(found) == ["0.1"]
    inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inner.compile(backend="eager")
    assert list(activity(inner, inputs)) == ["1"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_not_finite_are_never_healthy(bad: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].bias[1] = bad
    found = activity(model, positive(features=3))
    assert [one.finite for one in found.values()] == [True, False]
    assert found["3"].scores.isnan().all()
    sizes = ("units", "finite")
    assert all(math.isnan(value) for name, value in found["3"].as_dict().items() if name not in sizes)
    together = {
        name: value for name, value in found.as_dict().items() if "/" not in name and name not in sizes
    }
    assert all(math.isnan(value) for value in together.values())
    assert (found.finite, found["1"].finite) == (False, True)
    assert "3: activations are not finite" in str(found)


def test_the_whole_weighs_layers_by_their_units() -> None:
    torch.manual_seed(0)
    model = build("mlp", input_shape=(6,), classes=3, width=16, depth=2)
    with torch.no_grad():
        model.layers[0].bias[:8] = -100.0
    found = activity(model, torch.randn(100, 6))
    assert (found["activations.0"].dead, found["activations.1"].dead, found.dead) == (0.5, 0.0, 0.25)
    assert found.units == 32
    assert found.feature_rank == found["activations.1"].feature_rank


def test_it_prints_within_80_columns_and_turns_into_numbers() -> None:
    model = build("vit", input_shape=(3, 8, 8), classes=4, width=16, heads=2, depth=2)
    inputs = torch.randn(20, 3, 8, 8)
    found = activity(nn.ModuleDict({"a_long_name": model})["a_long_name"], inputs)
    assert max(map(len, str(found).splitlines())) <= 80
    numbers = found.as_dict()
    assert all(isinstance(value, float) for value in numbers.values())
    assert numbers["blocks.1.activation/dormant_at_0.025"] == found["blocks.1.activation"].dormant_at[0.025]
    cheap = activity(model, inputs, ranks=False)
    assert not any("rank" in name or "duplicates" in name for name in cheap.as_dict())
    assert cheap.as_dict() == {name: numbers[name] for name in cheap.as_dict()}
    assert max(map(len, str(cheap).splitlines())) <= 80


def test_inputs_may_be_tuples_and_dicts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor, scale: Tensor, shift: float = 0.0) -> Tensor:
            return F.relu(self.linear(x) * scale + shift)

    torch.manual_seed(0)
    model, x, scale = Two(), torch.randn(10, 3), torch.rand(10, 1)
    found = activity(model, (x, scale, 1.0), batch_size=4)
    assert found.as_dict() == activity(model, dict(x=x, scale=scale, shift=1.0), batch_size=4).as_dict()
    assert found["relu"].samples == 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    inputs = torch.randn(50, 4, dtype=dtype)
    found = activity(model, inputs)["1"]
    outputs = F.relu(model[0](inputs)).detach().double()
    torch.testing.assert_close(found.scores, outputs.mean(0) / outputs.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (torch.zeros(0, 3), {}, r"shape \(0, 3\) are empty"),
        (None, {}, "hold no tensor"),
        (torch.zeros(2, 3), dict(tau=-0.1), "tau=-0.1"),
        (torch.zeros(2, 3), dict(tau=()), "tau="),
        (torch.zeros(2, 3), dict(batch_size=0), "batch_size=0"),
        (torch.zeros(2, 3), dict(duplicate=1.5), r"duplicate=1\.5"),
        (torch.zeros(2, 3), {}, "no hidden layer was seen in Linear"),
        (torch.zeros(2, 4), {}, "do not fit"),
    ],
)
def test_errors_take_one_line(inputs: Tensor | None, settings: dict, message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        activity(nn.Linear(3, 3), inputs, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_nothing_is_seen_inside_scripted_modules() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    with pytest.raises(IsoplastError, match="inside scripted"):
        activity(scripted, positive(features=3))
    assert list(activity(nn.Sequential(scripted, nn.Tanh()), positive(features=3))) == ["1"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    model = build("cnn", input_shape=(3, 8, 8), classes=4, channels=8, width=16).double()
    inputs = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    expected = activity(model, inputs).as_dict()
    found = activity(model.cuda(), inputs.cuda())
    assert found["activations.0"].scores.device.type == "cpu"
    assert found.as_dict() == pytest.approx(expected, rel=1e-9)


def test_dead_means_exactly_zero() -> None:
    """Units whose largest activation is 1e-30, 1e-6 and 1e-3 are alive, whatever the others are like."""
    weights = torch.tensor([0.0, 1e-30, 1e-6, 1e-3, 1.0])
    model = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    with torch.no_grad():
        model[0].weight.copy_(weights[:, None])
        model[0].bias.zero_()
    assert activity(model, torch.ones(10, 1))["1"].dead == pytest.approx(1 / 5)
