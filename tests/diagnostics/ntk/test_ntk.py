"""The empirical NTK against J J^T of autograd, in float64."""

import copy
import re

import pytest
import torch
from ntk_networks import NETWORKS, Experts, SparseTables, TiedHead, mlp
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import ntk
from isoplast.nn import build

# Sums of up to 1e5 products of numbers of size one in float64, relative to the largest entry.
EXACT = 1e-11


def brute_force(model, inputs, biases=True):
    """J J^T with one backward pass per output of each sample."""
    parameters = [
        p for name, p in model.named_parameters() if p.requires_grad and (biases or not name.endswith("bias"))
    ]
    was = model.training
    outputs = model.eval()(inputs).flatten()
    model.train(was)
    rows = []
    for value in outputs:
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, gradients, strict=True)
                ]
            )
        )
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def close(found, expected, tolerance=EXACT):
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_jacobian_of_autograd_times_its_transpose(name):
    model, shape = NETWORKS[name]()
    model = model.double()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    found = ntk(model, inputs)
    assert close(found.matrix, brute_force(model, inputs))
    assert torch.allclose(found.eigenvalues, torch.linalg.eigvalsh(found.matrix).flip(0))


@pytest.mark.parametrize(
    ("name", "sampled"),
    [("convolutions", []), ("shared", []), ("vit", ["position"]), ("attention", ["in_proj"]), ("mlp", [])],
)
def test_only_parameters_without_a_formula_are_differentiated_sample_by_sample(name, sampled):
    model, shape = NETWORKS[name]()
    found = ntk(model, torch.randn(3, *shape)).method
    assert found.startswith("by layers")
    assert ("by samples" in found) == bool(sampled)
    assert all(name in found for name in sampled)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "sequences", "shared", "vit", "many positions"])
def test_blocks_of_samples_give_the_same_matrix(name):
    from isoplast.diagnostics.ntk import _exact as _ntk_exact
    from isoplast.diagnostics.ntk import _plan as _ntk_plan
    from isoplast.diagnostics.ntk._plan import Division

    model, shape = NETWORKS[name]()
    model = model.double()
    inputs = torch.randn(5, *shape, dtype=torch.float64)
    how = _ntk_plan.plan(model.eval(), inputs, dict(model.named_parameters()), "auto")
    expected = brute_force(model, inputs)
    together, apart = [tuple(how.parameters)], [unit.names for unit in how.units]
    for groups, size, passes in ((together, 5, 5), (together, 1, 1), (apart, 2, 1), (apart, 5, 2)):
        found = _ntk_exact.kernel(model, inputs, how, Division(groups, size, passes, checked=1)).whole()
        assert close(found, expected)
        assert torch.equal(found, found.t())


def test_tables_that_are_also_matrices():
    model = TiedHead().double()
    tokens = torch.tensor([[0, 1, 2], [3, 3, 3], [6, 0, 0], [5, 4, 1]])
    expected = brute_force(model, tokens)
    found = ntk(model, tokens)
    assert close(found.matrix, expected)
    assert "table.weight" in found.method  # the formula would have missed the second use


@pytest.mark.parametrize("name", ["experts", "experts of tokens", "an expert without samples", "swapped"])
@pytest.mark.parametrize("samples", [1, 2, 3, 8, 16])
def test_rows_that_belong_to_other_samples_than_their_place_says(name, samples):
    """The formula does not hold, on two samples or on all of them; it is never taken."""
    model, shape = NETWORKS[name]()
    model = model.double()
    inputs = torch.randn(samples, *shape, dtype=torch.float64)
    expected = brute_force(model, inputs)
    for size in (2 * 2**30, 60_000_000):  # and in blocks
        assert close(ntk(model, inputs, memory_limit=size).matrix, expected)


