"""Input-output and layer-wise Jacobians against autograd and known answers, in float64."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import jacobian
from isoplast.isometry import polar_factor
from isoplast.nn import MaxMin, build

# Products of five matrices with entries of size one in float64.
EXACT = 1e-10


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def orthogonal(sizes, activation, bias=True):
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(polar_factor(torch.randn(outputs, inputs, dtype=torch.float64)))
        layers += [linear, activation]
    return nn.Sequential(*layers[:-1])


def by_autograd(function, points):
    """One sample, one output at a time."""
    found = []
    for point in points:
        point = point.unsqueeze(0).requires_grad_()
        values = function(point).flatten()
        rows = [torch.autograd.grad(value, point, retain_graph=True)[0].flatten() for value in values]
        found.append(torch.linalg.svdvals(torch.stack(rows)))
    return torch.stack(found)


@pytest.mark.parametrize("activation", [nn.Identity(), MaxMin()])
def test_isometric_networks_have_singular_values_one_in_every_layer(activation):
    model = orthogonal([24, 24, 24, 16, 10], activation)
    found = jacobian(model, torch.randn(6, 24, dtype=torch.float64))
    for one in (found, *found.layers.values()):
        assert one.complete
        assert (one.singular_values - 1).abs().max() < EXACT
        assert abs(one.condition_number - 1) < EXACT
        assert one.distance_to_isometry < EXACT
        assert abs(one.mean_square - 1) < EXACT
        assert abs(one.effective_rank - min(one.shape)) < 1e-6
    assert list(found.layers) == ["0", "2", "4", "6"]


@pytest.mark.parametrize(
    ("sizes", "kind"), [([7, 12, 4], nn.ReLU), ([4, 12, 9], nn.Tanh), ([140, 135, 140], nn.GELU)]
)
def test_equals_autograd_for_wide_tall_and_large_maps(sizes, kind):
    model = nn.Sequential(nn.Linear(*sizes[:2]), kind(), nn.Linear(*sizes[1:]), kind()).double()
    points = torch.randn(3, sizes[0], dtype=torch.float64)
    found = jacobian(model, points)
    assert found.singular_values.shape == (3, min(sizes[0], sizes[2]))
    assert torch.allclose(found.singular_values, by_autograd(model, points), atol=EXACT)
    assert torch.allclose(found.layers["0"].singular_values, by_autograd(model[:2], points), atol=EXACT)
    hidden = model[:2](points).detach()
    assert torch.allclose(found.layers["2"].singular_values, by_autograd(model[2:], hidden), atol=EXACT)


def test_the_numbers_are_those_of_the_singular_values():
    model = nn.Linear(5, 4).double()
    found = jacobian(model, torch.randn(3, 5, dtype=torch.float64))
    values = torch.linalg.svdvals(model.weight.detach())
    assert found.condition_number == pytest.approx(float(values[0] / values[-1]))
    assert found.mean_square == pytest.approx(float(values.square().mean()))
    assert found.distance_to_isometry == pytest.approx(float((values - 1).norm()))
    for rank, shares in (("effective_rank", values), ("effective_rank_energy", values**2)):
        shares = shares / shares.sum()
        assert getattr(found, rank) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))
    assert found.rank == 4


def test_inactive_units_make_a_layer_singular_and_are_counted():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double()
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    points = torch.tensor([[1.0, 1, 1, 1, -1, -1]], dtype=torch.float64)
    layer = jacobian(model, points).layers["0"]
    assert layer.rank == 4
    assert layer.smallest == 0
    assert layer.condition_number == float("inf")
    dead = jacobian(model, -points.abs())
    assert dead.largest == dead.effective_rank == dead.rank == 0


class Functional(nn.Module):
    """Nonlinearities as functions, in place ones too; a residual sum ends a layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.norm(self.one(x)))
        x = x + F.tanh(self.two(x))
        return self.head(torch.relu_(self.two(x)))


