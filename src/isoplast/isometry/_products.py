"""The two matrix products of an isometry step, by the fastest kernel that keeps the precision.

On a CPU with AVX-512 oneDNN's float32 product took 0.43 to 0.48 of the time of MKL's, which is what
``torch.mm`` calls, for 256 to 2048 rows on one AMD core. Both are float32 throughout; neither TF32 nor
bfloat16 is ever chosen here, the user's ``torch.set_float32_matmul_precision`` alone decides about those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from isoplast.isometry._precision import working

# Below, a call's own overhead (13 against 7 microseconds at 64 rows) is more than it saves.
_LARGE = 192
_STRIPS = 4


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, without a graph.

    Args:
        a: shape (..., m, k).
        b: shape (..., k, n), of the same dtype and device.
    """
    if _is_large(a) and _is_large(b) and a.dtype == torch.float32:
        times_transposed = _onednn()
        if times_transposed is not None:
            return times_transposed(a, b.mT)
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
    if not _is_large(x) or k < 256:
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


def add_product_(matrix: Tensor, small: Tensor) -> Tensor:
    """W <- W + W S for a tall W (m > n), W + S W for a wide or square one, in place.

    A large matrix on a CPU is changed in strips that do not need each other, so that the product takes
    a quarter of the memory.

    Args:
        matrix: shape (..., m, n).
        small: shape (..., k, k) with k = min(m, n), in the precision of :func:`working`.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    strips = _STRIPS if _is_large(matrix) else 1
    for part in matrix.tensor_split(strips, dim=-2 if tall else -1):
        w = working(part)
        part.add_(product(w, small) if tall else product(small, w))
    return matrix


def _is_large(tensor: Tensor) -> bool:
    """Whether a matrix is large, on a CPU, and an ordinary tensor: no DTensor, no meta tensor."""
    return (
        tensor.ndim == 2
        and tensor.device.type == "cpu"
        and min(tensor.shape) >= _LARGE
        and type(tensor.data) is Tensor
    )


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
