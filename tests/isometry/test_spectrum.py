"""The spectrum and its summaries: known answers, order relations, and NaN for what is not finite."""

import math

import numpy as np
import pytest
import torch
from given_matrices import matrices, normal, orthonormal
from hypothesis import given
from hypothesis import strategies as st

from isoplast.isometry import (
    effective_rank,
    effective_rank_energy,
    singular_values,
    spectrum,
    stable_rank,
    svdvals,
)


@given(matrices())
def test_singular_values_are_numpys(w):
    expected = np.linalg.svd(w.numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(w).numpy(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5), (2, 3, 7), (2, 3, 7, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_values_of_a_matrix_are_those_of_its_transpose(shape, dtype):
    w = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for one in (w, w.mT):
        expected = np.linalg.svd(one.numpy(), compute_uv=False)
        np.testing.assert_allclose(svdvals(one).numpy(), expected, rtol=1e-12)


def test_known_answers():
    s = spectrum(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)))
    assert s.smallest.item() == pytest.approx(1)
    assert s.mean.item() == pytest.approx(2.5)
    assert s.largest.item() == pytest.approx(4)
    assert s.std.item() == pytest.approx(math.sqrt(1.25))
    assert s.condition_number.item() == pytest.approx(4)
    p = np.array([0.4, 0.3, 0.2, 0.1])
    q = np.array([16, 9, 4, 1]) / 30
    assert s.effective_rank.item() == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert s.effective_rank_energy.item() == pytest.approx(np.exp(-(q * np.log(q)).sum()))
    assert s.stable_rank.item() == pytest.approx(30 / 16)
    assert s.distance_to_isometry.item() == pytest.approx(math.sqrt(9 + 4 + 1))


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4)])
def test_isometries(shape):
    k = min(shape)
    s = spectrum(orthonormal(*shape))
    for value, expected in [
        (s.smallest, 1), (s.mean, 1), (s.largest, 1), (s.condition_number, 1),
        (s.effective_rank, k), (s.effective_rank_energy, k), (s.stable_rank, k),
    ]:  # fmt: skip
        assert value.item() == pytest.approx(expected, rel=1e-12)
    assert s.std.item() == pytest.approx(0, abs=1e-14)
    assert s.distance_to_isometry.item() == pytest.approx(0, abs=1e-13)


def test_a_single_value_has_no_spread_and_rank_one():
    s = spectrum(torch.tensor([[3.0, 4.0]]))
    assert s.largest.item() == pytest.approx(5)
    assert s.std.item() == 0
    assert s.effective_rank.item() == s.effective_rank_energy.item() == s.stable_rank.item() == 1


def test_rank_deficient_and_zero():
    rank_one = spectrum(torch.ones(3, 4, dtype=torch.float64))
    assert rank_one.condition_number.item() > 1e15
    assert rank_one.effective_rank.item() == pytest.approx(1)
    zero = spectrum(torch.zeros(3, 4))
    assert zero.effective_rank.item() == zero.effective_rank_energy.item() == zero.stable_rank.item() == 0
    assert zero.distance_to_isometry.item() == pytest.approx(math.sqrt(3))
    assert spectrum(torch.diag(torch.tensor([1.0, 0.0]))).condition_number.item() == math.inf


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12).filter(lambda v: max(v) > 1e-3))
def test_order_of_the_ranks(values):
    """energy <= effective rank <= number of values; stable rank <= energy rank (Renyi entropies fall)."""
    v = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    entropy, energy, stable = effective_rank(v), effective_rank_energy(v), stable_rank(v)
    slack = 1 + 1e-12
    assert stable * slack >= 1
    assert stable <= energy * slack
    assert energy <= entropy * slack
    assert entropy <= (v > 0).sum() * slack


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_ranks_do_not_depend_on_scale(values, scale):
    v = torch.tensor(values, dtype=torch.float64)
    for rank in (effective_rank, effective_rank_energy, stable_rank):
        torch.testing.assert_close(rank(scale * v), rank(v), rtol=1e-10, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_is_nan_and_stays_with_its_matrix(bad):
    w = normal(2, 4, 3)
    w[0, 1, 2] = bad
    values = singular_values(w)
    assert values[0].isnan().all()
    torch.testing.assert_close(values[1], singular_values(w[1]))
    s = spectrum(w)
    for value in vars(s).values():
        assert value[0].isnan()
        assert value[1].isfinite()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3)])
def test_empty(shape):
    assert singular_values(torch.zeros(shape)).shape == (*shape[:-2], 0)
    with pytest.raises(ValueError, match="no singular values"):
        spectrum(torch.zeros(shape))


def test_batches_and_plain_numbers():
    w = normal(2, 3, 5, 4)
    s = spectrum(w)
    assert s.mean.shape == (2, 3)
    one = spectrum(w[1, 2])
    for name, value in vars(s).items():
        torch.testing.assert_close(value[1, 2], getattr(one, name))
    plain = one.as_dict()
    assert set(plain) == set(vars(s))
    assert all(isinstance(value, float) for value in plain.values())
    assert isinstance(s.as_dict()["mean"], list)


def test_differentiable():
    w = normal(4, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(singular_values, w)
    assert torch.autograd.gradcheck(lambda x: spectrum(x).distance_to_isometry, w)
