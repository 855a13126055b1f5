"""The closed form of many isometry steps: its map, its distance from the exact flow, its stability."""

import math

import pytest
import torch
from given_matrices import laid_out, matrices, normal, orthonormal, with_singular_values
from hypothesis import given
from hypothesis import strategies as st

import isoplast.isometry._products as products
from isoplast.isometry import flow_step, flow_step_, isometry_step, penalty, singular_values


def pade(sigma: torch.Tensor, total: float) -> torch.Tensor:
    x = -math.expm1(-8 * total) * (sigma**2 - 1)
    return sigma * (1 + x / 4) / (1 + 3 * x / 4)


def exact_flow(sigma: torch.Tensor, total: float) -> torch.Tensor:
    """The logistic solution of d sigma / d C = 4 (sigma - sigma^3)."""
    return sigma / (1 - math.expm1(-8 * total) * (sigma**2 - 1)).sqrt()


@pytest.mark.parametrize(("m", "n"), [(9, 4), (4, 9), (5, 5), (1, 4)])
@pytest.mark.parametrize("total", [0.0, 1e-6, 1e-2, 0.3, 1e9])
@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_singular_values_follow_the_map_and_vectors_stay(m, n, total, step):
    values = torch.linspace(0.0, 4.0, min(m, n), dtype=torch.float64)
    w, u, vh = with_singular_values(values, m, n)
    torch.testing.assert_close(step(w, total), u @ (pade(values, total)[:, None] * vh), rtol=0, atol=1e-12)


@pytest.mark.parametrize("total", [1e-7, 1e-3, 0.01, 0.05, 0.2, 1.0])
def test_distance_from_the_exact_flow(total):
    sigma = torch.linspace(0.2, 1.4, 200, dtype=torch.float64)
    x = (-math.expm1(-8 * total) * (sigma**2 - 1)).abs()
    sigma, x = sigma[x < 1], x[x < 1]
    w = sigma.diag()
    error = (flow_step(w, total).diagonal() - exact_flow(sigma, total)).abs() / sigma
    # (1 + x)^(-1/2) minus its Padé(1,1) is -x^3/32 (1 - 2x + 2.8 x^2 - ...), below |x|^3 / (32 (1 - |x|)^2).
    assert (error <= x**3 / (32 * (1 - x) ** 2) + 1e-14).all()


@pytest.mark.parametrize(("low", "high", "largest"), [(0.8, 1.2, 6e-4), (0.2, 3.0, 0.14)])
def test_distance_from_single_steps(low, high, largest):
    """64 steps of c = 1e-3: 5.2e-4 off for sigma in [.8, 1.2] (3.8e-4 by the steps), .13 in [.2, 3]."""
    sigma = torch.linspace(low, high, 100, dtype=torch.float64)
    stepped = sigma
    for _ in range(64):
        stepped = stepped * (1 - 4e-3 * (stepped**2 - 1))
    w = sigma.diag()
    error = (flow_step(w, 0.064).diagonal() - stepped).abs().max()
    assert error < largest


def test_small_totals_equal_single_steps_to_second_order():
    w, total = 1.2 * normal(6, 5, seed=3), 1e-3
    errors = []
    for shrink in (1, 10):
        c = total / shrink
        errors.append(float((flow_step(w, c) - isometry_step(w, c)).norm()))
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.05)


