"""Isometry of a convolution as an operator on images, beside that of its flattened kernel.

The two differ: with stride 1 every pixel is copied into up to k^2 patches, so a kernel with all
singular values one can stretch an image up to k-fold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from isoplast.isometry._precision import no_autocast, scalar, working
from isoplast.isometry._steps import Strength

_Conv = Callable[..., Tensor]
_CONV: dict[int, tuple[_Conv, _Conv]] = {
    3: (functional.conv1d, functional.conv_transpose1d),
    4: (functional.conv2d, functional.conv_transpose2d),
    5: (functional.conv3d, functional.conv_transpose3d),
}


def operator_penalty(kernel: Tensor, stride: int = 1) -> Tensor:
    r"""The isometry penalty of a convolution as an operator, per output position.

    .. math:: R_{op}(K) = \sum_u \|A(u) - \delta_{u 0} I\|_F^2 - \max(0, out - in \, \min(k, s)^d), \qquad
              A_{ij}(u) = \langle K_i, K_j \text{ shifted by } s u \rangle

    On a large periodic image this is the mean over all frequencies of
    :math:`\sum_i (\sigma_i(\omega)^2 - 1)^2` over the smaller side; the constant is what no operator
    with more outputs than inputs can avoid. A 1 x 1 kernel, and a stride of at least the kernel's
    size, give Eq 16 back.

    Args:
        kernel: shape (out, in, \*sizes) with one to three sizes; one group of a grouped convolution.
        stride: the convolution's stride s, >= 1, the same in all directions.

    Returns:
        Shape (), >= 0. Differentiable.

    Raises:
        ValueError: for a tensor that is no convolution kernel.

    Example:
        >>> delta = torch.zeros(2, 2, 3, 3)
        >>> delta[:, :, 1, 1] = torch.eye(2)  # delta-orthogonal: an exact isometry
        >>> operator_penalty(delta)
        tensor(0.)

    Reference:
        Wang et al., "Orthogonal convolutional neural networks", CVPR 2020 (the self-convolution form);
        arXiv:2606.09762, Appendix A (which flattens the kernel instead).
    """
    with no_autocast(kernel.device):
        k = working(kernel)
        penalty = _deviation(k, stride).square().sum()
        inputs = k.shape[1] * math.prod(min(size, stride) for size in k.shape[2:])
        return penalty - max(0, k.shape[0] - inputs)


def operator_step(kernel: Tensor, strength: Strength, stride: int = 1) -> Tensor:
    r"""One gradient step on the operator penalty, returned as a new tensor.

    .. math:: K \leftarrow K - 4 c \sum_u (A(u) - \delta_{u0} I) \, K(\cdot + s u)

    cut off to the kernel's support: at every frequency the step of Eq 20, then a projection. The
    step is shortened like :func:`isoplast.isometry.isometry_step` where a bound says it would diverge.

    Args:
        kernel: shape (out, in, \*sizes).
        strength: c = lr * isometry, >= 0.
        stride: as for :func:`operator_penalty`.

    Returns:
        The shape and dtype of the kernel. Differentiable.
    """
    with no_autocast(kernel.device):
        k = working(kernel)
        deviation = _deviation(k, stride)
        # The norm of a block Toeplitz operator is at most its largest absolute row sum.
        bound = deviation.abs().sum(tuple(range(1, deviation.ndim))).amax()
        c = scalar(strength, k)
        c = torch.where(c < 0.25, c, 0.125)
        c = torch.where(2 * c * bound > 1, 0.125 / bound, c)
        fits = bound.isfinite()  # else the kernel is halved, as isometry_step does
        deviation = torch.where(fits, deviation, 0)
        correction = _CONV[k.ndim][1](deviation, k, stride=stride, padding=_reach(k, stride))
        return (kernel - torch.where(fits, 4 * c * correction, 0.5 * k)).to(kernel.dtype)


@torch.no_grad()
def operator_step_(kernel: Tensor, strength: Strength, stride: int = 1) -> Tensor:
    """:func:`operator_step` in place; returns the same tensor."""
    return kernel.copy_(operator_step(kernel, strength, stride))


def _deviation(kernel: Tensor, stride: int) -> Tensor:
    """A(u) - delta I, shape (out, out, *shifts), the shift zero in the middle."""
    if kernel.ndim not in _CONV:
        raise ValueError(f"a tensor of shape {tuple(kernel.shape)} is no kernel of a 1-d to 3-d convolution")
    gram = _CONV[kernel.ndim][0](kernel, kernel, stride=stride, padding=_reach(kernel, stride))
    identity = torch.zeros_like(gram)
    middle = identity
    for size in gram.shape[2:]:
        middle = middle.select(2, size // 2)
    middle.fill_diagonal_(1)
    return gram - identity


def _reach(kernel: Tensor, stride: int) -> tuple[int, ...]:
    """How far two kernels can be apart, in multiples of the stride, and still overlap."""
    return tuple((size - 1) // stride * stride for size in kernel.shape[2:])
