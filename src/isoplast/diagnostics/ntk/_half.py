"""Half of a symmetric matrix: all of its precision in half its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

# Rows of a strip. Half of a strip's leading square, below the diagonal, is kept in vain: 4 N _ROWS bytes.
_ROWS = 128


class Half:
    """What a symmetric float64 matrix has on and above its diagonal, in strips of rows.

    Strips of h rows that begin at the diagonal take 4 N (N + h) bytes, where the whole matrix takes 8 N^2.

    Args:
        blocks: rows of the blocks that it is computed in, in order; strips do not cross their borders.
        unit: rows that belong together (the outputs of a sample): strips are multiples of it.
        device: of the matrix.
    """

    def __init__(self, blocks: list[slice], unit: int, device: torch.device) -> None:
        self.size, height = blocks[-1].stop, strip_height(unit)
        self._strips: dict[int, Tensor] = {}
        for block in blocks:
            for start in range(block.start, block.stop, height):
                rows = min(height, block.stop - start)
                self._strips[start] = torch.zeros(rows, self.size - start, dtype=torch.float64, device=device)

    def strips(self, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield the strips of some rows: their rows, and their entries from the diagonal on."""
        for start, strip in self._strips.items():
            if rows.start <= start < rows.stop:
                yield slice(start, start + len(strip)), strip

    def whole(self) -> Tensor:
        """Return the whole matrix; every strip is given up when it is copied."""
        found: Tensor | None = None
        while self._strips:
            start, strip = self._strips.popitem()
            height = len(strip)
            square = strip[:, :height]
            square.copy_(square.triu() + square.triu(1).t())
            if height == self.size:
                return strip
            if found is None:
                found = strip.new_empty(self.size, self.size)
            found[start : start + height, start:] = strip
            found[start + height :, start : start + height] = strip[:, height:].t()
        assert found is not None
        return found


@dataclasses.dataclass(frozen=True)
class Block:
    """The part of a matrix that belongs to two blocks of samples, the first not behind the second.

    Attributes:
        half: the matrix.
        rows, columns: of the two blocks in it.
    """

    half: Half
    rows: slice
    columns: slice

    @property
    def diagonal(self) -> bool:
        """Whether both are the same block."""
        return int(self.rows.start) == int(self.columns.start)

    def strips(self) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield strips: rows and first column, counted from the block's, and the entries themselves.

        On the diagonal they begin with their own rows' column.
        """
        for rows, strip in self.half.strips(self.rows):
            first = max(rows.start, self.columns.start)
            entries = strip[:, first - rows.start : self.columns.stop - rows.start]
            own = slice(rows.start - self.rows.start, rows.stop - self.rows.start)
            yield own, first - self.columns.start, entries


def strip_height(unit: int) -> int:
    """Return how many rows a strip has at most."""
    return max(1, _ROWS // unit) * unit


def half_bytes(size: int, unit: int) -> int:
    """Return the memory of half a matrix."""
    return 4 * size * (size + min(size, strip_height(unit)))
