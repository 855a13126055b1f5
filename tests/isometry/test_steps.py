"""The isometry step: the map it makes of singular values, its fixed points, and its guard."""

import math

import pytest
import torch
from given_matrices import laid_out, matrices, normal, orthonormal, with_singular_values
from hypothesis import given
from hypothesis import strategies as st

from isoplast.isometry import (
    flow_step,
    flow_step_,
    gram_deviation,
    isometry_step,
    isometry_step_,
    penalty,
    penalty_gradient,
    singular_values,
)


def unguarded(w: torch.Tensor, c: float) -> torch.Tensor:
    """Eq 20 in the residual form, in the same order of operations."""
    s = gram_deviation(w) * (-4 * c)
    return w + (w @ s if w.shape[-2] > w.shape[-1] else s @ w)


@given(matrices(scales=(0.1, 1.0)), st.floats(0, 1e-3))
def test_step_is_the_gradient_step_of_the_penalty(w, c):
    # Two roundings against one, each relative to entries of order one.
    torch.testing.assert_close(isometry_step(w, c), w - c * penalty_gradient(w), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("m", "n"), [(9, 4), (4, 9), (5, 5), (1, 4)])
@pytest.mark.parametrize("c", [0.0, 1e-7, 1e-3, 0.02])
def test_singular_values_follow_the_map_and_vectors_stay(m, n, c):
    values = torch.linspace(0.0, 2.0, min(m, n), dtype=torch.float64)
    w, u, vh = with_singular_values(values, m, n)
    moved = values * (1 + 4 * c - 4 * c * values**2)
    # The same U and V on both sides: the test holds for the vectors as well as for the values.
    torch.testing.assert_close(isometry_step(w, c), u @ (moved[:, None] * vh), rtol=0, atol=1e-13)


@given(matrices(scales=(0.1, 1.0)), st.floats(1e-6, 1e-2))
def test_penalty_falls(w, c):
    assert (penalty(isometry_step(w, c)) <= penalty(w) * (1 + 1e-12) + 1e-24).all()


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (5, 5), (3, 4, 4)])
@pytest.mark.parametrize("c", [1e-6, 1e-2, 0.125, 0.25, 3.0])
def test_orthonormal_matrices_stay(shape, c):
    q = orthonormal(*shape)
    # Q of a float64 QR is orthonormal to a few 1e-16; the step can move it no further than that.
    torch.testing.assert_close(isometry_step(q, c), q, rtol=0, atol=1e-14)


@pytest.mark.parametrize("c", [1e-6, 1e-2, 0.125, 3.0])
def test_zero_stays_zero(c):
    zero = torch.zeros(4, 6)
    assert torch.equal(isometry_step(zero, c), zero)


def test_zero_strength_changes_no_bit():
    w = normal(20, 30, dtype=torch.float32)
    assert torch.equal(isometry_step(w, 0.0), w)
    assert torch.equal(isometry_step_(w.clone(), 0.0), w)


def test_an_eighth_is_one_newton_schulz_step():
    w = 0.5 * normal(6, 6, seed=4)
    torch.testing.assert_close(isometry_step(w, 0.125), 1.5 * w - 0.5 * w @ w.mT @ w, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("c", [1e-4, 1e-3, 1e-2, 0.1, 0.2])
@pytest.mark.parametrize("excess", [1.0001, 1.01, 2.0, 100.0])
@pytest.mark.parametrize(("m", "n"), [(12, 5), (5, 12), (6, 6)])
def test_guard_keeps_diverging_matrices_finite_and_brings_them_home(c, excess, m, n):
    limit = 1 + 1 / (2 * c)  # Eq 20 diverges beyond this sigma_max^2
    values = torch.linspace(0.5, 1.0, min(m, n), dtype=torch.float64)
    values[-1] = (limit * excess) ** 0.5
    w, u, vh = with_singular_values(values, m, n)
    assert singular_values(unguarded(w, c))[0] > values[-1] * (1 - 1e-9), "not in the diverging regime"
    step = isometry_step(w, c)
    # No value loses more than half, and none turns its sign: U^T W' V is diagonal and >= sigma / 2.
    core = u.mT @ step @ vh.mT
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-10 * float(values[-1]))
    assert (core.diagonal() >= 0.5 * values * (1 - 1e-10)).all()
    assert core.diagonal()[-1] < values[-1]
    for _ in range(60):
        step = isometry_step(step, c)
    assert singular_values(step)[0] ** 2 < limit
    assert step.isfinite().all()


