"""Isometric initialisation of single kernels and of whole networks."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from isoplast._core import layer_kinds as kinds
from isoplast._core.errors import IsoplastError
from isoplast.isometry import matrix_views

_KERNELS = ("kernel", "delta")
_MATRICES = (nn.Linear, nn.MultiheadAttention, *kinds.RECURRENT)


@torch.no_grad()
def delta_orthogonal_(
    kernel: Tensor, gain: float = 1.0, *, stride: int = 1, padding: int | None = None
) -> Tensor:
    r"""Fill a kernel so that the convolution operator, not its reshaped kernel, is an isometry.

    All taps are zero but a block of stride x stride, which holds one orthogonal matrix
    (out, in * stride^2): a rearrangement of every stride x stride block of pixels into channels, then
    an orthogonal map. With stride 1 that is the centre tap alone.

    Its singular values are `gain`, for circular padding and, where the block starts at the tap that
    sees the first pixel (`padding` of the layer), for zero padding too: norms are kept forward
    if out >= in * stride^2, backward if out <= in * stride^2.

    Args:
        kernel: shape (out, in, k, k).
        gain: all singular values of the operator, > 0.
        stride: of the layer, 1 <= stride <= k.
        padding: of the layer; None means k // 2.

    Returns:
        The kernel.

    Raises:
        IsoplastError: for a kernel that is not (out, in, k, k), or a stride above k, which skips pixels.

    Example:
        >>> kernel = delta_orthogonal_(torch.empty(4, 4, 3, 3))
        >>> torch.linalg.svdvals(kernel[:, :, 1, 1]).round(decimals=4), kernel[:, :, 0].abs().sum()
        (tensor([1., 1., 1., 1.]), tensor(0.))

    Reference:
        Xiao et al., "Dynamical isometry and a mean field theory of CNNs", ICML 2018 (stride 1).
    """
    if kernel.dim() != 4 or kernel.shape[2] != kernel.shape[3]:
        raise IsoplastError(f"delta-orthogonal kernels are (out, in, k, k), not {tuple(kernel.shape)}")
    out, inputs, taps, _ = kernel.shape
    if not 1 <= stride <= taps:
        raise IsoplastError(
            f"stride {stride} with a kernel of {taps} x {taps} skips pixels, so no operator isometry exists: "
            f"use a stride of at most {taps}"
        )
    first = min(taps // 2 if padding is None else padding, taps - stride)
    block = kernel.new_empty(out, inputs * stride * stride)
    nn.init.orthogonal_(block, gain)
    kernel.zero_()
    window = slice(first, first + stride)
    kernel[:, :, window, window] = block.view(out, inputs, stride, stride)
    return kernel


@torch.no_grad()
def isometric_init_(
    model: nn.Module,
    gain: float = 1.0,
    *,
    head_gain: float | None = None,
    conv: str = "kernel",
    branch_ends: Iterable[str] = (),
    branch_gain: float = 1.0,
) -> nn.Module:
    r"""Initialise every layer of a model in place as `gain` times an isometry.

    Linear weights, reshaped kernels, each matrix of a fused projection (as `isoplast.param_groups` cuts it),
    and each gate matrix of recurrent layers become orthogonal times `gain`; biases zero; normalisations one
    and zero.
    Embeddings stay as they are. Isometric layers start from an orthogonal raw weight.

    Args:
        model: the network.
        gain: singular values of all weights but the exceptions below, > 0. 1 is the fixed point of the
            isometry penalty; sqrt(2) keeps the signal's norm through ReLU (the paper's RL networks).
        head_gain: singular values of the output layers, those that `isoplast.param_groups` calls heads, >= 0;
            None means `gain`. The paper's RL networks use 0.01.
        conv: "kernel": the reshaped kernel is orthogonal, the penalty's minimum. "delta": the operator is
            (`delta_orthogonal_`). With gain 1 that is the penalty's minimum too where out <= in * stride^2;
            with more outputs the reshaped kernel has zero singular values, which the penalty leaves alone.
        branch_ends: shell patterns of module names: the last layer of every residual branch.
        branch_gain: extra factor for those, >= 0. With B branches, B^(-1/2) keeps the signal's variance
            of order one; 0 makes every block the identity, but the isometry penalty does not move a zero
            matrix. The networks of `build` scale their branches themselves and need neither.

    Returns:
        The model.

    Raises:
        IsoplastError: for a gain out of range, an unknown `conv`, a pattern that matches no layer, or a
            convolution whose groups or stride allow no delta-orthogonal kernel.

    Example:
        >>> net = isometric_init_(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), head_gain=0.01)
        >>> torch.linalg.svdvals(net[2].weight.detach()).round(decimals=4)
        tensor([0.0100, 0.0100])

    Reference:
        arXiv:2606.09762, appendix B (orthogonal initialisation in all architectures).
    """
    for name, value, low in (("gain", gain, 0.0), ("branch_gain", branch_gain, -1.0)):
        if not value > low or (low < 0 and value < 0):
            raise IsoplastError(f"{name} of isometric_init_ is {value}: it must be positive")
    if conv not in _KERNELS:
        raise IsoplastError(f"conv of isometric_init_ is {conv!r}: choose 'kernel' or 'delta'")
    patterns = list(branch_ends)
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise IsoplastError(
                f"branch_ends: no module is named like {pattern!r}; known: {names[-1]!r}, ..."
            )
    heads = {head.layer for head in kinds.heads(model)}
    for name, module in model.named_modules():
        factor = gain * (branch_gain if any(fnmatch(name, p) for p in patterns) else 1.0)
        if module in heads and head_gain is not None:
            factor = head_gain
        _initialize(model, name, module, factor, conv)
    return model


def _initialize(model: nn.Module, name: str, module: nn.Module, gain: float, conv: str) -> None:
    if isinstance(module, kinds.CONVOLUTIONS):
        _initialize_convolution(name, module, gain, conv)
        _zero(module.bias)
    elif isinstance(module, kinds.TRANSPOSED_CONVOLUTIONS):
        # (in, out / groups, k, k): rows are inputs, so the groups are blocks of rows here as well.
        _orthogonal_blocks_(module.weight, module.groups, gain)
        _zero(module.bias)
    elif isinstance(module, _MATRICES) or kinds.stores_transposed(module):
        for own, parameter in module.named_parameters(name, recurse=False):
            if parameter.dim() == 2 and not kinds.named_parametrised(own.rpartition(".")[2]):
                _orthogonal_matrices_(model, own, parameter, gain)
            elif parameter.dim() == 1:
                _zero(parameter)
    elif isinstance(module, kinds.NORMALISATIONS) and module.weight is not None:
        nn.init.ones_(module.weight)
        _zero(getattr(module, "bias", None))


def _orthogonal_matrices_(model: nn.Module, name: str, weight: nn.Parameter, gain: float) -> None:
    whole = kinds.is_orthogonal_by_construction(weight)
    split = 1 if whole else kinds.cut_of_module(model, name, weight).split
    for view in matrix_views(weight, split=split):
        for block in view if view.dim() > 2 else [view]:
            nn.init.orthogonal_(block, gain)


def _initialize_convolution(name: str, module: kinds.Convolution, gain: float, conv: str) -> None:
    if conv == "kernel":
        _orthogonal_blocks_(module.weight, module.groups, gain)
        return
    stride, padding = set(module.stride), set(module.padding)
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or len(stride) != 1 or len(padding) != 1:
        raise IsoplastError(
            f"{name} is {module}: delta-orthogonal kernels need a Conv2d with one group, one stride and one "
            "padding for both directions; use conv='kernel'"
        )
    delta_orthogonal_(module.weight, gain, stride=module.stride[0], padding=_first_pixel(module))


def _first_pixel(module: nn.Conv2d) -> int | None:
    padding = module.padding
    return None if isinstance(padding, str) else int(padding[0])


def _orthogonal_blocks_(weight: Tensor, blocks: int, gain: float) -> None:
    for block in weight.chunk(blocks):
        nn.init.orthogonal_(block, gain)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
