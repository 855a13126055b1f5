"""The whole kernel matrix, in blocks of samples that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.diagnostics._linear import Linearised
from isoplast.diagnostics.ntk._layers import recorded, signals, term
from isoplast.diagnostics.ntk._plan import Plan
from isoplast.diagnostics.ntk._samples import sample_gradients
from isoplast.diagnostics.ntk._terms import Outer, Term, agree, gram, whole_norm
from isoplast.model import outputs, sample_count, take_samples


class Misfit(Exception):
    """Parameters whose formula turned out not to hold on some samples.

    Args:
        names: of the parameters.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


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

    Raises:
        Misfit: for parameters whose layer-wise formula does not hold on all samples.
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
    strange = {call.module for call in calls if not call.fits(chunk)}
    if strange:  # experts, say, that are given some rows of the samples
        raise Misfit({name for name, uses in how.layered.items() if any(u.module in strange for u in uses)})
    seen = signals(calls, values, _units(values), how.outputs)
    layered = {name: term(uses, seen) for name, uses in how.layered.items()}
    _check(values, layered, how)
    del values, calls
    for name, one in layered.items():
        if one is not None:
            found[name] = one.compact() if isinstance(one, Outer) else one
    return found


def _check(values: Tensor, layered: dict[str, Term | None], how: Plan) -> None:
    """Compare the gradients of a random combination of all outputs with those of autograd.

    Two samples cannot show everything: rows that belong to other samples than their place says (routing to
    experts) may happen to be as many as there should be.

    Raises:
        Misfit: naming the parameters where they differ.
    """
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(values.shape, generator=generator).to(values)
    parameters = [how.parameters[name] for name in layered]
    truth = Linearised(values, parameters).pull(weights)
    whole = whole_norm(truth)
    weights = weights.reshape(len(weights), -1)
    wrong = set()
    for (name, one), expected in zip(layered.items(), truth, strict=True):
        own = torch.zeros_like(expected) if one is None else one.combined(weights)
        if not agree(own, expected, whole):
            wrong.add(name)
    if wrong:
        raise Misfit(wrong)


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
