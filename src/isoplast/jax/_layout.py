"""How an array of any shape is seen as matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from isoplast._core.errors import IsoplastError


class Layout(NamedTuple):
    """Which axes of an array are the rows and columns of its matrices; all others count matrices.

    Args:
        inputs: axes that the layer sums over: (0,) of a flax Dense kernel, (0, 1, 2) of a Conv kernel in
            HWIO, (1,) of an equinox Linear.
        outputs: axes of what the layer gives.
        blocks: number of equal blocks of outputs that are matrices of their own: 3 for a fused q, k, v
            projection, the number of gates or of a convolution's groups.

    Example:
        >>> Layout(inputs=(0, 1, 2), outputs=(3,)).sides((3, 3, 16, 32))
        (32, 144)
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: int = 1

    def sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of each matrix in an array of this shape."""
        return self._size(shape, self.outputs) // self.blocks, self._size(shape, self.inputs)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses a layout that does not fit an array.

        Raises:
            IsoplastError: naming the array and its shape.
        """
        axes = [*self.inputs, *self.outputs]
        fits = self.inputs and self.outputs and all(-len(shape) <= axis < len(shape) for axis in axes)
        if not fits or len({axis % len(shape) for axis in axes}) < len(axes):
            raise IsoplastError(
                f"{name}: {self} does not fit its shape {shape}: each axis once, both sides given"
            )
        if self.blocks < 1 or self._size(shape, self.outputs) % self.blocks:
            rows = self._size(shape, self.outputs)
            raise IsoplastError(f"{name}: {rows} outputs cannot be split into {self.blocks} equal blocks")

    def apply(self, function: Callable[[Array], Array], array: Array) -> Array:
        """A function of matrices, shape (..., m, n) to the same, on all matrices of an array."""
        ndim = array.ndim
        inputs = [axis % ndim for axis in self.inputs]
        outputs = [axis % ndim for axis in self.outputs]
        batch = [axis for axis in range(ndim) if axis not in (*inputs, *outputs)]
        order = (*batch, *outputs, *inputs)
        turned = array.transpose(order)
        lead = turned.shape[: len(batch)]
        rows, columns = self.sides(array.shape)
        blocks = (self.blocks,) if self.blocks > 1 else ()
        found = function(turned.reshape(*lead, *blocks, rows, columns))
        back = sorted(range(ndim), key=order.__getitem__)
        return found.reshape(turned.shape).transpose(back)

    @staticmethod
    def _size(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
        return math.prod(shape[axis] for axis in axes)