def test_layers_hold_what_directly_follows_the_weight():
    model = Functional().double()
    x = torch.randn(4, 6, dtype=torch.float64)
    found = jacobian(model, x)
    assert list(found.layers) == ["one", "two", "two (call 2)", "head"]
    hidden = torch.relu(model.norm(model.one(x))).detach()
    expected = {
        "one": (lambda v: torch.relu(model.norm(model.one(v))), x),
        "two": (lambda v: torch.tanh(model.two(v)), hidden),
        "two (call 2)": (
            lambda v: torch.relu(model.two(v)),
            (hidden + torch.tanh(model.two(hidden))).detach(),
        ),
    }
    for name, (function, points) in expected.items():
        assert torch.allclose(found.layers[name].singular_values, by_autograd(function, points), atol=EXACT)


def test_residual_blocks_by_name():
    model = build("resnet18", input_shape=(3, 8, 8), classes=3, width=2).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = jacobian(model, x, layers=["blocks.6", "blocks.7"])
    assert list(found.layers) == ["blocks.6", "blocks.7"]
    hidden = model.activation(model.norm(model.stem(x)))
    for block in model.blocks[:7]:
        hidden = block(hidden)
    expected = by_autograd(model.blocks[7], hidden.detach())
    assert torch.allclose(found.layers["blocks.7"].singular_values, expected, atol=EXACT)


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_convolutions_and_attention(name):
    model = build(name, input_shape=(3, 8, 8), classes=3, width=8).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = jacobian(model, x, layers=False)
    assert torch.allclose(found.singular_values, by_autograd(model, x), atol=EXACT)
    assert not found.layers


def test_transformer_layers_of_torch():
    model = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double().eval()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    found = jacobian(model, x)
    assert torch.allclose(found.singular_values, by_autograd(model, x), atol=EXACT)
    assert list(found.layers) == ["linear1", "linear2"]
    assert jacobian(model, x, exact=False).largest == pytest.approx(found.largest)


def test_iteration_finds_the_extremes_within_its_bounds():
    model = nn.Sequential(nn.Linear(150, 130), nn.Tanh(), nn.Linear(130, 140)).double()
    points = torch.randn(3, 150, dtype=torch.float64)
    dense, found = jacobian(model, points), jacobian(model, points, exact=False, steps=60)
    assert not found.complete
    assert found.singular_values.shape == (3, 2)
    for extreme, bound in ((0, found.largest_error), (1, found.smallest_error)):
        distance = dense.singular_values - found.singular_values[:, extreme, None]
        assert (distance.abs().min(1).values <= bound + EXACT).all()
    assert found.largest == pytest.approx(dense.largest, rel=1e-6)
    # One random vector per sample, three samples of 130 values: about sqrt(2 / 390) = 7 %; 4 sd.
    assert found.mean_square == pytest.approx(dense.mean_square, rel=0.3)
    assert found.effective_rank == pytest.approx(dense.effective_rank, rel=0.3)


def test_as_many_iterations_as_dimensions_find_everything():
    # Singular values over nine orders of magnitude, and exact zeros.
    values = torch.cat([torch.logspace(0, -9, 12), torch.zeros(3)]).double()
    left, right = (torch.linalg.qr(torch.randn(size, 15, dtype=torch.float64)).Q for size in (15, 20))
    for matrix in ((left * values) @ right.T, ((left * values) @ right.T).T):
        model = nn.Linear(*reversed(matrix.shape), bias=False, dtype=torch.float64)
        with torch.no_grad():
            model.weight.copy_(matrix)
        found = jacobian(model, torch.randn(2, matrix.shape[1], dtype=torch.float64), exact=False)
        assert found.complete
        # Backward stable: errors are a small multiple of eps times the largest value.
        assert torch.allclose(found.singular_values, values.expand(2, 15), atol=1e-13, rtol=0)