@given(matrices(scales=(0.01, 30.0)), st.floats(0, 1e9))
def test_penalty_falls_at_any_strength(w, total):
    assert (penalty(flow_step(w, total)) <= penalty(w) * (1 + 1e-9) + 1e-20).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("total", [1e-9, 1e-3, 1.0, 1e3, 1e9, math.inf])
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_stable_for_every_sigma_and_strength(step, shape, sigma, total, dtype):
    w = sigma * orthonormal(*shape, dtype=dtype)
    moved = step(w.clone(), total)
    assert moved.isfinite().all()
    ratio = (moved / w)[w.abs() > 0.01 * sigma]
    # One factor for all entries, between the fixed point's (1/sigma) and none at all (1), never
    # negative. Rounding of I + 3 eps S / 4, of condition <= 1e4: 1e4 * 6e-8 in float32.
    assert (ratio - ratio.mean()).abs().max() < 2e-3 * ratio.mean()
    assert min(1.0, 1 / sigma) * (1 - 1e-3) <= ratio.mean() <= max(1.0, 1 / sigma) * (1 + 1e-3)
    # The whole way to one is not done at once (a factor of 3 per step at both ends), but a part is.
    if total >= 1 and sigma > 1:
        assert ratio.mean() == pytest.approx(1 / 3, rel=1e-2)
    if total >= 1 and sigma < 1:
        assert ratio.mean() == pytest.approx(3, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("total", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_stable_for_mixed_spectra(step, total, dtype):
    values = torch.logspace(6, -6, 24, dtype=torch.float64)
    w = with_singular_values(values, 30, 24)[0].to(dtype)
    previous = values[0]
    for _ in range(25):
        w = step(w, total)
        largest = singular_values(w)[0]
        assert torch.isfinite(largest)
        assert largest <= max(previous, 1.0) * (1 + 1e-3)
        previous = largest
    if total >= 1:  # each step divides the largest by up to 3: 1e6 = 3^12.6
        assert previous == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_one_huge_value_does_not_turn_the_others(step, seed):
    """I + 3 eps S / 4 of condition 1e10 would lose its smallest eigenvalues to float32 rounding."""
    values = torch.cat([torch.tensor([1e5]), torch.linspace(1, 0.1, 95)]).double()
    w, u, vh = with_singular_values(values, 128, 96, seed=7 * seed)
    moved = step(w.float(), 1.0).double()
    core = (u.mT @ moved @ vh.mT).diagonal()
    assert core[0] == pytest.approx(1e5 / 3, rel=1e-3)
    # float32 of a matrix of norm 1e5 resolves values to 6e-8 * 1e5 = 6e-3; the rest must stay put.
    torch.testing.assert_close(core[1:], values[1:], rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("total", [1e-6, 1e-2, 1.0, 1e9])
@pytest.mark.parametrize("shape", [(130, 70), (70, 130), (150, 150), (3, 140, 90)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_in_place_is_out_of_place(shape, layout, total, scale):
    w = laid_out(scale * normal(*shape), layout)
    expected = flow_step(w, total)
    assert flow_step_(w, total) is w
    # LU against Cholesky of a matrix with condition <= 1e4, in float64.
    torch.testing.assert_close(w, expected, rtol=0, atol=1e-11 * scale)


@given(matrices(layouts=("contiguous", "transposed", "strided"), scales=(0.1, 10.0)), st.floats(0, 1e3))
def test_in_place_is_out_of_place_for_every_layout(w, total):
    expected = flow_step(w, total)
    torch.testing.assert_close(flow_step_(w, total), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("step", [flow_step, flow_step_])
@pytest.mark.parametrize("total", [1e-6, 1.0, 1e9])
def test_fixed_points(step, total):
    for shape in ((6, 3), (3, 6), (5, 5), (3, 4, 4)):
        q = orthonormal(*shape)
        torch.testing.assert_close(step(q.clone(), total), q, rtol=0, atol=1e-14)
    assert torch.equal(step(torch.zeros(4, 6), total), torch.zeros(4, 6))


def test_zero_strength_changes_no_bit():
    w = normal(20, 30, dtype=torch.float32)
    assert torch.equal(flow_step(w, 0.0), w)
    assert torch.equal(flow_step_(w.clone(), 0.0), w)


def test_two_halves_are_the_whole_near_isometry():
    w = orthonormal(8, 6) + 0.01 * normal(8, 6, seed=1)
    halves = flow_step(flow_step(w, 0.01), 0.01)
    # The exact flow is a semigroup; each Padé step is off by x^3/32 with x < 0.16 * 0.04.
    torch.testing.assert_close(halves, flow_step(w, 0.02), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 0, 3), (0, 3, 3)])
@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_empty(shape, step):
    assert step(torch.zeros(shape), 0.1).shape == shape


@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_strength_may_be_a_tensor(step):
    w = normal(6, 4)
    assert torch.equal(step(w.clone(), torch.tensor(0.1, dtype=torch.float64)), step(w.clone(), 0.1))


def test_differentiable_in_matrix_and_strength():
    w, c = normal(4, 3, seed=2).requires_grad_(), torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(flow_step, (w, c))


@pytest.mark.parametrize("shape", [(40, 34), (34, 40), (50, 50), (3, 40, 32), (260, 300), (400, 256)])
@pytest.mark.parametrize("total", [1e-5, 1e-3, 3e-3, 0.02, 1.0, 1e9])
@pytest.mark.parametrize("largest", [1.1, 2.0, 4.0, 30.0])
@pytest.mark.parametrize("tolerance", [1e-3, 0.01, 0.1])
def test_with_a_tolerance_every_value_moves_by_the_closed_forms_amount(shape, total, largest, tolerance):
    """The polynomial where it is within the tolerance, the closed form itself where it would not be."""
    values = torch.linspace(0.1, largest, min(shape[-2:]), dtype=torch.float64)
    w, u, vh = with_singular_values(values, *shape[-2:])
    if len(shape) > 2:
        w = w.expand(shape).contiguous()
    before = w.clone()
    flow_step_(w, total, tolerance=tolerance)
    moved = u.mT @ w @ vh.mT
    expected = pade(values, total) - values
    found = moved.diagonal(dim1=-2, dim2=-1) - values
    # Where the closed form's well-conditioned limit acts (eps u > 1e4) it is not the map itself.
    if 0.75 * -math.expm1(-8 * total) * (largest**2 - 1) < 1e3:
        assert ((found - expected).abs() <= tolerance * expected.abs() + 1e-10 * values.abs()).all()
    assert (moved - torch.diag_embed(moved.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-9 * largest
    assert w.isfinite().all()
    if total == 1e-5 and largest <= 4 and len(shape) == 2:  # stacks are factorised
        exact = flow_step_(before, total)
        assert not torch.equal(w, exact), "the polynomial is never taken"


def test_without_a_tolerance_the_closed_form_is_taken():
    w = orthonormal(20, 12) * 1.1
    assert torch.equal(flow_step_(w.clone(), 1e-4, tolerance=0.0), flow_step_(w.clone(), 1e-4))


@pytest.mark.parametrize("shape", [(400, 400), (384, 700), (700, 384), (512, 390)])
@pytest.mark.parametrize(("total", "largest"), [(1e-5, 1.2), (1e-3, 3.4), (1e-3, 5.0), (1e-2, 1.1)])
@pytest.mark.parametrize("tolerance", [1e-3, 0.01])
def test_large_float32_matrices_move_within_the_tolerance(shape, total, largest, tolerance):
    """Where the processor has bfloat16 products, they are among what the tolerance allows."""
    values = torch.linspace(0.1, largest, min(shape), dtype=torch.float64)
    w, u, vh = with_singular_values(values, *shape)
    expected = u @ ((pade(values, total) - values)[:, None] * vh)
    single = w.float()
    moved = flow_step_(single.clone(), total, tolerance=tolerance).double() - single.double()
    # And float32's own rounding: of W + (small), at 6e-8 of every entry.
    assert (moved - expected).norm() <= tolerance * expected.norm() + 1e-7 * w.norm()


def test_bfloat16_products_are_used_only_within_a_tolerance(monkeypatch):
    """Pretend the processor has them: with a large tolerance they show, without one they do not."""
    w = orthonormal(400, 390, dtype=torch.float32) * 1.2
    exact, single = flow_step_(w.clone(), 1e-3), flow_step_(w.clone(), 1e-3, tolerance=4e-3)
    monkeypatch.setattr(products, "_has_bfloat16", lambda: True)
    assert torch.equal(flow_step_(w.clone(), 1e-3), exact)
    monkeypatch.setattr(products, "_has_bfloat16", lambda: False)
    plain = flow_step_(w.clone(), 1e-3, tolerance=0.01)
    monkeypatch.setattr(products, "_has_bfloat16", lambda: True)
    rough = flow_step_(w.clone(), 1e-3, tolerance=0.01)
    move = (exact - w).norm()
    assert (plain - exact).norm() < 1e-3 * move
    assert 1e-4 * move < (rough - exact).norm() < 0.006 * move
    assert (single - exact).norm() < 4e-3 * move
