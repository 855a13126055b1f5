"""Hessians and Gauss-Newton matrices against dense ones, finite differences and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import curvature
from isoplast.nn import build


def data(n: int = 12, width: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def small(activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 3)).double()


def dense(model: nn.Module, x: Tensor, y: Any, loss: Callable[..., Tensor] = cross_entropy) -> Tensor:
    """The Hessian by torch.func, at the flat vector of all parameters."""
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def value(flat: Tensor) -> Tensor:
        pieces = torch.split(flat, [shape.numel() for shape in shapes])
        parameters = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return loss(functional_call(model, parameters, (x,)), y)

    flat = parameters_to_vector(model.parameters()).detach()
    return torch.autograd.functional.hessian(value, flat)


def test_hessian_spectrum_is_that_of_the_dense_matrix() -> None:
    model, (x, y) = small(), data()
    wanted = torch.linalg.eigvalsh(dense(model, x, y)).flip(0)
    size = len(wanted)
    found = curvature(model, x, y, steps=size, top=size)
    assert found.complete
    # float64 Lanczos with all vectors: rounding times the size.
    torch.testing.assert_close(found.eigenvalues, wanted, rtol=0, atol=1e-12)
    assert found.trace == pytest.approx(float(wanted.sum()), rel=1e-12)
    shares = wanted.abs() / wanted.abs().sum()
    assert found.effective_rank == pytest.approx(
        float(torch.exp(-torch.xlogy(shares, shares).sum())), rel=1e-6
    )
    assert found.participation_rank == pytest.approx(
        float(wanted.sum() ** 2 / wanted.square().sum()), rel=1e-10
    )
    assert found.smallest < 0 < found.sharpness


def test_largest_eigenvalue_by_finite_differences() -> None:
    # The second difference of the loss along the dense eigenvector is the eigenvalue.
    model, (x, y) = small(), data()
    vector = torch.linalg.eigh(dense(model, x, y)).eigenvectors[:, -1]
    flat, h = parameters_to_vector(model.parameters()).detach(), 1e-4

    def value(at: Tensor) -> Tensor:
        with torch.no_grad():
            vector_to_parameters(at, model.parameters())
            return cross_entropy(model(x), y)

    second = (value(flat + h * vector) - 2 * value(flat) + value(flat - h * vector)) / h**2
    vector_to_parameters(flat, model.parameters())
    # h^2 times a fourth derivative of order 1, and eps / h^2 = 2e-8 of rounding.
    assert curvature(model, x, y, steps=20).sharpness == pytest.approx(float(second), rel=1e-5)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_few_steps_find_the_largest_within_the_stated_error(kind: str) -> None:
    model, (x, y) = small(), data()
    exact = curvature(model, x, y, kind=kind, steps=57, top=57)
    found = curvature(model, x, y, kind=kind, steps=16, top=3, probes=8)
    assert not found.complete
    for value, error in zip(found.eigenvalues, found.errors, strict=True):
        assert (exact.eigenvalues - value).abs().min() <= error + 1e-12
    # Six standard errors of eight probes: Student's t with 7 degrees of freedom leaves 5e-4 beyond.
    assert abs(found.trace - exact.trace) < 6 * found.trace_error
    assert found.trace_error > 0
    assert found.effective_rank == pytest.approx(exact.effective_rank, rel=0.5)


def test_gauss_newton_is_the_hessian_of_a_linear_model_under_squared_loss() -> None:
    model, (x, _) = nn.Linear(5, 3).double(), data()
    y = torch.randn(12, 3, dtype=torch.float64)
    size = 18
    hessian = curvature(model, x, y, mse_loss, steps=size, top=size)
    newton = curvature(model, x, y, mse_loss, kind="gauss-newton", steps=size, top=size)
    torch.testing.assert_close(hessian.eigenvalues, newton.eigenvalues, rtol=0, atol=1e-12)
    with_bias = torch.cat([x, torch.ones(12, 1, dtype=torch.float64)], dim=1)
    # mse_loss divides by n * 3 outputs: 2 / 36 X^T X, three times.
    wanted = torch.linalg.eigvalsh(with_bias.T @ with_bias / 18).flip(0).repeat_interleave(3)
    torch.testing.assert_close(hessian.eigenvalues, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [cross_entropy, mse_loss])
def test_gauss_newton_against_the_dense_matrix(loss: Callable[..., Tensor]) -> None:
    model, (x, labels) = small(), data()
    y: Tensor = labels if loss is cross_entropy else nn.functional.one_hot(labels).double()
    names = [name for name, _ in model.named_parameters()]
    rows = torch.func.jacrev(lambda p: functional_call(model, p, (x,)))(dict(model.named_parameters()))
    jacobian = torch.cat([rows[name].detach().flatten(2) for name in names], dim=2).flatten(0, 1)
    outer = torch.autograd.functional.hessian(lambda f: loss(f.view(12, 3), y), model(x).detach().flatten())
    wanted = torch.linalg.eigvalsh(jacobian.T @ outer @ jacobian).flip(0)
    found = curvature(model, x, y, loss, kind="gauss-newton", steps=57, top=57)
    torch.testing.assert_close(found.eigenvalues, wanted, rtol=0, atol=1e-12)
    assert found.smallest > -1e-12  # positive semi-definite to rounding


def test_kinks_have_no_curvature() -> None:
    # A ReLU network's Hessian is the Gauss-Newton matrix plus what the slopes of the loss mix between
    # layers; with a frozen first layer nothing is mixed.
    model, (x, y) = small(nn.ReLU), data()
    model[0].requires_grad_(False)
    hessian = curvature(model, x, y, steps=21, top=21)
    newton = curvature(model, x, y, kind="gauss-newton", steps=21, top=21)
    assert hessian.parameters == 21  # the trainable ones alone
    torch.testing.assert_close(hessian.eigenvalues, newton.eigenvalues, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_batches_bound_the_memory_and_change_nothing(kind: str) -> None:
    model, (x, y) = small(), data()
    whole = curvature(model, x, y, kind=kind, steps=10)
    parts = curvature(model, x, y, kind=kind, steps=10, batch_size=5)  # 5 + 5 + 2 samples
    # Sums in another order, ten steps.
    torch.testing.assert_close(whole.eigenvalues, parts.eigenvalues, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"width": 8, "depth": 2, "activation": "maxmin", "linear": "isometric"}),
        ("cnn", {}),
        ("resnet18", {"width": 4}),
        ("vit", {"width": 8, "depth": 1, "heads": 2}),
    ],
)
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_networks_of_every_kind(name: str, options: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    model = build(name, input_shape=(3, 8, 8), classes=4, **options).train()
    x, y = torch.randn(6, 3, 8, 8), torch.randint(4, (6,))
    before = [t.clone() for t in model.state_dict().values() if isinstance(t, Tensor)]
    state = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = curvature(model, x, y, kind=kind, steps=3, top=1, probes=1)
    assert found.finite
    assert found.sharpness > 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    after = [t for t in model.state_dict().values() if isinstance(t, Tensor)]
    assert all(map(torch.equal, before, after))
    assert all(p.grad is None for p in model.parameters())


def test_gradients_and_hooks_of_the_parameters_are_left_alone() -> None:
    model, (x, y) = small(), data()
    cross_entropy(model(x), y).backward()
    gradients = [p.grad for p in model.parameters()]
    copies = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    calls: list[Tensor] = []
    for p in model.parameters():
        p.register_hook(calls.append)
    curvature(model, x, y, steps=5)
    assert calls == []
    for p, gradient, copy in zip(model.parameters(), gradients, copies, strict=True):
        assert p.grad is gradient
        assert torch.equal(copy, gradient)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_no_curvature_at_all(kind: str) -> None:
    # A loss that is linear in the outputs of a linear model.
    x, y = data()
    found = curvature(nn.Linear(5, 3).double(), x, y, lambda f, _: f.mean(), kind=kind, steps=4, top=2)
    assert (found.sharpness, found.trace, found.effective_rank, found.participation_rank) == (0, 0, 0, 0)


def test_what_is_not_finite_is_not_flat() -> None:
    model, (x, y) = small(), data()
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    found = curvature(model, x, y, steps=5)
    assert not found.finite
    assert math.isnan(found.sharpness)
    assert math.isnan(found.trace)
    assert math.isnan(found.effective_rank)
    assert "nan" in str(found)


def test_it_prints_and_flattens() -> None:
    model, (x, y) = small(), data()
    found = curvature(model, x, y, steps=6, top=2)
    assert all(isinstance(value, float) for value in found.as_dict().values())
    lines = str(found).splitlines()
    assert lines[0] == "hessian, 57 parameters, 12 samples"
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("eigenvalue 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "fisher"}, "unknown kind of curvature 'fisher'"),
        ({"top": 40}, "top is 40 with 30 Lanczos steps"),
        ({"probes": 0}, "probes=0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"inputs": torch.ones(12, 4).double()}, r"inputs of shape \(2, 4\) do not fit"),
        ({"targets": torch.zeros(11).long()}, "12 inputs have 11 targets"),
        ({"targets": torch.zeros(12, 7)}, r"targets do not fit outputs of shape \(2, 3\)"),
        ({"loss": lambda f, y: f}, "the loss must return one number"),
    ],
)
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    x, y = data()
    with pytest.raises(IsoplastError, match=message):
        curvature(small(), **{"inputs": x, "targets": y, **change})


def test_nothing_to_differentiate() -> None:
    x, y = data()
    with pytest.raises(IsoplastError, match="no trainable parameter"):
        curvature(small().requires_grad_(False), x, y)


def by_differences(model: nn.Module, x: Tensor, y: Tensor, v: Tensor) -> float:
    """v^T H v by the second difference of the loss."""
    flat, h = parameters_to_vector(model.parameters()).detach(), 1e-4

    def value(at: Tensor) -> Tensor:
        with torch.no_grad():
            vector_to_parameters(at, model.parameters())
            return cross_entropy(model(x), y)

    second = (value(flat + h * v) - 2 * value(flat) + value(flat - h * v)) / h**2
    vector_to_parameters(flat, model.parameters())
    return float(second)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "old weight_norm", "whole"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_hessians_through_parametrised_weights(kind: str) -> None:
    """torch's own second derivative of weight normalisation is wrong: 0.05 beside entries of 0.23 here."""
    model, (x, y) = small(), data()
    model.insert(2, nn.Linear(6, 6).double())
    if kind == "old weight_norm":
        nn.utils.weight_norm(model[2])  # type: ignore[no-untyped-call]
    elif kind == "whole":
        nn.utils.parametrizations.weight_norm(model[2], dim=None)
    else:
        getattr(nn.utils.parametrizations, kind)(model[2])
    model.eval()
    size = sum(p.numel() for p in model.parameters())
    found = curvature(model, x, y, steps=size, top=1)
    vectors = torch.eye(size, dtype=torch.float64)
    # The trace by differences along every axis; h^2 times fourth derivatives, and eps / h^2 for each.
    expected = sum(by_differences(model, x, y, v) for v in vectors)
    assert found.trace == pytest.approx(expected, abs=1e-5 * size**0.5)


