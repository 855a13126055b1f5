"""Inner products of gradients: computed and added up in float64, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from isoplast.diagnostics.ntk._terms import Explicit, Outer, Term

# Entries converted to float64 at a time: 8 MB.
CHUNK = 2**20
# Rows and columns of a tile, 1 MB. Converting its factors to float64 costs 1 % of multiplying them.
_ROWS, _COLUMNS = 256, 512


def add_gram_(total: Tensor, left: Sequence[Term], right: Sequence[Term]) -> None:
    r"""Add the inner products of the gradients of two blocks of samples to a part of the kernel.

    Products of float32 gradients summed in float32 would drown every eigenvalue below 1e-7 of the largest; in
    float64 the gradients' own rounding remains, which moves eigenvalues by 1e-14 of the largest.

    Args:
        total: float64 (n_left C, n_right C). If left is right, tiles on and above the diagonal get it all,
            those below it may not: :func:`mirror_` fills them.
        left, right: terms of the same parameters in the same order.

    Reference:
        arXiv:2606.09762, Eq 7 and 8.
    """
    explicit: list[tuple[Explicit, Explicit]] = []
    single: dict[tuple[int, torch.Size], list[tuple[Outer, Outer]]] = {}
    for first, second in zip(left, right, strict=True):
        if isinstance(first, Outer) and isinstance(second, Outer):
            if first.positions == second.positions == 1:
                key = (first.signals.data_ptr(), first.signals.shape)
                single.setdefault(key, []).append((first, second))
                continue
            by_positions = first.by_positions(max(len(first.inputs), len(second.inputs)))
            total += (_by_positions if by_positions else _by_gradients)(first, second)
        else:
            formed = [one.explicit() if isinstance(one, Outer) else one for one in (first, second)]
            explicit.append((formed[0], formed[1]))
    same = left is right
    if explicit:
        _add_explicit_(total, explicit, same)
    for pairs in single.values():
        _add_one_position_(total, pairs, same)


def mirror_(total: Tensor) -> None:
    """Copy what is above the diagonal of a square matrix below it."""
    for start in range(0, len(total), _ROWS):
        stop = min(start + _ROWS, len(total))
        total[start:stop, :start] = total[:start, start:stop].t()
        tile = total[start:stop, start:stop]
        tile.copy_(tile.triu() + tile.triu(1).t())


def _tiles(shape: torch.Size, unit: int, same: bool) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of tiles whose sides are multiples of a unit; those above the diagonal alone."""
    high, wide = max(1, _ROWS // unit) * unit, max(1, _COLUMNS // unit) * unit
    for top in range(0, shape[0], high):
        for edge in range(top if same else 0, shape[1], wide):
            yield slice(top, min(top + high, shape[0])), slice(edge, min(edge + wide, shape[1]))


def _add_explicit_(total: Tensor, pairs: list[tuple[Explicit, Explicit]], same: bool) -> None:
    for rows, columns in _tiles(total.shape, 1, same):
        width = max(1, CHUNK // (_COLUMNS if len(total) > _ROWS else max(total.shape)))
        left = _packed([one for one, _ in pairs], rows, width)
        right = _packed([other for _, other in pairs], columns, width)
        for first, second in zip(left, right, strict=True):
            total[rows, columns].addmm_(first, second.t())


def _packed(terms: list[Explicit], rows: slice, width: int) -> Iterator[Tensor]:
    """Yield the gradients of some rows in float64, at most `width` entries at a time, whoever's they are."""
    held: list[Tensor] = []
    room = width
    for term in terms:
        rest = term.gradients.flatten(0, 1)[rows]
        while rest.shape[1]:
            piece, rest = rest[:, :room], rest[:, room:]
            held.append(piece)
            room -= piece.shape[1]
            if not room:
                yield torch.cat(held, 1).double()
                held, room = [], width
    if held:
        yield torch.cat(held, 1).double()


def _add_one_position_(total: Tensor, pairs: list[tuple[Outer, Outer]], same: bool) -> None:
    r"""Add :math:`(\sum H H^T) \circ (B B^T)` for matrices (and biases) with the same signals B."""
    first, second = pairs[0]
    n, outputs, _, height = first.signals.shape
    m = len(second.signals)
    forward = total.new_zeros(n, m)
    inputs = [tuple(Explicit(one.inputs) for one in pair) for pair in pairs]
    _add_explicit_(forward, inputs, same)  # type: ignore[arg-type]
    if same:
        mirror_(forward)
    left, right = first.signals.reshape(-1, height), second.signals.reshape(-1, height)
    for rows, columns in _tiles(total.shape, outputs, same):
        width = max(1, CHUNK // max(rows.stop - rows.start, columns.stop - columns.start))
        tile = left[rows, :width].double() @ right[columns, :width].double().t()
        for start in range(width, height, width):
            part = slice(start, start + width)
            tile.addmm_(left[rows, part].double(), right[columns, part].double().t())
        weights = forward[_over(rows, outputs), _over(columns, outputs)]
        tile.view(len(weights), outputs, -1, outputs).mul_(weights[:, None, :, None])
        total[rows, columns] += tile


def _over(rows: slice, unit: int) -> slice:
    return slice(rows.start // unit, rows.stop // unit)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Return left right^T in float64: (r, d), (s, d) -> (r, s)."""
    total = left.new_zeros(len(left), len(right), dtype=torch.float64)
    width = max(1, CHUNK // max(len(left), len(right), 1))
    for start in range(0, left.shape[1], width):
        part = left[:, start : start + width].double()
        other = part if right is left else right[:, start : start + width].double()
        total.addmm_(part, other.t())
    return total


def _by_positions(left: Outer, right: Outer) -> Tensor:
    """K[(i,a),(j,b)] = sum_s <sum_t <h_it, h_js> b_iat, b_jbs>, one sample i at a time."""
    count, outputs, positions, height = right.signals.shape
    rows = []
    pieces = max(1, CHUNK // (outputs * positions * height))
    for signals, inputs in zip(left.signals, left.inputs, strict=True):
        own = signals.double().permute(1, 0, 2).flatten(1)  # (t, a * o)
        blocks = []
        for start in range(0, count, pieces):
            other = right.signals[start : start + pieces].double()  # (j, b, s, o)
            forward = right.inputs[start : start + pieces].double() @ inputs.double().t()  # (j, s, t)
            mixed = (forward @ own).unflatten(2, (len(signals), height))  # (j, s, a, o)
            blocks.append(torch.einsum("jsao,jbso->ajb", mixed, other))
        rows.append(torch.cat(blocks, 1).flatten(1))
    return torch.cat(rows)


def _by_gradients(left: Outer, right: Outer) -> Tensor:
    """Form the gradients of a few rows of the matrix at a time."""
    height, width = left.signals.shape[3], left.inputs.shape[2]
    samples = max(len(left.inputs), len(right.inputs)) * left.signals.shape[1]
    step = max(1, CHUNK // (samples * width))
    total = left.signals.new_zeros(1, dtype=torch.float64)
    for start in range(0, height, step):
        first = left.gradients(start, start + step).flatten(0, 1)
        second = first if right is left else right.gradients(start, start + step).flatten(0, 1)
        total = total + _inner(first, second)
    return total
