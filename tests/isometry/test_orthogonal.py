"""Polar factor, Newton-Schulz and power iteration; numpy's SVD is the oracle."""

import numpy as np
import pytest
import torch
from given_matrices import LAYOUTS, matrices, normal, orthonormal, with_singular_values
from hypothesis import given

from isoplast.isometry import newton_schulz, polar_factor, power_iteration, singular_values


def isometric(q: torch.Tensor, atol: float = 1e-12) -> bool:
    values = singular_values(q)
    return bool((values - 1).abs().max() <= atol)


@given(matrices(layouts=LAYOUTS))
def test_polar_factor_is_the_nearest_isometry(w):
    q = polar_factor(w)
    assert isometric(q)
    u, s, vh = np.linalg.svd(w.numpy(), full_matrices=False)
    # The factor is unique where no singular value is zero; its condition is 1 / sigma_min.
    np.testing.assert_allclose(q.numpy(), u @ vh, atol=1e-13 / s.min())
    # ||W - Q||^2 = sum (sigma - 1)^2, and no other isometry is nearer.
    distance = np.square(s - 1).sum(-1)
    np.testing.assert_allclose((w - q).square().sum((-2, -1)).numpy(), distance, rtol=1e-9, atol=1e-12)
    other = orthonormal(*w.shape, seed=9)
    assert ((w - other).square().sum((-2, -1)).numpy() >= distance - 1e-9).all()


@pytest.mark.parametrize(("m", "n"), [(8, 5), (5, 8), (6, 6)])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_polar_factor_of_rank_deficient_matrices_is_isometric(m, n, rank):
    w = normal(m, rank, seed=1) @ normal(rank, n, seed=2) if rank else torch.zeros(m, n)
    assert isometric(polar_factor(w), atol=1e-5 if w.dtype == torch.float32 else 1e-12)


def test_polar_factor_of_isometries_is_themselves():
    q = orthonormal(3, 7, 4)
    torch.testing.assert_close(polar_factor(q), q, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_polar_factor_refuses_non_finite(bad):
    w = torch.eye(3)
    w[0, 1] = bad
    with pytest.raises(ValueError, match="non-finite"):
        polar_factor(w)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 3, 3)])
def test_empty(shape):
    assert polar_factor(torch.zeros(shape)).shape == shape
    assert newton_schulz(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    ("start", "end", "digits"),
    [
        (0.3, 1.0, 4),
        (0.2, 0.99997, 5),
        (0.15, 0.998, 3),
        (0.1, 0.966, 3),
        (0.05, 0.714, 3),
        (0.03, 0.479, 3),
        (0.01, 0.17, 2),
    ],
)
def test_seven_newton_schulz_steps(start, end, digits):
    """What seven iterations do to sigma_0 = sigma / s; figures worked out from the cubic alone."""
    values = torch.tensor([1.0, 0.9, 0.8, start], dtype=torch.float64)
    w, u, vh = with_singular_values(values, 5, 4, seed=3)
    core = (u.mT @ newton_schulz(w, steps=7, scale=1.0) @ vh.mT).diagonal()
    assert core[-1].item() == pytest.approx(end, abs=0.6 * 10**-digits)
    torch.testing.assert_close(core[:3], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("start", "converges_to"), [(1.7, 1.0), (1.9, -1.0)])
def test_newton_schulz_converges_from_below_root_three_and_turns_signs_beyond(start, converges_to):
    w = torch.tensor([[start, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert newton_schulz(w, steps=40, scale=1.0)[0, 0].item() == pytest.approx(converges_to)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (2, 3, 6, 4)])
def test_newton_schulz_approaches_the_polar_factor(shape):
    w = normal(*shape, seed=6)
    torch.testing.assert_close(newton_schulz(w, steps=30), polar_factor(w), rtol=0, atol=1e-10)
    largest = singular_values(w)[..., 0]
    torch.testing.assert_close(newton_schulz(w, steps=30, scale=largest), polar_factor(w), rtol=0, atol=1e-10)


def test_newton_schulz_leaves_zero_and_does_nothing_in_no_steps():
    assert torch.equal(newton_schulz(torch.zeros(4, 3)), torch.zeros(4, 3))
    w = normal(4, 3)
    assert torch.equal(newton_schulz(w, steps=0, scale=1.0), w)


def test_newton_schulz_is_differentiable():
    w = normal(4, 3, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: newton_schulz(x, steps=3), w)


@given(matrices())
def test_power_iteration_is_never_above(w):
    v = normal(*w.shape[:-2], w.shape[-1], seed=1) + 0.1
    sigma, v = power_iteration(w, v, steps=3)
    assert (sigma <= singular_values(w)[..., 0] * (1 + 1e-12)).all()
    torch.testing.assert_close(v.norm(dim=-1), torch.ones_like(sigma), rtol=1e-12, atol=0)


def test_power_iteration_converges_and_keeps_its_vector_between_calls():
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    w, _, vh = with_singular_values(values, 6, 3)
    v = normal(3, seed=4)
    for _ in range(40):  # the error shrinks by (2/3)^2 per call
        sigma, v = power_iteration(w, v)
    assert sigma.item() == pytest.approx(3.0, rel=1e-9)
    assert abs(v @ vh[0]).item() == pytest.approx(1.0, rel=1e-9)


def test_power_iteration_of_zero_is_zero():
    sigma, v = power_iteration(torch.zeros(4, 3), torch.ones(3), steps=2)
    assert sigma.item() == 0
    assert v.isfinite().all()
