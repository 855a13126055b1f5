"""The whole kernel matrix, by groups of parameters and in blocks of samples that fit into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.diagnostics._linear import Linearised
from isoplast.diagnostics.ntk._gram import add_gram_
from isoplast.diagnostics.ntk._half import Block, Half
from isoplast.diagnostics.ntk._layers import recorded, signals, term
from isoplast.diagnostics.ntk._plan import Division, Plan, in_chunks
from isoplast.diagnostics.ntk._samples import sample_gradients
from isoplast.diagnostics.ntk._terms import Explicit, Term, agrees, sketch
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


def kernel(network: nn.Module, inputs: Any, how: Plan, division: Division) -> Half:
    """Return K (n C, n C) in float64, the half on and above the diagonal.

    Args:
        network: in evaluation mode.
        inputs: a batch of n samples.
        how: the plan for this network and these inputs.
        division: what is done at a time.

    Raises:
        Misfit: for parameters whose layer-wise formula does not hold on all samples.
    """
    parts = list(blocks(sample_count(inputs), division.size))
    rows = [slice(part.start * how.outputs, part.stop * how.outputs) for part in parts]
    found = Half(rows, how.outputs, next(network.parameters()).device)
    for names in division.groups:
        some = how.only(names)
        for i, part in enumerate(parts):
            left = _terms(network, take_samples(inputs, part), some, division)
            add_gram_(Block(found, rows[i], rows[i]), left, left)
            for j in range(i + 1, len(parts)):
                right = _terms(network, take_samples(inputs, parts[j]), some, division)
                add_gram_(Block(found, rows[i], rows[j]), left, right)
                del right  # before the next is made
            del left
    return found


def _terms(network: nn.Module, inputs: Any, how: Plan, division: Division) -> list[Term]:
    """Return the gradients of all parameters on one block, differentiated a pass of samples at a time."""
    samples = sample_count(inputs)
    store = _Store(samples)
    for rows in blocks(samples, division.passes):
        part = take_samples(inputs, rows)
        for name, found in sample_gradients(network, part, how.sampled, rows.stop - rows.start).items():
            store.put(name, found, rows)
        if how.layered:
            for name, one in _layered(network, part, how, samples, division.checked):
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


def _layered(
    network: nn.Module, inputs: Any, how: Plan, block: int, checked: int
) -> Iterable[tuple[str, Term]]:
    """Return the gradients by the layer-wise formula, on some samples of a block of that many."""
    samples = sample_count(inputs)
    with recorded(how.modules) as calls:
        values = outputs(network, inputs)
    strange = {call.module for call in calls if not call.fits(samples)}
    if strange:  # experts, say, that are given some rows of the samples
        raise Misfit({name for name, uses in how.layered.items() if any(u.module in strange for u in uses)})
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
    truth = _truth(values, weights, how, checked)
    seen = signals(calls, values, _units(values), how.outputs)
    found: dict[str, Term] = {}
    for name, uses in how.layered.items():
        one = term(uses, seen)
        if one is not None:
            found[name] = one if isinstance(one, Explicit) else one.compact(block)
    _check(truth, found, weights.reshape(samples, -1), how)
    return found.items()


def _truth(values: Tensor, weights: Tensor, how: Plan, checked: int) -> dict[str, tuple[float, Tensor]]:
    """Return norms and sketches of the gradients, by autograd, of a combination of all outputs."""
    found: dict[str, tuple[float, Tensor]] = {}
    for names in in_chunks({name: how.parameters[name] for name in how.layered}, checked):
        gradients = Linearised(values, [how.parameters[name] for name in names]).pull(weights)
        for name, gradient in zip(names, gradients, strict=True):
            found[name] = float(gradient.norm()), sketch(gradient)
        del gradients, gradient  # before the next
    return found


def _check(
    truth: dict[str, tuple[float, Tensor]], layered: dict[str, Term], weights: Tensor, how: Plan
) -> None:
    """Compare the gradients of a random combination of all outputs with those of autograd.

    Two samples cannot show everything: rows that belong to other samples than their place says (routing to
    experts) may happen to be as many as there should be.

    Raises:
        Misfit: naming the parameters where they differ.
    """
    whole = sum(norm**2 for norm, _ in truth.values()) ** 0.5
    wrong = set()
    for name, (norm, expected) in truth.items():
        own = layered[name].sketch(weights, how.parameters[name].shape) if name in layered else 0.0
        if not agrees(float((own - expected).norm()), norm, whole, weights.dtype):
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