def test_batch_norm_and_dropout_are_those_of_evaluation():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    model.double()(torch.randn(50, 5, dtype=torch.float64))
    points = torch.randn(4, 5, dtype=torch.float64)
    found = jacobian(model, points)
    assert model.training
    evaluated = copy.deepcopy(model).eval()
    assert torch.allclose(found.singular_values, by_autograd(evaluated, points), atol=EXACT)
    assert torch.allclose(found.layers["0"].singular_values, by_autograd(evaluated[:4], points), atol=EXACT)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2)).train()
    model[0].weight.requires_grad_(False)
    model(torch.randn(8, 5)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    with torch.autocast("cpu"), torch.no_grad():
        found = jacobian(model, torch.randn(4, 5).requires_grad_(), layers=True)
        assert jacobian(model, torch.ones(1, 5), exact=False).finite
    assert found.singular_values.dtype == torch.float64
    assert not found.singular_values.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert model[1].training
    assert not model[0].weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.randn(4, 5)  # the one draw above
    after = torch.get_rng_state()
    torch.set_rng_state(random)
    torch.randn(4, 5), torch.randn(4, 5)
    assert torch.equal(after, torch.get_rng_state())


def test_weights_that_are_not_finite_are_named_and_never_healthy():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    for exact in (True, False):
        found = jacobian(model, torch.randn(3, 4), exact=exact)
        assert "2.weight" in found.non_finite
        assert not found.finite
        for value in (found.condition_number, found.largest, found.effective_rank, found.rank):
            assert value != value
        assert found.layers["0"].finite
        assert not found.layers["2"].finite
    assert "2.weight" in str(found)


def test_prints_as_a_table_and_flattens():
    model = build("mlp", input_shape=(6,), classes=3, width=8)
    found = jacobian(model, torch.randn(2, 6))
    assert max(map(len, str(found).splitlines())) <= 80
    flat = found.as_dict()
    assert all(isinstance(value, float) for value in flat.values())
    assert flat["layers.0/condition_number"] == found.layers["layers.0"].condition_number


def test_wrong_inputs_are_named_in_one_line():
    model = nn.Linear(4, 2)
    cases = [
        (torch.ones(3, 4, dtype=torch.long), {}, "int64"),
        ({"x": torch.ones(3, 4)}, {}, "dict"),
        (torch.ones(3, 5), {}, r"\(3, 5\)"),
        (torch.ones(0, 4), {}, "at least one"),
        (torch.ones(3, 4), {"layers": ["hed"]}, "hed"),
        (torch.ones(3, 4), {"steps": 0}, "steps=0"),
    ]
    for inputs, settings, message in cases:
        with pytest.raises(IsoplastError, match=message) as caught:
            jacobian(model, inputs, **settings)
        assert "\n" not in str(caught.value)


class Partly(nn.Module):
    """Some of the outputs depend on the inputs by a way that no gradient takes."""

    def __init__(self, inputs, outputs, way):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(inputs, 12), nn.Tanh()), nn.Linear(12, outputs)
        self.beside, self.way = nn.Linear(inputs, outputs), way

    def forward(self, x):
        if self.way == "detach":
            features = self.body(x).detach()
        elif self.way == "data":
            features = self.body(x.data)
        else:
            with torch.no_grad() if self.way == "no_grad" else torch.inference_mode():
                features = self.body(x)
            features = features.clone()
        return self.beside(x) + self.head(features)


@pytest.mark.parametrize("sizes", [(7, 4), (4, 7), (60, 50), (50, 60)])
@pytest.mark.parametrize("way", ["no_grad", "detach", "data", "inference"])
def test_every_way_to_measure_takes_the_derivative_that_training_sees(sizes, way):
    model = Partly(*sizes, way).double()
    points = torch.randn(3, sizes[0], dtype=torch.float64)
    expected = by_autograd(model, points)
    assert torch.allclose(jacobian(model, points, exact=True).singular_values, expected, atol=EXACT)
    found = jacobian(model, points, exact=False, steps=60)
    assert torch.allclose(found.singular_values[:, 0], expected[:, 0], atol=EXACT)
    assert torch.allclose(found.singular_values[:, -1], expected[:, -1], atol=EXACT)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


