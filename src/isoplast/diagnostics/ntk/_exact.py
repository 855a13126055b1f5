"""The whole kernel matrix, in blocks of samples that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.diagnostics.ntk._layers import recorded, signals, term
from isoplast.diagnostics.ntk._plan import Plan
from isoplast.diagnostics.ntk._samples import sample_gradients
from isoplast.diagnostics.ntk._terms import Outer, Term, gram
from isoplast.model import outputs, sample_count, take_samples


def blocks(samples: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` samples."""
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


def kernel(network: nn.Module, inputs: Any, how: Plan, size: int) -> Tensor:
    """Return K (n C, n C) in float64, computed in blocks of `size` samples.

    Args:
        network: in evaluation mode.
        inputs: a batch of n samples.
        how: the plan for this network and these inputs.
        size: samples per block.
    """
    samples = sample_count(inputs)
    parts = list(blocks(samples, size))
    rows = [slice(part.start * how.outputs, part.stop * how.outputs) for part in parts]
    device = next(network.parameters()).device
    total = torch.zeros(2 * (samples * how.outputs,), dtype=torch.float64, device=device)
    for i, part in enumerate(parts):
        left = _terms(network, take_samples(inputs, part), how)
        for j in range(i, len(parts)):
            right = left if j == i else _terms(network, take_samples(inputs, parts[j]), how)
            block = total[rows[i], rows[j]]
            _accumulate(block, left, right, last=len(parts) == 1)
            if j > i:
                total[rows[j], rows[i]] = block.t()
    return total


def _terms(network: nn.Module, inputs: Any, how: Plan) -> dict[str, Term]:
    """Return the gradients of all parameters on one block."""
    chunk = sample_count(inputs)
    found: dict[str, Term] = dict(sample_gradients(network, inputs, how.sampled, chunk))
    if not how.layered:
        return found
    with recorded(how.modules) as calls:
        values = outputs(network, inputs)
    seen = signals(calls, values, _units(values), how.outputs)
    del values, calls
    for name, uses in how.layered.items():
        one = term(uses, seen)
        if one is not None:
            found[name] = one.compact() if isinstance(one, Outer) else one
    return found


def _units(values: Tensor) -> Iterator[Tensor]:
    """Yield, for each output, its unit vector for all samples at once: they do not see each other."""
    flat = values.reshape(len(values), -1)
    for index in range(flat.shape[1]):
        unit = torch.zeros_like(flat)
        unit[:, index] = 1.0
        yield unit.view_as(values)


def _accumulate(block: Tensor, left: dict[str, Term], right: dict[str, Term], *, last: bool) -> None:
    """Add the parameters' Gram matrices (Eq 8) to a block; `last` gives the gradients up on the way."""
    for name in list(left):
        first, second = left[name], right[name]
        if last:
            del left[name]
        block += gram(first, second)
