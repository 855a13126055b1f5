"""Convolutions as operators: the dense matrix of the convolution on a periodic image is the oracle."""

import pytest
import torch
from given_matrices import generator
from torch.nn import functional

from isoplast.isometry import (
    isometry_step,
    matrix_view,
    operator_penalty,
    operator_step,
    operator_step_,
    penalty,
)

CONV = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
CASES = [
    ((3, 4, 3), 1, 8),
    ((3, 4, 4), 2, 12),
    ((2, 3, 3, 3), 1, 6),
    ((3, 3, 3, 2), 1, 6),
    ((3, 3, 3, 3), 2, 8),
    ((2, 2, 2, 2, 2), 1, 4),
]


def kernel_of(shape: tuple[int, ...], scale: float = 0.5) -> torch.Tensor:
    return scale * torch.randn(shape, generator=generator(0), dtype=torch.float64)


def dense(kernel: torch.Tensor, stride: int, size: int) -> torch.Tensor:
    """The convolution on periodic images of that size as a matrix (outputs, inputs)."""
    dims, channels = kernel.ndim - 2, kernel.shape[1]

    def periodic(image: torch.Tensor) -> torch.Tensor:
        pad = [p for k in reversed(kernel.shape[2:]) for p in (0, k - 1)]
        padded = functional.pad(image.view(1, channels, *[size] * dims), pad, mode="circular")
        return CONV[kernel.ndim](padded, kernel, stride=stride).flatten()

    zero = torch.zeros(channels * size**dims, dtype=torch.float64)
    return torch.autograd.functional.jacobian(periodic, zero)


@pytest.mark.parametrize(("shape", "stride", "size"), CASES)
def test_penalty_is_that_of_the_dense_operator_per_position(shape, stride, size):
    kernel = kernel_of(shape)
    matrix = dense(kernel, stride, size)
    rows = matrix @ matrix.mT - torch.eye(len(matrix), dtype=torch.float64)
    positions = (size // stride) ** (len(shape) - 2)
    torch.testing.assert_close(operator_penalty(kernel, stride), rows.square().sum() / positions)


@pytest.mark.parametrize(("shape", "stride", "size"), CASES)
def test_step_is_the_gradient_step(shape, stride, size):
    kernel = kernel_of(shape, scale=0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(operator_penalty(kernel, stride), kernel)
    expected = kernel.detach() - 1e-3 * gradient
    torch.testing.assert_close(operator_step(kernel.detach(), 1e-3, stride), expected, rtol=1e-12, atol=1e-12)
    moved = kernel.detach().clone()
    assert operator_step_(moved, 1e-3, stride) is moved
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "stride"), [((4, 3, 1, 1), 1), ((4, 3, 2, 2), 2), ((4, 3, 2, 2), 3)])
def test_without_overlap_it_is_the_flattened_kernel(shape, stride):
    kernel = kernel_of(shape, scale=0.2)
    rows = matrix_view(kernel)
    torch.testing.assert_close(operator_penalty(kernel, stride), penalty(rows))
    expected = isometry_step(rows, 1e-3).view_as(kernel)
    torch.testing.assert_close(operator_step(kernel, 1e-3, stride), expected)


def test_delta_orthogonal_kernels_are_isometries_and_flattened_isometries_are_not():
    delta = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    delta[:, :, 1, 1] = torch.linalg.qr(kernel_of((4, 4))).Q
    assert operator_penalty(delta).item() < 1e-28
    torch.testing.assert_close(operator_step(delta, 0.1), delta, rtol=0, atol=1e-14)
    flat = torch.linalg.qr(kernel_of((36, 4))).Q.mT.reshape(4, 4, 3, 3)
    assert penalty(matrix_view(flat)).item() < 1e-26
    assert operator_penalty(flat).item() > 0.1
    assert torch.linalg.svdvals(dense(flat, 1, 6))[0] <= 3 + 1e-12  # at most k = 3, never more


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1e3])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_guard(strength, scale):
    kernel = kernel_of((3, 4, 3, 3), scale=scale)
    first = float(operator_penalty(kernel))
    for _ in range(200):
        kernel = operator_step(kernel, strength)
        assert kernel.isfinite().all()
    assert float(operator_penalty(kernel)) < first
    if strength > 1e-3:
        assert torch.linalg.svdvals(dense(kernel, 1, 6))[0].item() == pytest.approx(1, abs=0.2)


def test_half_precision_and_autocast():
    kernel = kernel_of((3, 4, 3, 3)).bfloat16()
    result = operator_step(kernel, 1e-2)
    assert result.dtype == torch.bfloat16
    assert operator_penalty(kernel).dtype == torch.float32
    assert torch.equal(result, operator_step(kernel.float(), 1e-2).bfloat16())
    outside = operator_step(kernel.float(), 1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator_step(kernel.float(), 1e-2), outside)
        assert operator_penalty(kernel.float()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 3), (3,), (1, 1, 1, 1, 1, 1)])
def test_no_kernel(shape):
    with pytest.raises(ValueError, match="no kernel"):
        operator_penalty(torch.zeros(shape))


def test_differentiable():
    kernel = kernel_of((2, 2, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(operator_penalty, kernel)
    assert torch.autograd.gradcheck(lambda k: operator_step(k, 1e-2), kernel)


def test_a_kernel_whose_gram_overflows_is_halved():
    kernel = 1e25 * torch.rand(4, 3, 3, 3)
    torch.testing.assert_close(operator_step(kernel, 1e-3), kernel / 2)
    torch.testing.assert_close(operator_step_(kernel.clone(), 1e-3, 2), kernel / 2)
