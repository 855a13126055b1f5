"""How units lie in a value of the computation, and what the operations between two layers do to that."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch.fx


class Untraceable(Exception):
    """The units cannot be followed through an operation."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the units of a set lie in a value: along `dim` as parts x size x inner, see `Slot`.

    Args:
        root: the set.
        dim: from the end.
        rank: number of dimensions, None if unknown.
        parts, inner: at most one of them is None: a number that the width of the reader decides.
        active: whether the value is behind a nonlinearity.
    """

    root: int
    dim: int
    rank: int | None
    parts: int | None = 1
    inner: int | None = 1
    active: bool = False

    def fill(self, width: int, size: int) -> tuple[int, int]:
        """Return parts and inner where the dimension has this width."""
        known = (self.parts or 1) * size * (self.inner or 1)
        rest = width // known
        decided = self.parts is not None and self.inner is not None
        if width % known or (decided and rest != 1):
            raise Untraceable(f"a layer of width {width} does not fit its {size} units")
        return (
            self.parts if self.parts is not None else rest,
            self.inner if self.inner is not None else rest,
        )

    def from_end(self, dim: int) -> int | None:
        """Return a dimension counted from the end, None if that is unknown."""
        if dim < 0:
            return dim
        return None if self.rank is None else dim - self.rank

    def flattened(self, start: int, end: int) -> Layout:
        """What `flatten(start, end)` does."""
        if self.rank is None and self.dim == -1 and (start, end) == (1, -1) and self.parts == 1:
            # (n, features) stays, (n, positions, features) becomes (n, positions * features).
            return dataclasses.replace(self, rank=2, parts=None)
        first, last = self.from_end(start), self.from_end(end)
        if first is None or last is None:
            raise Untraceable("flatten joins dimensions that are not known")
        rank = None if self.rank is None else self.rank - (last - first)
        if self.dim > last:
            return dataclasses.replace(self, rank=rank)
        if self.dim < first:
            return dataclasses.replace(self, dim=self.dim + last - first, rank=rank)
        if self.dim == first == last:
            return self
        if self.dim == first and self.inner == 1:
            return dataclasses.replace(self, dim=last, rank=rank, inner=None)
        raise Untraceable("flatten puts other dimensions before the units")

    def reduced(self, dims: Any, keep: Any) -> Layout:
        """What a mean over dimensions does."""
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(dims, list | tuple) or not all(isinstance(dim, int) for dim in dims):
            raise Untraceable("it is reduced over all dimensions")
        gone = [self.from_end(dim) for dim in dims]
        # Where the rank is unknown the units lie in the last dimension, and a positive one is another.
        if self.dim in gone or (None in gone and self.dim != -1):
            raise Untraceable("it is reduced over the units, or over dimensions that are not known")
        if keep:
            return self
        behind = sum(dim is not None and dim > self.dim for dim in gone)
        rank = None if self.rank is None else self.rank - len(gone)
        return dataclasses.replace(self, dim=self.dim + behind, rank=rank)

    def permuted(self, order: tuple[Any, ...]) -> Layout:
        """What `permute(*order)` does."""
        order = tuple(order[0]) if len(order) == 1 and isinstance(order[0], list | tuple) else order
        if all(isinstance(dim, int) for dim in order):
            old = [dim if dim < 0 else dim - len(order) for dim in order]
            return dataclasses.replace(self, dim=old.index(self.dim) - len(order), rank=len(order))
        raise Untraceable("permute moves dimensions that are not known")

    def transposed(self, pair: tuple[Any, ...]) -> Layout:
        """What `transpose(*pair)` does."""
        first, second = (self.from_end(dim) if isinstance(dim, int) else None for dim in pair)
        if first is None or second is None:
            raise Untraceable("transpose moves dimensions that are not known")
        return dataclasses.replace(self, dim={first: second, second: first}.get(self.dim, self.dim))


def arguments(node: torch.fx.Node, *wanted: tuple[str, Any]) -> list[Any]:
    """Values of the arguments behind the first, given by position or by name."""
    given = node.args[1:]
    return [
        given[index] if index < len(given) else node.kwargs.get(name, otherwise)
        for index, (name, otherwise) in enumerate(wanted)
    ]


def keeps_batch(node: torch.fx.Node) -> bool:
    """Whether a view or reshape flattens: x.view(x.size(0), -1) or x.view(-1, number)."""
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = tuple(sizes[0])
    return len(sizes) == 2 and -1 in (sizes[0], sizes[1])


def picks_position(index: Any) -> bool:
    """Whether an index takes one position of all: x[:, 0]."""
    return (
        isinstance(index, tuple) and len(index) == 2 and index[0] == slice(None) and isinstance(index[1], int)
    )
