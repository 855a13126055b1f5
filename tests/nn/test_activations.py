"""Nonlinearities: values, Jacobians, feature counts, transforms, refusals."""

import copy

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.nn import (
    AdaLin,
    CReLU,
    FourierFeatures,
    GroupSort,
    MaxMin,
    SmoothLeaky,
)

SHAPES = [((5, 8), -1), ((5, 8), 1), ((2, 6, 4, 3), 1), ((2, 4, 3), -2), ((6,), 0)]


def sorted_reference(x: torch.Tensor, group_size: int, dim: int) -> torch.Tensor:
    dim = dim % x.dim()
    groups = x.unflatten(dim, (group_size, x.shape[dim] // group_size))
    return groups.sort(dim, descending=True).values.flatten(dim, dim + 1)


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_maxmin_is_the_sorting_form_to_the_bit(shape, dim):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(shape)
    values, reference = MaxMin(dim)(x), sorted_reference(x, 2, dim)
    assert torch.equal(values, reference)
    (gradient,) = torch.autograd.grad(values, x, upstream)
    (expected,) = torch.autograd.grad(reference, x, upstream)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_maxmin_keeps_the_dtype_and_the_values(dtype):
    x = torch.randn(16, 10).to(dtype).requires_grad_()
    upstream = torch.randn(16, 10).to(dtype)
    values = MaxMin()(x)
    (gradient,) = torch.autograd.grad(values, x, upstream)
    assert values.dtype == gradient.dtype == dtype
    assert torch.equal(values.sort(1).values, x.detach().sort(1).values)
    assert torch.equal(gradient.sort(1).values, upstream.sort(1).values)


def test_maxmin_survives_infinite_and_equal_inputs():
    x = torch.tensor([[torch.inf, 1.0, 2.0, 1.0]], requires_grad=True)
    values = MaxMin()(x)
    assert values.tolist() == [[torch.inf, 1.0, 2.0, 1.0]]
    (gradient,) = torch.autograd.grad(values, x, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert sorted(gradient.flatten().tolist()) == [1.0, 2.0, 3.0, 4.0]


def test_maxmin_under_gradcheck_and_non_contiguous_inputs():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxMin(), x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(MaxMin(), x)
    assert torch.equal(MaxMin(0)(x.t()), MaxMin()(x).t())
    image = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    assert torch.equal(MaxMin(1)(image), MaxMin(1)(image.contiguous()))


def test_maxmin_under_function_transforms():
    torch.manual_seed(1)
    x = torch.randn(7, 6, dtype=torch.float64)
    act = MaxMin()
    reverse = torch.func.vmap(torch.func.jacrev(act))(x)
    forward = torch.func.vmap(torch.func.jacfwd(act))(x)
    assert torch.equal(reverse, forward)
    expected = torch.stack([torch.autograd.functional.jacobian(act, row) for row in x])
    assert torch.equal(reverse, expected)
    hessian = torch.func.hessian(lambda v: act(v).pow(3).sum())(x[0])
    assert torch.allclose(hessian, torch.diag(6 * x[0]), atol=1e-12)  # rounding of float64


def jacobian(act: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(act, x)


@pytest.mark.parametrize("group_size", [2, 3, 4, 12])
def test_groupsort_is_a_permutation_almost_everywhere(group_size):
    torch.manual_seed(group_size)
    x = torch.randn(12, dtype=torch.float64)
    act = GroupSort(group_size, dim=0)
    assert torch.equal(act(x), sorted_reference(x, group_size, 0))
    p = jacobian(act, x)
    assert torch.equal(p @ p.t(), torch.eye(12, dtype=torch.float64))
    assert set(p.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("act", [CReLU(0), FourierFeatures(0)])
def test_doubling_activations_are_column_isometries(act):
    x = torch.randn(9, dtype=torch.float64)
    j = jacobian(act, x)
    assert act.expansion == 2
    assert j.shape == (18, 9)
    assert torch.allclose(j.t() @ j, torch.eye(9, dtype=torch.float64), atol=1e-14)  # sin^2 + cos^2


def test_smooth_leaky_slope_stays_in_its_bounds():
    x = torch.linspace(-50, 50, 20001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SmoothLeaky()(x).sum(), x)
    low, high = 0.1 - 0.0998 * 0.9, 1 + 0.0998 * 0.9
    # 0.0998 is the overshoot of s*sigmoid(s), rounded up in its fourth digit.
    assert low - 1e-4 < slope.min() < low + 1e-4
    assert high - 1e-4 < slope.max() < high + 1e-4


@pytest.mark.parametrize("base", ["relu", "tanh", "gelu"])
def test_adalin_starts_as_its_base_and_opens_where_it_saturates(base):
    plain = {"relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu}[base]
    act = AdaLin(3, base, dim=1)
    x = torch.tensor([[-20.0, 0.7, 3.0]])
    assert torch.equal(act(x), plain(x))
    with torch.no_grad():
        act.alpha.fill_(0.5)
    x = torch.full((1, 3), -20.0, requires_grad=True)
    (slope,) = torch.autograd.grad(act(x).sum(), x)
    assert torch.allclose(slope, torch.full((1, 3), 0.5))


def test_adalin_with_relu_is_prelu():
    act, prelu = AdaLin(4, "relu", dim=1), nn.PReLU(4)
    with torch.no_grad():
        act.alpha.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        prelu.weight.copy_(act.alpha)
    x = torch.randn(5, 4, 3)
    # cos(pi/2) is 6e-17 in float64 and -4e-8 in float32: the only difference.
    assert torch.allclose(act(x), prelu(x), atol=1e-6)


def test_adalin_gate_uses_the_true_lipschitz_constant_of_gelu():
    x = torch.linspace(-5, 5, 100001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(nn.functional.gelu(x).sum(), x)
    act = AdaLin(1, "gelu", dim=-1).double()
    with torch.no_grad():
        act.alpha.fill_(1.0)
    steepest = x.detach()[slope.argmax()].view(1, 1)
    added = act(steepest) - nn.functional.gelu(steepest)
    assert added.abs().item() < 1e-5  # the gate is shut where the slope is largest


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaxMin()(torch.zeros(2, 7)), "7 features"),
        (lambda: GroupSort(3)(torch.zeros(2, 8)), "8 features cannot be sorted in groups of 3"),
        (lambda: GroupSort(1), "group_size is 1"),
        (lambda: SmoothLeaky(alpha=1.5), "alpha"),
        (lambda: SmoothLeaky(power=0.0), "power"),
        (lambda: AdaLin(3, "rleu"), "did you mean 'relu'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, words):
    with pytest.raises(IsoplastError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_activations_copy_print_and_trace():
    for act in (GroupSort(4), MaxMin(1), CReLU(), FourierFeatures(), SmoothLeaky(), AdaLin(4)):
        assert type(act).__name__ in repr(copy.deepcopy(act))
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), MaxMin(), nn.Linear(4, 4), GroupSort(4)))
    x = torch.randn(2, 3)
    assert torch.equal(traced(x), traced(x))
