"""Matrices for the property tests: every shape and memory layout, and spectra chosen by the test."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

SHAPES = {"tall": (7, 3), "wide": (3, 8), "square": (5, 5), "row": (1, 6), "column": (6, 1), "one": (1, 1)}
BATCHES = ((), (2,), (2, 3))
LAYOUTS = ("contiguous", "transposed", "strided", "expanded_batch")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A normal matrix whose largest singular value is of order one."""
    scale = (max(shape[-2:]) ** 0.5) or 1.0
    return torch.randn(shape, generator=generator(seed), dtype=dtype) / scale


def laid_out(matrix: Tensor, layout: str) -> Tensor:
    """The same values under other strides."""
    if layout == "transposed":
        return matrix.mT.contiguous().mT
    if layout == "strided":
        room = matrix.new_zeros(*matrix.shape[:-1], 2 * matrix.shape[-1])
        view = room[..., ::2]
        return view.copy_(matrix)
    if layout == "expanded_batch" and matrix.ndim > 2:
        return matrix[:1].expand_as(matrix)
    return matrix


@st.composite
def matrices(
    draw: st.DrawFn, layouts: tuple[str, ...] = LAYOUTS, scales: tuple[float, float] = (0.1, 3.0)
) -> Tensor:
    """Float64 matrices of any shape, batched or not, in any layout; entries scaled by a drawn factor."""
    shape = draw(st.sampled_from(sorted(SHAPES.values())))
    batch = draw(st.sampled_from(BATCHES))
    scale = draw(st.floats(*scales))
    matrix = scale * normal(*batch, *shape, seed=draw(st.integers(0, 2**31)))
    return laid_out(matrix, draw(st.sampled_from(layouts)))


def orthonormal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthonormal columns (tall) or rows (wide), by QR in float64."""
    m, n = shape[-2:]
    tall = torch.randn(*shape[:-2], max(m, n), min(m, n), generator=generator(seed), dtype=torch.float64)
    q = torch.linalg.qr(tall).Q
    return (q if m >= n else q.mT).contiguous().to(dtype)


def with_singular_values(values: Tensor, m: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """U diag(values) V^T of shape (..., m, n) with random U, V: the matrix, U and V^T."""
    k = min(m, n)
    u = orthonormal(*values.shape[:-1], m, k, seed=seed)
    vh = orthonormal(*values.shape[:-1], k, n, seed=seed + 1)
    return u @ (values[..., None] * vh), u, vh
