"""Lanczos and Hutchinson against dense linear algebra in float64."""

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._lanczos import lanczos

# A few thousand float64 operations on numbers of size one.
EXACT = 1e-10


def symmetric(eigenvalues: torch.Tensor) -> torch.Tensor:
    q = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64)).Q
    return (q * eigenvalues) @ q.T


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [1, 2, 40])
def test_as_many_steps_as_rows_find_every_eigenvalue(size):
    a = symmetric(torch.randn(size, dtype=torch.float64))
    found = lanczos(lambda v: a @ v, size, steps=size + 5)
    assert torch.allclose(found.values[0], torch.linalg.eigvalsh(a).flip(0), atol=EXACT)
    assert found.residuals.max() == 0


def test_multiple_eigenvalues_are_found_with_their_multiplicity():
    a = symmetric(torch.tensor([3.0] * 4 + [1.0] * 6, dtype=torch.float64))
    found = lanczos(lambda v: a @ v, 10, steps=10)
    assert torch.allclose(found.values[0], torch.tensor([3.0] * 4 + [1.0] * 6).double(), atol=EXACT)
    # Directions begun after the space closed do not count in the density.
    assert (found.weights[0] > EXACT).sum() == 2


def test_the_identity_and_zero_close_the_space_at_once():
    assert torch.allclose(lanczos(lambda v: 2 * v, 20, steps=8).values, torch.full((1, 8), 2.0).double())
    assert lanczos(lambda v: 0 * v, 20, steps=8).values.abs().max() == 0


def test_extremes_lie_within_their_residuals_of_an_eigenvalue_and_inside_the_spectrum():
    eigenvalues = torch.linspace(-1, 1, 300, dtype=torch.float64) ** 3
    a = symmetric(eigenvalues)
    found = lanczos(lambda v: a @ v, 300, steps=30)
    distance = (found.values[0, :, None] - eigenvalues).abs().min(1).values
    assert (distance <= found.residuals[0] + EXACT).all()
    assert 0.99 < found.largest.value <= 1 + EXACT
    assert -1 - EXACT <= found.smallest.value < -0.99
    # Orthogonality is kept: no value appears twice.
    assert found.values[0].diff().abs().min() > 1e-3


def test_float32_vectors_give_float32_accuracy():
    a = symmetric(torch.linspace(1, 10, 150, dtype=torch.float64)).float()
    found = lanczos(lambda v: a @ v, 150, steps=80, dtype=torch.float32)
    assert found.values.dtype == torch.float64
    # 150 products' rounding: a few hundred eps of float32 times the largest eigenvalue.
    assert abs(found.largest.value - 10) < 1e-4
    assert abs(found.smallest.value - 1) < 1e-4


def test_quadrature_gives_traces_of_functions_within_their_standard_errors():
    eigenvalues = torch.rand(200, dtype=torch.float64) + 0.1
    a = symmetric(eigenvalues)
    found = lanczos(lambda v: a @ v, 200, steps=20, probes=16)
    assert torch.allclose(found.weights.sum(1), torch.ones(16).double())
    for function in (torch.log, torch.square, torch.ones_like):
        estimate = found.trace_of(function)
        # Five standard errors: with 16 probes a fluke about once in ten thousand seeds.
        assert abs(estimate.value - float(function(eigenvalues).sum())) <= 5 * estimate.error + EXACT


def test_the_density_integrates_to_one_and_sees_the_gap():
    a = symmetric(torch.cat([torch.full((150,), 1.0), torch.full((50,), 3.0)]).double())
    found = lanczos(lambda v: a @ v, 200, steps=10, probes=30)
    points = torch.linspace(-1, 5, 2001, dtype=torch.float64)
    density = found.density(points, 0.05)
    assert abs(float(torch.trapezoid(density, points)) - 1) < 1e-6  # Gaussians 20 widths off the ends
    upper = float(torch.trapezoid(density[points > 2], points[points > 2]))
    # A beta variable of mean 1/4 and sd sqrt(2 * .25 * .75 / 202), averaged over 30 probes; 5 sd.
    assert abs(upper - 0.25) < 5 * 0.043 / 30**0.5
    assert density[(points - 2).abs() < 0.5].max() < 1e-6


def test_hutchinsons_trace_is_within_its_standard_error():
    n, probes = 100, 64
    a = symmetric(torch.randn(n, dtype=torch.float64))
    found = lanczos(lambda v: a @ v, n, steps=5, probes=probes).trace_of(lambda x: x)
    assert abs(found.value - float(a.trace())) < 5 * found.error
    # Var of one probe, uniform on the sphere: 2 (n |A|_F^2 - tr^2) / (n + 2).
    exact = (2 * (n * a.square().sum() - a.trace() ** 2) / (n + 2) / probes) ** 0.5
    assert 0.5 < found.error / exact < 2


def test_the_same_generator_gives_the_same_bits():
    a = symmetric(torch.randn(30, dtype=torch.float64))
    first, second = (
        lanczos(lambda v: a @ v, 30, steps=7, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.values, second.values)
    assert not torch.equal(first.values, lanczos(lambda v: a @ v, 30, steps=7).values)


def test_products_that_are_not_finite_give_nan():
    found = lanczos(lambda v: v * float("inf"), 10, steps=4)
    assert not found.finite
    assert found.values.isnan().all()


def test_wrong_arguments_are_named():
    for name, arguments in (("size", (0, 1, 1)), ("steps", (3, 0, 1)), ("probes", (3, 1, 0))):
        size, steps, probes = arguments
        with pytest.raises(IsoplastError, match=name):
            lanczos(lambda v: v, size, steps=steps, probes=probes)


def test_a_matrix_that_is_not_symmetric_is_refused():
    """Its Ritz values would look like any others: a part of 1 % is enough."""
    a = symmetric(torch.linspace(1, 3, 40, dtype=torch.float64))
    skew = torch.randn(40, 40, dtype=torch.float64)
    for matrix in (a + 0.01 * (skew - skew.T), torch.randn(40, 40, dtype=torch.float64)):
        with pytest.raises(IsoplastError, match="not those of a symmetric matrix") as caught:
            lanczos(matrix.mv, 40, steps=5)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_asymmetry(dtype):
    """Eigenvalues over 12 decades, products in the precision of the weights."""
    a = symmetric(torch.logspace(0, -12, 60, dtype=torch.float64)).to(dtype)
    found = lanczos(
        lambda v: (a @ v.to(dtype)).float(),
        60,
        steps=40,
        dtype=torch.float32,
        rounding=torch.finfo(dtype).eps,
    )
    assert abs(found.largest.value - 1) < 60 * torch.finfo(dtype).eps  # a row of 60 rounded entries


def test_an_early_end_is_that_of_fewer_steps():
    a = symmetric(torch.linspace(-1, 1, 300, dtype=torch.float64) ** 3)
    seen = []

    def until(values, residuals):
        seen.append(len(values))
        return float(residuals[0]) < 1e-3

    found = lanczos(lambda v: a @ v, 300, steps=200, until=until)
    steps = found.values.shape[1]
    assert seen == list(range(1, steps + 1))
    assert 5 < steps < 100
    assert float(found.residuals[0, 0]) < 1e-3
    again = lanczos(lambda v: a @ v, 300, steps=steps)
    assert torch.equal(found.values, again.values)
    with pytest.raises(IsoplastError, match="probes=2 and until"):
        lanczos(lambda v: a @ v, 300, steps=5, probes=2, until=until)