@pytest.mark.parametrize("c", [0.24, 0.25, 1.0, 1e6])
def test_any_strength_converges(c):
    # 0.24 oscillates around one, shrinking by |1 - 8c| = 0.92 per step; from 1/4 on, 1/8 is taken.
    w = 2 * normal(8, 8, seed=7)
    w[:, 0] = 0  # a zero singular value is a fixed point: it must do no harm
    for _ in range(2000):
        w = isometry_step(w, c)
    values = singular_values(w)
    torch.testing.assert_close(values[:-1], torch.ones_like(values[:-1]), rtol=0, atol=1e-6)
    assert values[-1] < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(130, 70), (70, 130), (64, 64), (3, 20, 20)])
@pytest.mark.parametrize(("scale", "c"), [(1.0, 1e-2), (1.0, 1e-3), (3.0, 1e-4), (1.3, 1e-7)])
def test_guard_changes_no_bit_where_it_is_not_needed(shape, dtype, scale, c):
    w = scale * normal(*shape, dtype=dtype)
    deviation = gram_deviation(w)
    bound = torch.minimum(deviation.abs().sum(-1).amax(-1), torch.linalg.matrix_norm(deviation))
    assert (2 * c * bound < 1).all(), "the guard is in force here: choose a smaller c"
    assert torch.equal(isometry_step(w, c), unguarded(w, c))
    assert torch.equal(isometry_step_(w.clone(), c), unguarded(w, c))


@pytest.mark.parametrize("shape", [(130, 70), (70, 130), (3, 20, 20)])
def test_guard_begins_where_the_bound_on_the_deviation_reaches_half_the_inverse_strength(shape):
    w = 3 * normal(*shape)
    deviation = gram_deviation(w)
    bound = torch.minimum(deviation.abs().sum(-1).amax(-1), torch.linalg.matrix_norm(deviation)).max()
    below, above = float(0.499 / bound), float(0.501 / bound)
    assert torch.equal(isometry_step(w, below), unguarded(w, below))
    assert not torch.equal(isometry_step(w, above), unguarded(w, above))


def test_guard_acts_on_each_matrix_of_a_batch_alone():
    tame, wild = normal(10, 6, seed=1), 100 * normal(10, 6, seed=2)
    both = isometry_step(torch.stack([tame, wild]), 1e-2)
    torch.testing.assert_close(both[0], isometry_step(tame, 1e-2), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(both[1], isometry_step(wild, 1e-2), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(130, 70), (70, 130), (200, 200), (3, 140, 90)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_in_place_is_out_of_place(shape, layout):
    """In-place addmm on an own operand is right at 64 x 32 and silently wrong from about 130 x 70."""
    w = laid_out(normal(*shape, dtype=torch.float32), layout)
    expected = isometry_step(w, 1e-2)
    result = isometry_step_(w, 1e-2)
    assert result is w
    # The same products may be taken in another order for other strides: one rounding of entries < 1.
    torch.testing.assert_close(w, expected, rtol=0, atol=1e-6)


@given(matrices(layouts=("contiguous", "transposed", "strided")), st.floats(0, 1e-2))
def test_in_place_is_out_of_place_for_every_layout(w, c):
    expected = isometry_step(w, c)
    torch.testing.assert_close(isometry_step_(w, c), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 0, 3), (0, 3, 3)])
def test_empty(shape):
    assert isometry_step(torch.zeros(shape), 0.1).shape == shape
    assert isometry_step_(torch.zeros(shape), 0.1).shape == shape


def test_strength_may_be_a_tensor():
    w = normal(6, 4)
    c = torch.tensor(1e-2, dtype=torch.float64)
    assert torch.equal(isometry_step(w, c), isometry_step(w, 1e-2))
    assert torch.equal(isometry_step_(w.clone(), c), isometry_step(w, 1e-2))