class Rounded(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.one, self.two = nn.Linear(inputs, 9), nn.Linear(9, outputs)

    def forward(self, x):
        return self.two(StraightThrough.apply(self.one(x)))


@pytest.mark.parametrize("sizes", [(7, 4), (4, 7)])
def test_operations_with_a_backward_pass_of_their_own(sizes):
    model = Rounded(*sizes).double()
    points = torch.randn(3, sizes[0], dtype=torch.float64)
    found = jacobian(model, points, layers=False)
    assert torch.allclose(found.singular_values, by_autograd(model, points), atol=EXACT)
    with pytest.raises(IsoplastError, match="without a second derivative") as caught:
        jacobian(model, points, exact=False)
    assert "\n" not in str(caught.value)


class Unreachable(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.table, self.body, self.head, self.way = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3), way

    def forward(self, x):
        if self.way == "tokens":
            return self.head(self.table(x.long() % 9).mean(1))
        if self.way == "ranks":
            return self.head(x.argsort(1).to(x.dtype))
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)


@pytest.mark.parametrize("way", ["tokens", "ranks", "no_grad"])
@pytest.mark.parametrize("exact", [True, False, None])
def test_outputs_that_no_gradient_connects_to_the_inputs_are_refused_in_one_line(way, exact):
    with pytest.raises(IsoplastError, match="no gradient leads from the outputs to the inputs") as caught:
        jacobian(Unreachable(way), torch.rand(5, 4), exact=exact)
    assert "\n" not in str(caught.value)


def test_layers_that_no_gradient_passes_are_left_out_unless_they_are_named():
    class Quantised(nn.Linear):
        def forward(self, x):
            return super().forward(x.detach())

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), Quantised(4, 3)

        def forward(self, x):
            return self.one(x) + self.two(x)

    model, points = Two(), torch.randn(3, 4)
    assert list(jacobian(model, points).layers) == ["one"]
    with pytest.raises(IsoplastError, match="layer two: no gradient leads"):
        jacobian(model, points, layers=["two"])


def test_dead_units_are_zeros_and_no_missing_way():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    found = jacobian(model, torch.randn(3, 4))
    assert found.largest == found.rank == 0
    assert found.condition_number == float("inf")


def test_code_that_depends_on_values_and_writes_in_place_is_measured():
    class ByValue(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 7)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            hidden = torch.relu_(self.one(x) if float(x.detach().sum()) < 1e9 else x) + 0
            hidden[:, 0] = 0
            return self.two(hidden)

    model = ByValue().double()
    points = torch.randn(3, 6, dtype=torch.float64)
    found = jacobian(model, points)
    assert torch.allclose(found.singular_values, by_autograd(model, points), atol=EXACT)
    assert jacobian(model, points, exact=False).largest == pytest.approx(found.largest)


def test_what_cannot_be_differentiated_is_refused_in_one_line():
    class Overwritten(nn.Module):
        def forward(self, x):
            hidden = torch.exp(x)
            hidden[:, 0] = 0
            return hidden

    with pytest.raises(IsoplastError, match="cannot be differentiated: one of the variables") as caught:
        jacobian(Overwritten(), torch.rand(5, 4))
    assert "\n" not in str(caught.value)


def test_samples_that_influence_each_other_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(IsoplastError, match="running statistics"):
        jacobian(model, torch.randn(5, 4))

    class Mixing(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    with pytest.raises(IsoplastError, match="depend on the other samples"):
        jacobian(Mixing(), torch.randn(5, 4))


def test_the_condition_number_is_the_median_over_the_samples():
    """x -> x * c(x) with conditions 1, 2, 3, 4 and 1000: the median is 3, the mean 202."""

    class Scaled(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], x[:, 1] * x[:, 1].detach()], 1)

    points = torch.tensor([[1.0, 1], [1, 2], [1, 3], [1, 4], [1, 1000]], dtype=torch.float64)
    found = jacobian(Scaled(), points, layers=False)
    assert found.condition_number == pytest.approx(3.0)
