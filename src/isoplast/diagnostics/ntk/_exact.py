"""The whole kernel matrix, in blocks of samples that fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.diagnostics._linear import Linearised
from isoplast.diagnostics.ntk._gram import add_gram_, mirror_
from isoplast.diagnostics.ntk._layers import recorded, signals, term
from isoplast.diagnostics.ntk._plan import Plan
from isoplast.diagnostics.ntk._samples import sample_gradients
from isoplast.diagnostics.ntk._terms import Explicit, Term, agree, whole_norm
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
        add_gram_(total[rows[i], rows[i]], left, left)
        for j in range(i + 1, len(parts)):
            add_gram_(total[rows[i], rows[j]], left, _terms(network, take_samples(inputs, parts[j]), how))
    mirror_(total)
    return total


def _terms(network: nn.Module, inputs: Any, how: Plan) -> list[Term]:
    """Return the gradients of all parameters on one block, differentiated a pass of samples at a time."""
    samples = sample_count(inputs)
    store = _Store(samples)
    for rows in blocks(samples, how.pass_size(samples)):
        part = take_samples(inputs, rows)
        for name, found in sample_gradients(network, part, how.sampled, rows.stop - rows.start).items():
            store.put(name, found, rows)
        if how.layered:
            for name, one in _layered(network, part, how, samples).items():
                store.put(name, one, rows)
    return store.terms()


class _Store:
    """The terms of all samples, put together of those of passes."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._tensors: dict[object, Tensor] = {}
        self._terms: dict[str, Term] = {}

    def put(self, name: str, one: Term, rows: slice) -> None:
        """Keep the term of a parameter for some samples.

        Raises:
            Misfit: where it has another shape than for others.
        """
        if isinstance(one, Explicit):
            whole: Term = Explicit(self._kept(name, name, one.gradients, rows))
        else:
            inputs = self._kept(name, (name, "inputs"), one.inputs, rows)
            signals = self._kept(name, name if one.call is None else one.call, one.signals, rows)
            whole = dataclasses.replace(one, inputs=inputs, signals=signals)
        if type(self._terms.setdefault(name, whole)) is not type(whole):
            raise Misfit({name})

    def _kept(self, name: str, key: object, piece: Tensor, rows: slice) -> Tensor:
        if len(piece) == self._samples:
            return piece
        kept = self._tensors.get(key)
        if kept is None:
            kept = self._tensors[key] = piece.new_zeros(self._samples, *piece.shape[1:])
        if kept.shape[1:] != piece.shape[1:]:
            raise Misfit({name})
        kept[rows] = piece
        return kept

    def terms(self) -> list[Term]:
        """All of them, in the order of the parameters."""
        return list(self._terms.values())


def _layered(network: nn.Module, inputs: Any, how: Plan, block: int) -> dict[str, Term]:
    """Return the gradients by the layer-wise formula, on some samples of a block of that many."""
    samples = sample_count(inputs)
    with recorded(how.modules) as calls:
        values = outputs(network, inputs)
    strange = {call.module for call in calls if not call.fits(samples)}
    if strange:  # experts, say, that are given some rows of the samples
        raise Misfit({name for name, uses in how.layered.items() if any(u.module in strange for u in uses)})
    seen = signals(calls, values, _units(values), how.outputs)
    found: dict[str, Term] = {}
    for name, uses in how.layered.items():
        one = term(uses, seen)
        if one is not None:
            found[name] = one if isinstance(one, Explicit) else one.compact(block)
    _check(values, found, how)
    return found


def _check(values: Tensor, layered: dict[str, Term], how: Plan) -> None:
    """Compare the gradients of a random combination of all outputs with those of autograd.

    Two samples cannot show everything: rows that belong to other samples than their place says (routing to
    experts) may happen to be as many as there should be.

    Raises:
        Misfit: naming the parameters where they differ.
    """
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(values.shape, generator=generator).to(values)
    truth = Linearised(values, [how.parameters[name] for name in how.layered]).pull(weights)
    whole = whole_norm(truth)
    weights = weights.reshape(len(weights), -1)
    wrong = set()
    for name, expected in zip(how.layered, truth, strict=True):
        own = layered[name].combined(weights) if name in layered else torch.zeros_like(expected)
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
