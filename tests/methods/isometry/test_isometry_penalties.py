"""Penalties and optimizers of the isometry family, against their formulas in float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from contract_runs import different, network, started, train, values
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import isoplast
from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Training, training
from isoplast.methods.isometry._gram_penalty import gram_penalty

SHAPES = [(3, 3), (6, 2), (2, 6), (1, 4), (4, 1), (140, 80), (70, 300), (2, 3, 5, 4), (300, 260)]
NOTHING = torch.zeros(1, 1)


def drawn(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def no_task(outputs: Tensor) -> Tensor:
    """A loss whose gradient is zero everywhere."""
    return 0.0 * outputs.sum()


def begun(method: methods.Method, model: nn.Module) -> methods.Method:
    method.begin(model, method.optimizer(model, 1e-3))
    return method


def penalty_of(method: methods.Method, model: nn.Module) -> Tensor:
    value = method.penalty(model, NOTHING)
    assert value is not None
    return value


@pytest.mark.parametrize("target", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gram_penalty_and_its_closed_form_are_autograds(shape: tuple[int, ...], target: float) -> None:
    w = drawn(*shape).requires_grad_()
    spectrum = torch.linalg.svdvals(w)
    expected = (spectrum.square() - target).square().sum(-1)
    weights = torch.arange(1.0, 1.0 + expected.numel(), dtype=torch.float64).view(expected.shape)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), w)
    value = gram_penalty(w, target)
    (closed,) = torch.autograd.grad((value * weights).sum(), w)
    # float64 against float64: 300 terms of size 1e5 leave 1e-9 of it
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(closed, gradient, rtol=1e-7, atol=1e-7 * float(gradient.abs().max()))


def test_the_gram_penalty_takes_any_strides_and_half_precision() -> None:
    w = drawn(60, 40)[::2].mT.requires_grad_()
    assert torch.autograd.gradcheck(gram_penalty, w[:5, :4].detach().requires_grad_())
    expected = (w @ w.mT - torch.eye(40, dtype=w.dtype)).square().sum() - (40 - 30)
    torch.testing.assert_close(gram_penalty(w), expected)
    half = w.detach().bfloat16().requires_grad_()
    gram_penalty(half).backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    double = half.detach().double()
    exact = 4 * (double @ double.mT @ double - double)
    # one rounding to bfloat16, 2^-9 of every entry, at the end; the Gram is float32
    torch.testing.assert_close(half.grad.double(), exact, rtol=2**-8, atol=2e-3 * float(exact.abs().max()))


@pytest.mark.parametrize("net", ["mlp", "cnn", "vit"])
def test_the_coupled_penalty_is_lambda_times_the_models(net: str) -> None:
    model = network(net).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    found = penalty_of(methods.get("isometry-penalty", isometry=0.3), model)
    gradients = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    expected = 0.3 * isoplast.isometry_penalty(model)
    oracle = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(found, expected)
    assert [g is None for g in gradients] == [g is None for g in oracle]
    torch.testing.assert_close([g for g in gradients if g is not None], [g for g in oracle if g is not None])


def test_a_fused_projection_counts_as_three_matrices() -> None:
    attention = nn.MultiheadAttention(4, 2).double()
    blocks = [*attention.in_proj_weight.detach().chunk(3), attention.out_proj.weight.detach()]
    expected = sum((torch.linalg.svdvals(block).square() - 1).square().sum() for block in blocks)
    found = penalty_of(methods.get("isometry-penalty", isometry=1.0), attention)
    torch.testing.assert_close(found.detach(), expected)


def test_coupled_in_adam_a_weight_without_task_gradient_moves_by_lr_whatever_the_strength() -> None:
    moved = []
    for strength in (1e-3, 1e-1):
        model = nn.Linear(2, 2, bias=False)
        model.weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
        run = training("isometry-penalty", model, lr=1e-2, isometry=strength)
        run.step(lambda model=model: no_task(model(torch.ones(1, 2))))
        moved.append(model.weight.detach())
    # Adam's first step is lr g / (|g| + 1e-8), and |g| is at least 1e-3 x 1.5 here.
    for weight in moved:
        torch.testing.assert_close(weight, torch.tensor([[1.99, 0.0], [0.0, 0.51]]), rtol=0, atol=1e-6)


def hidden(model: nn.Module) -> list[Tensor]:
    """The hidden weights as matrices."""
    names = [name for name, p in model.named_parameters() if p.ndim >= 2 and not name.startswith("head")]
    return [model.get_parameter(name).detach().flatten(1) for name in names]


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_parseval_is_the_formula_on_the_hidden_layers(net: str) -> None:
    model = network(net).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    found = penalty_of(methods.get("parseval", strength=0.01, scale=1.7), model)
    expected = sum(
        0.01 * (64 / len(w)) ** 2 * (w @ w.mT - 1.7 * torch.eye(len(w), dtype=w.dtype)).square().sum()
        for w in hidden(model)
    )
    torch.testing.assert_close(found.detach(), expected)
    found.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == [
        name for name, p in model.named_parameters() if p.ndim < 2 or name.startswith("head")
    ]


def test_parseval_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    model[0].weight.data = torch.diag(torch.tensor([1.0, 2.0]))
    # 1e-3 (64/2)^2 ((1 - 2)^2 + (4 - 2)^2): the source's defaults
    assert penalty_of(methods.get("parseval"), model).item() == pytest.approx(5.12)
    # of unit length, the rows are orthonormal
    assert penalty_of(methods.get("parseval", scale=1.0, normalize_rows=True), model).item() == 0


def test_parseval_in_groups_is_the_masked_gram_matrix() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)).double()
    found = penalty_of(methods.get("parseval", strength=1.0, groups=2, normalize_rows=True), model)
    expected = torch.zeros((), dtype=torch.float64)
    for w in hidden(model)[:2]:
        unit = w / w.norm(dim=1, keepdim=True)
        mask = torch.block_diag(*2 * [torch.ones(len(w) // 2, len(w) // 2)]).double()
        gap = mask * (unit @ unit.mT) - 2.0 * torch.eye(len(w), dtype=torch.float64)
        expected += (64 / len(w)) ** 2 * gap.square().sum()
    torch.testing.assert_close(found.detach(), expected)
    with pytest.raises(IsoplastError, match=r"the 6 rows of 1\.weight do not divide into groups=4"):
        methods.get("parseval", groups=4).prepare(model)


def test_parseval_brings_all_singular_values_to_the_root_of_its_scale() -> None:
    run = started("parseval", strength=10.0, scale=2.0)
    model = run.model
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    train(run, 900)
    for weight in hidden(model):
        # Adam at lr 0.01 jitters by some steps of that size.
        assert (torch.linalg.svdvals(weight) - 2**0.5).abs().max() < 0.1


class Layers(nn.Module):
    """A matrix, a kernel, a bias, a normalisation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 2, bias=False)
        self.norm = nn.LayerNorm(5)
        self.hidden = nn.Linear(5, 4)
        self.embedding = nn.Embedding(6, 5)
        self.head = nn.Linear(4, 2, bias=False)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_spectral_regularisation_is_the_formula_and_its_gradient(exponent: float) -> None:
    torch.manual_seed(0)
    model = Layers().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    # So many iterations that the estimates are exact.
    method = begun(
        methods.get("spectral-regularization", strength=0.3, exponent=exponent, iterations=2000), model
    )
    found = penalty_of(method, model)
    weights = (model.convolution.weight.flatten(1), model.hidden.weight, model.head.weight)
    terms = [(torch.linalg.matrix_norm(w, 2) ** exponent - 1) ** 2 for w in weights]
    terms += [b.norm() ** (2 * exponent) for b in (model.hidden.bias, model.norm.bias)]
    terms += [(model.norm.weight - 1).square().sum()]
    expected = 0.3 * torch.stack(terms).sum()
    torch.testing.assert_close(found, expected)
    found_gradients = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    oracle = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    for one, other in zip(found_gradients, oracle, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_the_power_vector_persists_and_is_saved() -> None:
    model = nn.Sequential(nn.Linear(30, 20, bias=False), nn.Linear(20, 2, bias=False))
    method = begun(methods.get("spectral-regularization", strength=1.0), model)
    true = torch.linalg.matrix_norm(model[0].weight.detach(), 2)

    def estimate() -> float:
        penalty_of(method, model)
        vector = method.state["vectors"]["0.weight:0"]
        return float((model[0].weight.detach() @ vector).norm())

    estimates = [estimate() for _ in range(300)]
    assert all(later >= earlier * (1 - 1e-6) for earlier, later in itertools.pairwise(estimates))
    assert estimates[-1] == pytest.approx(float(true), rel=1e-4)
    assert estimates[0] <= float(true) * (1 + 1e-6)
    other = begun(methods.get("spectral-regularization", strength=1.0), model)
    other.load_state(copy.deepcopy(method.state))
    assert torch.equal(penalty_of(other, model), penalty_of(method, model))


def test_the_estimate_is_that_of_torchs_spectral_norm() -> None:
    layer = nn.Linear(6, 5, bias=False)
    weight = layer.weight.detach().clone()
    parametrizations.spectral_norm(layer, n_power_iterations=1)
    normalised = layer.weight.detach()  # one iteration more
    sigma = float(weight[0, 0] / normalised[0, 0])
    method = methods.get("spectral-regularization", strength=1.0, exponent=1)
    method.state["vectors"] = {"weight:0": layer.parametrizations.weight[0]._v.clone()}
    # We go half an iteration further for the same product, so ours is the better lower bound.
    plain = nn.Linear(6, 5, bias=False)
    plain.weight.data = weight
    found = 1 + penalty_of(method, plain).item() ** 0.5 * (1 if sigma > 1 else -1)
    assert sigma * (1 - 1e-6) <= found <= float(torch.linalg.matrix_norm(weight, 2)) * (1 + 1e-6)
    assert found == pytest.approx(sigma, rel=1e-2)


def test_spectral_regularisation_of_zeros_has_a_finite_gradient() -> None:
    model = nn.Linear(3, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    penalty_of(begun(methods.get("spectral-regularization"), model), model).backward()
    assert model.weight.grad is not None
    assert model.weight.grad.isfinite().all()


def test_spectral_regularisation_holds_the_largest_singular_value_only() -> None:
    run = started("spectral-regularization", strength=10.0)
    model = run.model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3).mul_(torch.linspace(0.01, 1.0, len(parameter))[:, None])
    train(run, 900)
    for weight in hidden(model):
        spectrum = torch.linalg.svdvals(weight)
        assert float(spectrum[0]) == pytest.approx(1, abs=0.1)
        assert spectrum[-1] < 0.5


@pytest.mark.parametrize("name", ["isometry-penalty", "parseval", "spectral-regularization"])
def test_without_strength_nothing_is_computed_and_no_random_number_drawn(name: str) -> None:
    strength = str(methods.get(name).info.strength)
    model = network()
    before = torch.get_rng_state()
    assert begun(methods.get(name, **{strength: 0}), model).penalty(model, NOTHING) is None
    assert torch.equal(torch.get_rng_state(), before)


def one_step(method: methods.Method, lr: float, loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's weight before and after one step, and its task gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)).double()
    before = model[0].weight.detach().clone()
    run = training(method, model, lr=lr)
    run.step(lambda: loss(model(drawn(7, 5)), torch.zeros(7, dtype=torch.long)))
    assert model[0].weight.grad is not None
    return before, model[0].weight.detach(), model[0].weight.grad


def test_sgdo_is_sgd_beside_the_isometry_step_at_the_same_weights() -> None:
    method = methods.get("sgdo", isometry=0.5, isometry_every=1, momentum=0.0)
    w, after, gradient = one_step(method, 1e-2, nn.functional.cross_entropy)
    torch.testing.assert_close(after, w - 1e-2 * gradient - 1e-2 * 0.5 * 4 * (w @ w.mT @ w - w))


def test_sgdo_without_isometry_is_torchs_sgd_to_the_bit() -> None:
    run = started("sgdo", isometry=0.0, momentum=0.8, nesterov=True)
    model = run.model
    train(run, 20)
    plain = network()
    sgd = torch.optim.SGD(plain.parameters(), lr=1e-2, momentum=0.8, nesterov=True)
    train(Training(methods.get("adam"), plain, sgd), 20)
    assert different(values(model), values(plain)) == []


def test_sgdo_keeps_all_singular_values_near_one() -> None:
    run = started("sgdo", isometry=5.0)
    model = run.model
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    train(run, 300)
    for weight in [*hidden(model), model.head.weight.detach()]:
        # 8 lr lambda x 300 = 120 time constants; SGD at lr 0.01 pushes by 0.01 x |gradient| a step.
        assert (torch.linalg.svdvals(weight) - 1).abs().max() < 0.1


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muono_is_torchs_muon_beside_the_isometry_step() -> None:
    settings = {"momentum": 0.9, "weight_decay": 0.05, "adjust_lr": "original"}
    method = methods.get("muono", isometry=0.5, isometry_every=1, **settings)
    w, after, gradient = one_step(method, 1e-2, nn.functional.cross_entropy)
    moved = w - 1e-2 * 0.5 * 4 * (w @ w.mT @ w - w)
    oracle = nn.Parameter(moved.clone())
    oracle.grad = gradient.clone()
    torch.optim.Muon([oracle], lr=1e-2, momentum=0.9, weight_decay=0.05, adjust_lr_fn="original").step()
    torch.testing.assert_close(after, oracle.detach())


def test_muono_says_so_where_torch_has_no_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(IsoplastError, match=r"Muon came with torch 2\.9.*: update torch") as error:
        methods.get("muono").optimizer(network(), 1e-2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["muono", "sgdo"])
def test_what_is_attached_is_reported_and_its_settings_checked(name: str) -> None:
    method = methods.get(name, isometry=1e-2)
    optimizer = method.optimizer(network(), 1e-2)
    (line,) = method.report(optimizer, 1250)
    assert line == "3 matrices, 136 of 155 parameters under isometry, time constant 1 250 steps"
    (_, warning) = method.report(optimizer, 1249)
    assert warning.startswith("warning: 1,249 steps are fewer than the isometry time constant of 1 250 steps")
    by_time = methods.get(name, isometry_time=1000)
    groups = by_time.optimizer(network(), 1e-2).param_groups
    assert groups[0]["isometry"] == pytest.approx(1 / (8 * 1e-2 * 1000))
    with pytest.raises(IsoplastError, match=rf"method {name} got isometry=0.1 and isometry_time=10.0: they"):
        methods.get(name, isometry=0.1, isometry_time=10)
    with pytest.raises(IsoplastError, match=f"isometry_every of method {name} is 0: it must be at least 1"):
        methods.get(name, isometry_every=0)
    with pytest.raises(IsoplastError, match=f"isometry_time of method {name} is 0.0: it must be positive"):
        methods.get(name, isometry_time=0)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(IsoplastError, match="nesterov of method sgdo needs momentum"):
        methods.get("sgdo", momentum=0, nesterov=True)