class Rounding(torch.autograd.Function):
    """Straight through, as if it were linear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return torch.round(2 * x) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return ctx.scale * gradient, None


class Twisted(Rounding):
    """The slope of every output by its input is another input: the derivative of nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x)
        return torch.round(2 * x) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient * ctx.saved_tensors[0].roll(1, -1), None


class Once(Rounding):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


class Outside(Rounding):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return torch.from_numpy(gradient.detach().numpy()), None


class Beside(nn.Module):
    """An operation with a backward pass of its own, and a way round it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.function = nn.Linear(5, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x)
        return self.two(torch.tanh(hidden) + self.function.apply(hidden, 0.5))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Once, "without a second derivative"),
        (Outside, "without a second derivative|not those of a symmetric"),
    ],
)
def test_ways_round_a_missing_derivative_are_not_taken(function: Any, message: str, kind: str) -> None:
    x, y = data()
    with pytest.raises(IsoplastError, match=message) as caught:
        curvature(Beside(function).double(), x, y, kind=kind)
    assert "\n" not in str(caught.value)


def test_a_backward_pass_that_is_no_derivative_has_no_hessian() -> None:
    x, y = data()
    assert curvature(Beside(Rounding).double(), x, y).finite  # as of a linear map
    model = Beside(Twisted).double()
    with pytest.raises(IsoplastError, match="not those of a symmetric matrix"):
        curvature(model, x, y)
    # Its Jacobian, by backward passes alone, is what it is.
    rows = [torch.autograd.grad(v, list(model.parameters()), retain_graph=True) for v in model(x).flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    outer = torch.autograd.functional.hessian(
        lambda f: cross_entropy(f.view(12, 3), y), model(x).detach().flatten()
    )
    wanted = torch.linalg.eigvalsh(jacobian.T @ outer @ jacobian).flip(0)
    found = curvature(model, x, y, kind="gauss-newton", steps=jacobian.shape[1], top=3)
    torch.testing.assert_close(found.eigenvalues, wanted[:3], rtol=0, atol=1e-12)


class BurnIn(nn.Module):
    """The same weights with and without gradients: a forward derivative goes through both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(self.cell(x))
        return self.head(torch.tanh(self.cell(x)))  # type: ignore[no-any-return]


def test_gauss_newton_in_parts_takes_the_derivative_that_training_sees() -> None:
    model, (x, y) = BurnIn().double(), data()
    outputs = model(x).flatten()
    rows = [torch.autograd.grad(v, list(model.parameters()), retain_graph=True) for v in outputs]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    outer = torch.autograd.functional.hessian(lambda f: cross_entropy(f.view(12, 3), y), outputs.detach())
    wanted = torch.linalg.eigvalsh(jacobian.T @ outer @ jacobian).flip(0)
    for size in (12, 5):
        found = curvature(model, x, y, kind="gauss-newton", steps=len(wanted), top=5, batch_size=size)
        torch.testing.assert_close(found.eigenvalues, wanted[:5], rtol=0, atol=1e-12)
