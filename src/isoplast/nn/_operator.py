"""The isometry penalty of a convolution as an operator on images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._errors import IsoplastError


def operator_penalty(layer: nn.Conv2d | Tensor, *, stride: int = 1) -> Tensor:
    r"""The isometry penalty of a convolution operator, per pixel, by self-convolution.

    .. math:: R_{op}(K) = \| \text{conv}(K, K; s) - \delta I \|_F^2 - \max(0, c_{out} - c_{in} s^2)

    The operator's Gram matrix is itself a convolution; conv(K, K; s) is its kernel, and the penalty counts
    its distance from the identity's. Zero exactly for kernels whose operator has all singular values one
    (for images of at least 2k - 1 pixels, wrapped around); the subtracted constant is what no operator with
    more outputs than inputs can avoid. `isoplast.isometry_penalty` is the same for the reshaped kernel, a
    different matrix.

    Args:
        layer: a `torch.nn.Conv2d`, which brings its stride along (dilation 1, one group), or a kernel
            (out, in, k, k).
        stride: for a kernel: of the layer, >= 1.

    Returns:
        A 0-d tensor >= 0, differentiable. The cost is k^2 to 4 k^2 times that of the kernel penalty.

    Raises:
        IsoplastError: for a layer with groups, dilation or two different strides.

    Example:
        >>> operator_penalty(torch.ones(1, 1, 1, 2))  # singular values |1 + e^{iw}|, from 0 to 2
        tensor(3.)

    Reference:
        Wang et al., "Orthogonal convolutional neural networks", CVPR 2020.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or set(layer.dilation) != {1} or len(set(layer.stride)) != 1:
            raise IsoplastError(
                f"{layer}: the operator penalty needs one group, dilation 1 and one stride both ways"
            )
        kernel, stride = layer.weight, layer.stride[0]
    else:
        kernel = layer
    out, inputs, *taps = kernel.shape
    # All shifts by multiples of the stride at which the kernel overlaps itself.
    reach = [(k - 1) // stride for k in taps]
    gram = F.conv2d(kernel, kernel, stride=stride, padding=[stride * r for r in reach])
    centre = gram[:, :, reach[0], reach[1]]
    # |G - I|^2 = |G|^2 - 2 tr G + out, without writing into G.
    deviation = gram.square().sum() - 2.0 * centre.diagonal().sum() + out
    return deviation - max(0, out - inputs * stride**2)
