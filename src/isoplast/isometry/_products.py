"""The two matrix products of an isometry step, by the fastest kernel that keeps the precision.

On a CPU with AVX-512 oneDNN's float32 product took 0.43 to 0.48 of the time of MKL's, which is what
``torch.mm`` calls, for 256 to 2048 rows on one AMD core. Both are float32 throughout. What may be rough is in
bfloat16 where the processor multiplies in it. TF32 is never chosen here: the user's
``torch.set_float32_matmul_precision`` alone decides about it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from isoplast.isometry._precision import working

# Products of fewer multiplications gain nothing: 13 against 7 microseconds at 64^3, 28 against 41 at 128^3.
_MULTIPLICATIONS = 2**20
# Smaller matrices are not worth cutting into strips, to halve a Gram matrix or to save memory.
_HALVED_FROM = 384
_CUT_FROM = 192
_STRIPS = 4


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, without a graph.

    Args:
        a: shape (..., m, k).
        b: shape (..., k, n), of the same dtype and device.
    """
    size = a.shape[-2] * a.shape[-1] * b.shape[-1]
    if a.ndim == b.ndim == 2 and size >= _MULTIPLICATIONS and a.dtype == torch.float32 and _is_plain(a):
        times_transposed = _onednn()
        if times_transposed is not None:
            # Dense operands: for a block of the columns of a matrix it is a plain loop, 500 times slower.
            dense = b if b.mT.is_contiguous() else b.contiguous()
            return times_transposed(a.contiguous(), dense.mT)
    return a @ b


def gram(x: Tensor) -> Tensor:
    """X X^T, without a graph; of a large matrix on a CPU only the upper half is computed.

    Four strips of the upper block triangle are 5/8 of the work and took 0.83 (512 rows) to 0.70 (2048) of
    the time of the whole product; small and batched matrices gain nothing.

    Args:
        x: shape (..., k, n); k <= n makes sense.

    Returns:
        Shape (..., k, k), symmetric to the bit where it was halved.
    """
    k = x.shape[-2]
    if not _is_large(x, _HALVED_FROM):
        return product(x, x.mT)
    whole = x.new_empty(k, k)
    if x.is_contiguous() or x.dtype != torch.float32 or _onednn() is None:
        _add_upper_(whole, x, first=True)
    else:  # oneDNN would copy a transposed matrix: a half at a time then
        for number, half in enumerate(x.tensor_split(2, dim=1)):
            _add_upper_(whole, half.contiguous(), first=number == 0)
    for left, right in _strips(k):
        whole[left:right, :left] = whole[:left, left:right].mT
    return whole


def _add_upper_(whole: Tensor, x: Tensor, *, first: bool) -> None:
    """Adds the upper block triangle of X X^T, or puts it there."""
    for left, right in _strips(len(x)):
        # The strip is the second factor: that is the one oneDNN copies into its own layout.
        strip = product(x[:right], x[left:right].mT)
        if first:
            whole[:right, left:right] = strip
        else:
            whole[:right, left:right] += strip


def _strips(size: int) -> Iterator[tuple[int, int]]:
    return pairwise(size * i // _STRIPS for i in range(_STRIPS + 1))


def rough_square(symmetric: Tensor) -> Tensor:
    """S S, to a relative error of 2^-8 where that is cheaper; see :func:`takes_bfloat16`.

    Args:
        symmetric: shape (..., k, k).

    Returns:
        Shape (..., k, k), in bfloat16 or the dtype of the input.
    """
    if takes_bfloat16(symmetric):
        rounded = symmetric.bfloat16()
        return rounded @ rounded.mT
    return gram(symmetric)


def add_product_(matrix: Tensor, small: Tensor, *, rough: bool = False) -> Tensor:
    """W <- W + W S for a tall W (m > n), W + S W for a wide or square one, in place.

    A large matrix on a CPU is changed in strips that do not need each other, so that the product takes
    a quarter of the memory.

    Args:
        matrix: shape (..., m, n).
        small: shape (..., k, k) with k = min(m, n), in the precision of :func:`working`.
        rough: whether the product may have a relative error of 2^-8, where that is cheaper.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    strips = _STRIPS if _is_large(matrix, _CUT_FROM) else 1
    if rough := rough and takes_bfloat16(small):
        small = small.bfloat16()
    for part in matrix.tensor_split(strips, dim=-2 if tall else -1):
        w = part.bfloat16() if rough else working(part)
        part.add_(product(w, small) if tall else product(small, w))
    return matrix


def takes_bfloat16(small: Tensor) -> bool:
    """Whether rough products with a k x k matrix are formed in bfloat16 and summed in float32.

    With AVX-512's bfloat16 instructions they took 0.55 of the time of the float32 ones at k = 512.
    """
    return small.dtype == torch.float32 and _is_large(small, _HALVED_FROM) and _has_bfloat16()


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is on a CPU and an ordinary one: no DTensor, no meta tensor."""
    return tensor.device.type == "cpu" and type(tensor.data) is Tensor


def _is_large(tensor: Tensor, least: int) -> bool:
    return tensor.ndim == 2 and min(tensor.shape) >= least and _is_plain(tensor)


@functools.cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """X W^T by oneDNN in float32, where torch has it and the processor the instructions it is faster with."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # what torch.compile calls, too
    if operator is None:
        return None
    return lambda x, w: operator(x, w, None, "none", [], "")


@functools.cache
def _has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 and adds up in float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