def test_tensor_strength_is_never_read_by_the_host():
    w = torch.zeros(4, 4, device="meta")  # .item() of a meta tensor raises
    assert isometry_step(w, torch.zeros((), device="meta")).is_meta


def test_differentiable_in_matrix_and_strength():
    w, c = normal(4, 3, seed=2).requires_grad_(), torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(isometry_step, (w, c))


def test_parameters_change_in_place_without_a_graph():
    p = torch.nn.Parameter(normal(5, 4))
    isometry_step_(p, 1e-2)
    assert p.is_leaf
    assert p.grad_fn is None


HUGE = [(torch.float32, 1e20), (torch.float32, 1e25), (torch.float32, 1e37), (torch.float64, 1e170), (torch.bfloat16, 1e30)]  # fmt: skip # noqa: E501


@pytest.mark.parametrize(("dtype", "largest"), HUGE)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (300, 260), (2, 5, 5)])
@pytest.mark.parametrize("step", [isometry_step, isometry_step_, flow_step, flow_step_])
def test_a_gram_matrix_that_overflows_halves_the_matrix(step, shape, dtype, largest):
    """sigma^2 is infinite in float32 from 1.8e19 on: the step of such a matrix was NaN in every entry."""
    w = (largest * orthonormal(*shape)).to(dtype)
    moved = step(w.clone(), 1e-3)
    torch.testing.assert_close(moved, w / 2)
    for _ in range(1200):  # down from there by halves and by the guarded step, then by the step itself
        moved = step(moved, 0.1)
    # Rows of bfloat16 are normal to 2^-9 in every entry.
    expected = torch.full_like(singular_values(moved.double()), 1.0)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(singular_values(moved.double()), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("step", [isometry_step, isometry_step_, flow_step, flow_step_])
def test_only_the_matrix_of_a_batch_that_overflows_is_halved(step):
    w = torch.stack([normal(6, 4, dtype=torch.float32), 1e25 * normal(6, 4, dtype=torch.float32)])
    moved = step(w.clone(), 1e-2)
    torch.testing.assert_close(moved[0], step(w[0].clone(), 1e-2))
    torch.testing.assert_close(moved[1], w[1] / 2)


@pytest.mark.parametrize("step", [isometry_step, flow_step])
def test_the_gradient_of_a_halved_matrix_is_finite(step):
    w = torch.diag(torch.tensor([1e25, 1e24])).requires_grad_()
    step(w, 1e-2).sum().backward()
    torch.testing.assert_close(w.grad, torch.full((2, 2), 0.5))


@pytest.mark.parametrize("step", [isometry_step, flow_step])
def test_the_gradient_at_an_exact_isometry_is_finite(step):
    """Both steps are W + d(W S): at S = 0 the derivative along the excess of a singular value is 1 - 8 C."""
    w = torch.eye(3, dtype=torch.float64).requires_grad_()
    step(w, 1e-3).diagonal().sum().backward()
    decay = 1 - 8e-3 if step is isometry_step else math.exp(-8e-3)
    torch.testing.assert_close(w.grad, decay * torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_what_is_not_finite_stays_so():
    """The step neither hides a NaN nor spreads it into what a user would look at last."""
    for bad in (math.nan, math.inf):
        w = normal(5, 4, dtype=torch.float32)
        w[1, 2] = bad
        for step in (isometry_step, isometry_step_, flow_step, flow_step_):
            assert not step(w.clone(), 1e-2)[1, 2].isfinite()


@pytest.mark.parametrize("shape", [(5, 3), (3, 4, 4), (260, 300)])
@pytest.mark.parametrize(
    ("scale", "c", "acts"), [(1.0, 1e-4, 0), (1.0, 0.3, 1), (100.0, 1e-2, 1), (1e25, 1e-6, 1)]
)
def test_the_guard_tells_when_it_acts(shape, scale, c, acts):
    calls = []
    isometry_step_(scale * orthonormal(*shape).float(), c, on_guard=lambda: calls.append(1))
    assert len(calls) == acts