def test_an_expert_with_as_many_rows_as_samples_is_no_layer_of_all_of_them():
    model = Experts(2, flat=True).double()
    with torch.no_grad():
        model.router.weight.zero_()
        model.router.weight[0, 0], model.router.weight[1, 0] = 50.0, -50.0
        model.router.bias.zero_()
    inputs = torch.randn(4, 4, 4, dtype=torch.float64)
    inputs[..., 0] = -1.0
    inputs[0, :, 0] = 1.0  # the first expert gets the four tokens of one sample: a row for each of four
    assert close(ntk(model, inputs).matrix, brute_force(model, inputs))
    with pytest.raises(IsoplastError, match="no layer-wise formula"):
        ntk(model, inputs, method="layers")


def test_products_are_with_the_derivatives_that_training_sees():
    """Parts of the forward pass without gradients: a forward derivative would go through them."""
    model, shape = NETWORKS["burn-in"]()
    model = model.double()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    expected = torch.linalg.eigvalsh(brute_force(model, inputs)).flip(0)
    for limit in (2**30, 1):  # one graph for all, or each sample anew for every product
        found = ntk(model, inputs, method="lanczos", steps=12, memory_limit=limit)
        assert torch.allclose(found.eigenvalues, expected, atol=1e-10 * float(expected[0]))
    assert torch.allclose(ntk(model, inputs).eigenvalues, expected, atol=1e-10 * float(expected[0]))


@pytest.mark.parametrize("name", ["mlp", "convolutions", "shared", "parametrised", "attention", "recurrent"])
def test_products_of_samples_one_by_one_are_the_same(name):
    model, shape = NETWORKS[name]()
    model = model.double()
    inputs = torch.randn(3, *shape, dtype=torch.float64)
    whole, parts = (ntk(model, inputs, method="lanczos", steps=5, memory_limit=limit) for limit in (2**30, 1))
    assert torch.allclose(whole.ritz.values, parts.ritz.values, atol=1e-10 * whole.mean)


@pytest.mark.parametrize("method", ["auto", "samples", "lanczos"])
def test_sparse_gradients(method):
    model = SparseTables().double()
    tokens = torch.randint(9, (4, 3))
    rows = []
    for value in model(tokens).flatten():
        gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.to_dense().flatten() for g in gradients]))
    expected = torch.stack(rows) @ torch.stack(rows).T
    if method == "lanczos":  # a sparse gradient by function has no second derivative
        model.other.requires_grad_(False)
        fixed = ntk(model, tokens)
        found = ntk(model, tokens, method=method, steps=12)
        assert torch.allclose(found.eigenvalues, fixed.eigenvalues, atol=1e-10 * fixed.mean)
    else:
        assert close(ntk(model, tokens, method=method).matrix, expected)
    assert model.table.sparse


def test_language_models_and_padding():
    model = build("gpt", input_shape=(5,), classes=6, width=8, depth=1, heads=2).double()
    tokens = torch.randint(6, (3, 5))
    found = ntk(model, tokens, centred=True)
    plain = ntk(model, tokens)
    assert close(plain.matrix, brute_force(model, tokens))
    assert (plain.outputs, plain.size, found.size) == (30, 90, 75)
    table = nn.Sequential(nn.Embedding(6, 4, padding_idx=0), nn.Flatten(), nn.Linear(20, 2)).double()
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Linear(4, 6)).double()
    tied[2].weight = tied[0].weight  # as a table and as a matrix: explicit sums
    assert close(ntk(tied, tokens, method="layers").matrix, brute_force(tied, tokens))
    tokens[0, 2] = 0
    assert close(ntk(table, tokens, method="layers").matrix, brute_force(table, tokens))


