"""Gram deviation, penalty and its gradient: autograd of the definition is the oracle."""

import pytest
import torch
from given_matrices import LAYOUTS, SHAPES, laid_out, matrices, normal
from hypothesis import given

from isoplast.isometry import gram_deviation, penalty, penalty_gradient


def definition(w: torch.Tensor) -> torch.Tensor:
    """Eq 16 by the shape, written out once more: ||W^T W - I||_F^2 (tall), ||W W^T - I||_F^2 (else)."""
    m, n = w.shape[-2:]
    gram = w.mT @ w if m > n else w @ w.mT
    return (gram - torch.eye(min(m, n), dtype=w.dtype)).pow(2).sum((-2, -1))


# Float64 products of sides <= 8: relative errors of some 1e-15 per entry; 1e-12 leaves a wide margin.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@given(matrices())
def test_penalty_is_its_definition(w):
    torch.testing.assert_close(penalty(w), definition(w), **CLOSE)


@given(matrices())
def test_gradient_is_autograd_of_the_definition(w):
    leaf = w.detach().clone().requires_grad_()
    (oracle,) = torch.autograd.grad(definition(leaf).sum(), leaf)
    torch.testing.assert_close(penalty_gradient(w), oracle, **CLOSE)


@given(matrices())
def test_autograd_through_penalty_is_the_closed_form(w):
    leaf = w.detach().clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(penalty(leaf).sum(), leaf)
    torch.testing.assert_close(by_autograd, penalty_gradient(w), **CLOSE)


@given(matrices())
def test_both_gram_sides_give_the_gradient(w):
    left = 4 * (w @ w.mT @ w - w)
    m, n = w.shape[-2:]
    other_side = 4 * (w @ (w.mT @ w - torch.eye(n, dtype=w.dtype)))
    torch.testing.assert_close(penalty_gradient(w), left, **CLOSE)
    torch.testing.assert_close(penalty_gradient(w), other_side, **CLOSE)
    larger = (w @ w.mT if m > n else w.mT @ w) - torch.eye(max(m, n), dtype=w.dtype)
    torch.testing.assert_close(penalty(w), larger.square().sum((-2, -1)) - abs(m - n), rtol=1e-10, atol=1e-10)


@given(matrices())
def test_transposing_commutes(w):
    torch.testing.assert_close(penalty_gradient(w.mT), penalty_gradient(w).mT, **CLOSE)
    torch.testing.assert_close(penalty(w.mT), penalty(w), **CLOSE)


@given(matrices())
def test_deviation_is_on_the_smaller_side_with_eigenvalues_sigma_squared_minus_one(w):
    s = gram_deviation(w)
    k = min(w.shape[-2:])
    assert s.shape == (*w.shape[:-2], k, k)
    torch.testing.assert_close(s, s.mT, rtol=1e-14, atol=1e-14)
    values = torch.linalg.svdvals(w).flip(-1).square() - 1
    torch.testing.assert_close(torch.linalg.eigvalsh(s), values, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_strides_do_not_matter(shape, layout):
    plain = normal(2, *shape, seed=3)
    moved = laid_out(plain, layout)
    torch.testing.assert_close(penalty_gradient(moved), penalty_gradient(moved.contiguous()), **CLOSE)


def test_batch_is_the_stack_of_its_matrices():
    w = normal(2, 3, 6, 4, seed=1)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(penalty_gradient(w)[i, j], penalty_gradient(w[i, j]), **CLOSE)
            torch.testing.assert_close(penalty(w)[i, j], penalty(w[i, j]), **CLOSE)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 0, 3), (0, 3, 3)])
def test_empty_matrices_have_no_penalty(shape):
    w = torch.zeros(shape)
    assert torch.equal(penalty(w), torch.zeros(shape[:-2]))
    assert penalty_gradient(w).shape == w.shape
    assert gram_deviation(w).shape == (*shape[:-2], min(shape[-2:]), min(shape[-2:]))


def test_known_values():
    assert penalty(2 * torch.eye(2)).item() == 2 * 3**2
    assert torch.equal(penalty_gradient(2 * torch.eye(2)), 24 * torch.eye(2))
    assert penalty(torch.ones(1, 4)).item() == 3**2


def test_input_is_never_changed():
    w = normal(4, 6, seed=2)
    before = w.clone()
    gram_deviation(w), penalty(w), penalty_gradient(w)
    assert torch.equal(w, before)


def test_gradient_of_gradient():
    w = normal(4, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(penalty, w)
    assert torch.autograd.gradgradcheck(penalty, w)
    assert torch.autograd.gradcheck(penalty_gradient, w)
