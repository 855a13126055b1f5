"""Inner products of gradients: computed and added up in float64, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from isoplast.diagnostics.ntk._half import Block
from isoplast.diagnostics.ntk._terms import Explicit, Outer, Term

# Entries converted to float64 at a time, of each side: 512 kB.
PIECE = 2**16
# Columns of a tile. Converting its factors to float64 costs a hundredth of the products, which are dearer.
_COLUMNS = 256
# Entries of the gradients, or of the positions' products, that are formed at a time: 2 MB in float64.
CHUNK = 2**18


def add_gram_(block: Block, left: Sequence[Term], right: Sequence[Term]) -> None:
    r"""Add the inner products of the gradients of two blocks of samples to their part of the kernel.

    Products of float32 gradients summed in float32 would drown every eigenvalue below 1e-7 of the largest; in
    float64 the gradients' own rounding remains, which moves eigenvalues by 1e-14 of the largest.

    Args:
        block: (n_left C, n_right C) of the kernel.
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
            elif first.by_positions(max(len(first.inputs), len(second.inputs))):
                _add_by_positions_(block, first, second)
            else:
                _add_by_gradients_(block, first, second)
        else:
            formed = [one.explicit() if isinstance(one, Outer) else one for one in (first, second)]
            explicit.append((formed[0], formed[1]))
    if explicit:
        rows = [tuple(one.gradients.flatten(0, 1) for one in pair) for pair in explicit]
        _add_rows_(block, [one for one, _ in rows], [other for _, other in rows])
    for pairs in single.values():
        _add_one_position_(block, pairs)


def _add_rows_(block: Block, left: list[Tensor], right: list[Tensor]) -> None:
    """Add the products of all rows of the left with all of the right, over the columns of all matrices."""
    chunks = list(_chunks([one.shape[1] for one in left], PIECE // _COLUMNS))
    for rows, first, entries in block.strips():
        for chunk in chunks:
            own = _packed(left, rows, chunk)
            for start in range(0, entries.shape[1], _COLUMNS):
                tile = entries[:, start : start + _COLUMNS]
                columns = slice(first + start, first + start + tile.shape[1])
                tile.addmm_(own, _packed(right, columns, chunk).t())


def _chunks(widths: list[int], width: int) -> Iterator[list[tuple[int, slice]]]:
    """Yield pieces of matrices that lie beside each other, together at most `width` columns wide."""
    held: list[tuple[int, slice]] = []
    room = width
    for index, total in enumerate(widths):
        start = 0
        while start < total:
            stop = min(total, start + room)
            held.append((index, slice(start, stop)))
            room -= stop - start
            start = stop
            if not room:
                yield held
                held, room = [], width
    if held:
        yield held


def _packed(matrices: list[Tensor], rows: slice, chunk: list[tuple[int, slice]]) -> Tensor:
    """Return some rows of the pieces in float64."""
    pieces = [matrices[index][rows, columns] for index, columns in chunk]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)).double()


def _add_one_position_(block: Block, pairs: list[tuple[Outer, Outer]]) -> None:
    r"""Add :math:`(\sum H H^T) \circ (B B^T)` for matrices (and biases) with the same signals B."""
    first, second = pairs[0]
    outputs, height = first.signals.shape[1], first.signals.shape[3]
    forward = sum(_inner(one.inputs.flatten(1), other.inputs.flatten(1)) for one, other in pairs)
    assert isinstance(forward, Tensor)
    left, right = first.signals.reshape(-1, height), second.signals.reshape(-1, height)
    wide = max(1, _COLUMNS // outputs) * outputs
    chunks = list(_chunks([height], max(1, PIECE // wide)))
    for rows, begin, entries in block.strips():
        own = [_packed([left], rows, chunk) for chunk in chunks]
        for start in range(0, entries.shape[1], wide):
            target = entries[:, start : start + wide]
            columns = slice(begin + start, begin + start + target.shape[1])
            tile = own[0] @ _packed([right], columns, chunks[0]).t()
            for piece, chunk in zip(own[1:], chunks[1:], strict=True):
                tile.addmm_(piece, _packed([right], columns, chunk).t())
            weights = forward[_over(rows, outputs), _over(columns, outputs)]
            tile.view(len(weights), outputs, -1, outputs).mul_(weights[:, None, :, None])
            target += tile


def _over(rows: slice, unit: int) -> slice:
    return slice(rows.start // unit, rows.stop // unit)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Return left right^T in float64: (r, d), (s, d) -> (r, s)."""
    total = left.new_zeros(len(left), len(right), dtype=torch.float64)
    width = max(1, PIECE // max(len(left), len(right)))
    for start in range(0, left.shape[1], width):
        part = left[:, start : start + width].double()
        other = part if right is left else right[:, start : start + width].double()
        total.addmm_(part, other.t())
    return total


def _add_by_positions_(block: Block, left: Outer, right: Outer) -> None:
    """K[(i,a),(j,b)] = sum_s <sum_t <h_it, h_js> b_iat, b_jbs>, one sample i at a time."""
    _, outputs, positions, height = right.signals.shape
    pieces = max(1, CHUNK // (outputs * positions * height))
    for rows, begin, entries in block.strips():
        for offset, index in enumerate(range(*_over(rows, outputs).indices(len(left.inputs)))):
            own = left.signals[index].double().permute(1, 0, 2).flatten(1)  # (t, a * o)
            inputs = left.inputs[index].double()
            target = entries[offset * outputs : (offset + 1) * outputs].view(outputs, -1, outputs)
            first = begin // outputs
            skipped = offset if block.diagonal else 0  # below the diagonal
            for start in range(first + skipped, len(right.inputs), pieces):
                other = right.signals[start : start + pieces].double()  # (j, b, s, o)
                forward = right.inputs[start : start + pieces].double() @ inputs.t()  # (j, s, t)
                mixed = (forward @ own).view(len(other), -1, outputs, height)  # (j, s, a, o)
                part = slice(start - first, start - first + len(other))
                target[:, part] += torch.einsum("jsao,jbso->ajb", mixed, other)


def _add_by_gradients_(block: Block, left: Outer, right: Outer) -> None:
    """Form the gradients of a few rows of the matrix at a time."""
    height, width = left.signals.shape[3], left.inputs.shape[2]
    samples = max(len(left.inputs), len(right.inputs)) * left.signals.shape[1]
    step = max(1, CHUNK // (samples * width))
    for start in range(0, height, step):
        first = left.gradients(start, start + step).flatten(0, 1)
        second = first if right is left else right.gradients(start, start + step).flatten(0, 1)
        _add_rows_(block, [first], [second])
