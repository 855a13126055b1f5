"""How a parameter of any shape is seen as a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Split = int | Sequence[int]


def is_matrix(tensor: Tensor, *, batch_dims: int = 0) -> bool:
    """Whether isometry means anything for a tensor: floating, real, both sides of the view at least 2.

    A single row or column has one singular value, its norm; a norm is not what isometry controls.

    Args:
        tensor: any tensor.
        batch_dims: number of leading dimensions that count matrices instead of rows.

    Returns:
        True if :func:`matrix_view` of the tensor is a stack of matrices with both sides >= 2.

    Example:
        >>> is_matrix(torch.zeros(512, 3, 3, 3)), is_matrix(torch.zeros(512)), is_matrix(torch.zeros(1, 9))
        (True, False, False)
    """
    shape = tensor.shape
    if len(shape) < 2 + batch_dims or not tensor.is_floating_point():
        return False
    return shape[batch_dims] >= 2 and math.prod(shape[batch_dims + 1 :]) >= 2


def matrix_view(tensor: Tensor, *, batch_dims: int = 0) -> Tensor:
    r"""A parameter seen as a matrix, or as a stack of matrices.

    A linear weight (out, in) is its own view; a convolution kernel (out, in, k, k) becomes
    (out, in*k*k); with ``batch_dims=b`` the first b dimensions count matrices (experts, stacked seeds).

    Args:
        tensor: shape (\*batch, out, ...), at least 2 dimensions after the batch.
        batch_dims: number of leading batch dimensions, >= 0.

    Returns:
        Shape (\*batch, out, rest). It shares memory with the tensor where strides allow; a
        channels-last kernel is copied.

    Raises:
        ValueError: if there are fewer than two dimensions after the batch.

    Example:
        >>> matrix_view(torch.zeros(32, 16, 3, 3)).shape
        torch.Size([32, 144])

    Reference:
        arXiv:2606.09762, Appendix A (convolutions).
    """
    if tensor.ndim < 2 + batch_dims:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} with batch_dims={batch_dims} is not a matrix: "
            "at least two dimensions must be left"
        )
    if tensor.ndim == 2 + batch_dims:
        return tensor
    lead = tensor.shape[: batch_dims + 1]
    return tensor.reshape(*lead, math.prod(tensor.shape[batch_dims + 1 :]))


def matrix_views(tensor: Tensor, *, batch_dims: int = 0, split: Split = 1) -> tuple[Tensor, ...]:
    r"""The matrices a parameter is made of, when its rows or columns hold several of them.

    A fused q, k, v projection of shape (3 d, d) is three matrices (``split=3``); with grouped
    queries the row counts differ (``split=(512, 128, 128)``); a convolution with g groups is g
    matrices (``split=g``), since no group sees the inputs of another. GPT-2 stores its weights as
    (in, out): there the blocks are columns, which negative numbers count (``split=-3``), and every
    matrix is seen as (out, in) again; ``split=-1`` is one such matrix.

    Args:
        tensor: shape (\*batch, out, ...), or (\*batch, in, out) for a negative split.
        batch_dims: number of leading batch dimensions, >= 0.
        split: number of equal row blocks, or their row counts; all of them negative for columns.

    Returns:
        One stack of shape (\*batch, split, out / split, rest) for equal blocks, one tensor of shape
        (\*batch, rows, rest) per block otherwise.

    Raises:
        ValueError: if the rows or columns cannot be split as asked.

    Example:
        >>> [v.shape for v in matrix_views(torch.zeros(12, 4), split=3)]
        [torch.Size([3, 4, 4])]
        >>> [v.shape for v in matrix_views(torch.zeros(4, 10), split=(-6, -2, -2))]
        [torch.Size([6, 4]), torch.Size([2, 4]), torch.Size([2, 4])]
    """
    view = matrix_view(tensor, batch_dims=batch_dims)
    line = "row"
    if is_by_columns(split):
        view, line = view.mT, "column"
        split = -split if isinstance(split, int) else [-count for count in split]
    rows = view.shape[-2]
    if isinstance(split, int):
        if split == 1:
            return (view,)
        if split < 1 or rows % split:
            raise ValueError(f"{rows} {line}s cannot be split into {split} equal blocks")
        return (view.reshape(*view.shape[:-2], split, rows // split, view.shape[-1]),)
    if sum(split) != rows or min(split, default=0) < 1:
        raise ValueError(f"split={tuple(split)} must be positive {line} counts that add up to {rows}")
    return torch.split(view, list(split), dim=-2)


def is_by_columns(split: Split) -> bool:
    """Whether a split counts columns of a weight stored as (in, out)."""
    return split < 0 if isinstance(split, int) else bool(split) and max(split) < 0


@torch.no_grad()
def edit_matrices_(
    tensor: Tensor, edit_: Callable[[Tensor], object], *, batch_dims: int = 0, split: Split = 1
) -> None:
    """Changes every matrix of a parameter in place, whatever its strides.

    Args:
        tensor: the parameter.
        edit_: called with each of :func:`matrix_views`, changes it in place.
        batch_dims: as there.
        split: as there.

    Example:
        >>> edit_matrices_(kernel, lambda w: isometry_step_(w, 1e-3))  # a channels-last kernel, say
    """
    views = matrix_views(tensor, batch_dims=batch_dims, split=split)
    for view in views:
        edit_(view)
    if views[0].data_ptr() != tensor.data_ptr():  # the strides allowed no view: these are copies
        tensor.copy_(join_matrices(views, tensor, split=split))


def join_matrices(views: Sequence[Tensor], like: Tensor, *, split: Split = 1) -> Tensor:
    """The inverse of :func:`matrix_views`: one tensor of the parameter's shape.

    Args:
        views: the matrices of a parameter, or others of their shapes.
        like: the parameter.
        split: as there.
    """
    whole = views[0] if len(views) == 1 else torch.cat(list(views), dim=-2)
    if is_by_columns(split):
        stacked = isinstance(split, int) and split != -1
        whole = (whole.flatten(-3, -2) if stacked else whole).mT
    return whole.reshape(like.shape)