@pytest.mark.parametrize("name", ["mlp", "convolutions", "shared", "vit", "encoder"])
def test_all_methods_agree(name):
    model, shape = NETWORKS[name]()
    model = model.double()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    expected = ntk(model, inputs, centred=True)
    assert close(ntk(model, inputs, centred=True, method="samples").matrix, expected.matrix)
    # As many steps as dimensions: the whole spectrum, and traces whose error is what is stated.
    found = ntk(model, inputs, centred=True, method="lanczos", steps=expected.size)
    assert torch.allclose(found.eigenvalues, expected.eigenvalues, atol=1e-9 * expected.mean)
    assert found.condition_number == pytest.approx(expected.condition_number, rel=1e-6)
    # Four probes: five of their standard errors.
    assert abs(found.trace - expected.trace) < 5 * found.errors["trace"]


def test_few_products_find_the_extremes_within_their_errors():
    model = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 10)).double()
    inputs = torch.randn(24, 40, dtype=torch.float64)
    targets = torch.randint(10, (24,))
    dense = ntk(model, inputs, targets=targets)
    found = ntk(model, inputs, targets=targets, method="lanczos", steps=40, probes=8, memory_limit=10**6)
    assert found.matrix is None
    assert found.as_dict()["largest"] == pytest.approx(float(dense.eigenvalues[0]), rel=1e-6)
    for name, index in (("largest", 0), ("smallest", -1)):
        distance = (dense.eigenvalues - found.ritz.values[:, index, None]).abs().min(1).values
        assert distance.min() <= found.errors[name]
    assert abs(found.trace - dense.trace) < 5 * found.errors["trace"]
    # Quadrature of smooth functions with 8 probes in 240 dimensions: sqrt(2 / 1920) = 3 %; 5 sd.
    assert found.participation_rank == pytest.approx(dense.participation_rank, rel=0.15)
    assert found.effective_rank == pytest.approx(dense.effective_rank, rel=0.15)
    # The alignment needs a product each time and the mean: the trace's relative error.
    assert found.alignment == pytest.approx(dense.alignment, rel=0.15)
    points = torch.linspace(0, float(dense.eigenvalues[0]), 400, dtype=torch.float64)
    width = float(dense.eigenvalues[0]) / 10
    exact = torch.exp(-0.5 * ((points[:, None] - dense.eigenvalues) / width) ** 2).mean(1)
    exact = exact / (width * (2 * torch.pi) ** 0.5)
    # 8 probes: each smooth bin is a mean with relative error around 3 %, of the highest point.
    assert (found.ritz.density(points, width) - exact).abs().max() < 0.15 * exact.max()


def test_frozen_parameters_do_not_count():
    model = mlp()[0].double()
    model[0].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    inputs = torch.randn(4, 6, dtype=torch.float64)
    for method in ("auto", "samples"):
        assert close(ntk(model, inputs, method=method).matrix, brute_force(model, inputs))
    model.requires_grad_(False)
    with pytest.raises(IsoplastError, match="no trainable parameters"):
        ntk(model, inputs)


def test_float32_resolves_small_eigenvalues():
    """Sums in float64: the smallest of six decades is right, where float32 sums would lose it."""
    model = nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 3))
    inputs = torch.randn(8, 24) @ torch.diag(torch.logspace(0, -6, 24))
    found = ntk(model, inputs, biases=False)
    expected = ntk(copy.deepcopy(model).double(), inputs.double(), biases=False)
    assert expected.condition_number > 1e3
    # Errors of the derivatives, 1e-7, times the root of the condition number.
    assert found.condition_number == pytest.approx(expected.condition_number, rel=1e-4)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    model.extra = nn.Parameter(torch.ones(3))
    model[0].weight.requires_grad_(False)
    model(torch.randn(8, 5)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    inputs = torch.randn(4, 5)
    random = torch.get_rng_state()
    for method in ("auto", "samples", "lanczos"):
        with torch.autocast("cpu"), torch.no_grad():
            assert ntk(model, inputs, method=method).finite
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert model[1].training
    assert not model[0].weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("method", ["auto", "lanczos"])
def test_weights_that_are_not_finite_are_named_and_never_healthy(method):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[0, 0] = float("inf")
    found = ntk(model, torch.randn(3, 4), method=method)
    assert found.non_finite == ("2.weight",)
    assert not found.finite
    assert found.condition_number != found.condition_number
    assert found.participation_rank != found.participation_rank
    assert found.eigenvalues.isnan().all()
    assert "2.weight" in str(found)
    with torch.no_grad():
        model[2].weight.fill_(3e38)
    assert ntk(model, 1e3 * torch.randn(3, 4), method=method).non_finite == ("outputs",)


def test_derivatives_that_overflow_are_said():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1e30)
            layer.bias.zero_()
    found = ntk(model, torch.zeros(3, 4), method="samples")
    assert found.finite or found.non_finite
    assert found.finite == (found.condition_number == found.condition_number)


def test_memory_limits():
    model = mlp()[0]
    inputs = torch.randn(40, 6)
    with pytest.raises(IsoplastError, match=r"40 samples x 4 outputs needs at least \d+ bytes") as caught:
        ntk(model, inputs, memory_limit=16 * 160**2 - 1)  # the matrix and LAPACK's copy
    least = int(re.search(r"at least (\d+) bytes", str(caught.value)).group(1))
    assert close(ntk(model, inputs, memory_limit=least).matrix, ntk(model, inputs).matrix, 1e-6)
    with pytest.raises(IsoplastError, match="at least") as caught:
        ntk(model, inputs, memory_limit=least - 1)
    fitting = int(re.search(r"at most (\d+) samples", str(caught.value)).group(1))
    assert 30 < fitting < 40
    assert ntk(model, inputs[:fitting], memory_limit=least - 1).finite
    with pytest.raises(IsoplastError, match="method='lanczos'"):
        ntk(model, inputs, memory_limit=1)
    assert ntk(model, inputs, memory_limit=1, method="lanczos", steps=3).finite


def test_wrong_arguments_are_named_in_one_line():
    model = nn.Linear(4, 2)
    by_batch = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False))
    x = torch.ones(3, 4)
    cases = [
        (model, torch.ones(3, 5), {}, r"\(3, 5\)"),
        (model, torch.ones(0, 4), {}, "at least one"),
        (model, x, {"method": "layer"}, "'layers'"),
        (model, x, {"targets": torch.tensor([0, 1])}, r"\(2,\)"),
        (model, x, {"targets": torch.tensor([0, 1, 2])}, "0..1"),
        (model, x, {"memory_limit": 0}, "memory_limit=0"),
        (model, x, {"method": "lanczos", "steps": 1}, "steps=1"),
        (nn.Linear(4, 1), x, {"centred": True}, "two outputs"),
        (by_batch, x, {}, "running statistics"),
        (nn.Sequential(nn.Linear(4, 2), nn.Flatten(0)), x, {}, "one row per sample"),
        (NETWORKS["attention"]()[0], torch.ones(3, 5, 8), {"method": "layers"}, "in_proj_weight"),
    ]
    for network, inputs, settings, message in cases:
        with pytest.raises(IsoplastError, match=message) as caught:
            ntk(network, inputs, **settings)
        assert "\n" not in str(caught.value)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.linear(x)
        return hidden - hidden.mean(0)


def test_samples_that_influence_each_other_are_refused():
    with pytest.raises(IsoplastError, match="depend on the other samples"):
        ntk(Mixing(), torch.randn(4, 4))


def test_compiled_and_several_inputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, x, *, y):
            return torch.tanh(self.one(x)) * self.two(y)

    model = Pair().double()
    batch = {"x": torch.randn(4, 4).double(), "y": torch.randn(4, 5).double()}
    outputs = model(**batch).flatten()
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(v, list(model.parameters()), retain_graph=True)])
        for v in outputs
    ]
    expected = torch.stack(rows) @ torch.stack(rows).T
    for method in ("auto", "samples"):
        assert close(ntk(torch.compile(model), batch, method=method).matrix, expected)
