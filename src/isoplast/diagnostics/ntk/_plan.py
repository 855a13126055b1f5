"""Which formula serves which parameter, found out on two samples, and how much memory a sample takes."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._linear import Linearised
from isoplast.diagnostics._outputs import check_outputs
from isoplast.diagnostics.ntk._gram import CHUNK, PIECE
from isoplast.diagnostics.ntk._half import half_bytes
from isoplast.diagnostics.ntk._layers import Call, Use, known_uses, recorded, signals, term
from isoplast.diagnostics.ntk._terms import Explicit, Term, agrees, sketch
from isoplast.model import outputs, sample_count, take_samples

# Bytes that products take: pieces of both sides and a tile.
_WORK = 3 * 8 * PIECE
# Bytes for the derivatives of a pass, where there is room.
_PASS = 2**24


@dataclasses.dataclass(frozen=True)
class Unit:
    """Parameters whose gradients are computed together.

    Attributes:
        names: of the parameters.
        held: bytes of gradients that one more sample in a block takes.
        passing: bytes that one more sample takes while it is differentiated.
        work: bytes it takes to multiply them.
        largest: bytes of the largest of the parameters.
    """

    names: tuple[str, ...]
    held: int
    passing: int
    work: int
    largest: int


@dataclasses.dataclass(frozen=True)
class Division:
    """What is done at a time.

    Attributes:
        groups: names of the parameters whose gradients are held at the same time.
        size: samples in a block; every pair of blocks meets.
        passes: samples of a block that are differentiated at a time.
        checked: bytes of autograd's gradients that are compared at a time; one parameter's at least.
    """

    groups: list[tuple[str, ...]]
    size: int
    passes: int
    checked: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the kernel of one network on one batch is computed.

    Attributes:
        layered: parameters served by the layer-wise formula, with their layers.
        sampled: parameters that need gradients sample by sample.
        parameters: all of them.
        outputs: C, the number of outputs of a sample.
        activations: bytes that the graph of one more sample keeps.
        units: all parameters.
    """

    layered: dict[str, list[Use]]
    sampled: dict[str, Tensor]
    parameters: dict[str, Tensor]
    outputs: int
    activations: int
    units: list[Unit]

    @property
    def modules(self) -> set[nn.Module]:
        """The layers to record."""
        return {use.module for uses in self.layered.values() for use in uses}

    def only(self, names: Collection[str]) -> Plan:
        """The plan for some of the parameters."""
        layered = {name: uses for name, uses in self.layered.items() if name in names}
        sampled = {name: parameter for name, parameter in self.sampled.items() if name in names}
        return dataclasses.replace(self, layered=layered, sampled=sampled)

    def division(self, samples: int, limit: int, following: int = 0) -> Division:
        """Return the fastest way that fits into memory.

        Groups of parameters cost a forward pass and part of the backward passes each; blocks of samples cost
        all passes again for every pair.

        Args:
            samples: n.
            limit: bytes for the half of the matrix and everything that computes it.
            following: bytes per entry of the whole matrix that what is done with it takes, within the limit.

        Raises:
            IsoplastError: if there is none.
        """
        natural = max(1, min(samples, _PASS // max(1, self._graph + sum(u.passing for u in self.units))))
        passes = sorted({max(1, natural >> shift) for shift in (0, 1, 2, 4, 30)}, reverse=True)
        groups = [[unit] for unit in self.units]
        largest = max(unit.held for unit in self.units)

        def least(n: int) -> int:
            return max(self._needed(groups, n, 1, 1, 1), following * (n * self.outputs) ** 2)

        if least(samples) > limit:
            fitting = _largest(samples, lambda n: least(n) <= limit)
            advice = f"take at most {fitting} samples, or" if fitting else "use"
            raise IsoplastError(
                f"memory_limit={limit}: the NTK of {samples} samples x {self.outputs} outputs needs at least "
                f"{least(samples)} bytes ({least(samples) / 2**20:.0f} MiB): raise it, {advice} "
                "method='lanczos'"
            )
        whole = sum(nbytes(parameter) for parameter in self.parameters.values())
        for count in passes:
            for some in self._groupings():
                for checked in (whole, 1):
                    if self._needed(some, samples, samples, count, checked) <= limit:
                        return _division(some, samples, count, checked)
        for count in passes:
            free = limit - self._needed(groups, samples, 0, count, 1)
            size = free // (2 * max(1, largest))
            if size >= count:
                return _division(groups, size, count, 1)
        return _division(groups, 1, 1, 1)

    def _groupings(self) -> Iterator[list[list[Unit]]]:
        """Yield ways to group the units, from all at once to each alone."""
        whole, largest, last = sum(unit.held for unit in self.units), max(u.held for u in self.units), 0
        for count in range(1, len(self.units) + 1):
            groups: list[list[Unit]] = []
            room = 0
            for unit in self.units:
                if unit.held > room or not groups:
                    groups.append([])
                    room = max(largest, math.ceil(whole / count))
                groups[-1].append(unit)
                room -= unit.held
            if len(groups) > last:
                last = len(groups)
                yield groups

    @property
    def _graph(self) -> int:
        """Bytes of a sample's graph, and of what a pass through it carries."""
        return 3 * self.activations // 2

    def _needed(self, groups: list[list[Unit]], samples: int, size: int, passes: int, checked: int) -> int:
        """Return the bytes that it takes to compute half the matrix."""
        rows = samples * self.outputs
        most = 0
        for group in groups:
            held = (1 if size == samples else 2) * size * sum(unit.held for unit in group)
            truth = max(unit.largest for unit in group)
            if checked > 1:
                truth = sum(nbytes(self.parameters[name]) for unit in group for name in unit.names)
            step = passes * self._graph + max(truth, passes * sum(unit.passing for unit in group))
            if passes < samples:  # else what is differentiated is what is held
                step += held
            most = max(most, step, held + max(unit.work for unit in group))
        return half_bytes(rows, self.outputs) + 8 * samples**2 + most


def _division(groups: list[list[Unit]], size: int, passes: int, checked: int) -> Division:
    names = [tuple(name for unit in group for name in unit.names) for group in groups]
    return Division(names, size, min(size, passes), checked)


def nbytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's entries."""
    return tensor.numel() * tensor.element_size()


def in_chunks(parameters: Mapping[str, Tensor], most: int) -> Iterator[list[str]]:
    """Yield names of parameters that together take at most so many bytes, or the largest of them."""
    most = max([most, *(nbytes(parameter) for parameter in parameters.values())])
    held: list[str] = []
    room = most
    for name, parameter in parameters.items():
        if nbytes(parameter) > room:
            yield held
            held, room = [], most
        held.append(name)
        room -= nbytes(parameter)
    if held:
        yield held


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits; 0 if none does."""
    return bisect.bisect_left(range(1, most + 1), True, key=lambda number: not fits(number))


def plan(
    network: nn.Module,
    inputs: Any,
    parameters: dict[str, Tensor],
    method: str,
    without: Collection[str] = (),
) -> Plan:
    """Compare the layer-wise formula with autograd on up to two samples, parameter by parameter.

    Where they differ (a layer used as a function of its weight elsewhere, samples that are not the leading
    dimension, hooks that do something else) the formula does not apply.

    Args:
        network: in evaluation mode.
        inputs: a batch of n samples.
        parameters: those the kernel is about, by name.
        method: of :func:`ntk`.
        without: parameters known to have no formula.

    Raises:
        IsoplastError: for inputs that do not fit, a network whose samples influence each other, or
            method="layers" where a parameter has no formula.
    """
    few = take_samples(inputs, slice(0, 2))
    known = {name: parameter for name, parameter in parameters.items() if name not in without}
    uses = {} if method == "samples" else known_uses(network, known)
    counter = _Saved({parameter.untyped_storage().data_ptr() for parameter in network.parameters()})
    with (
        recorded({use.module for found in uses.values() for use in found}) as calls,
        torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda tensor: tensor),
    ):
        found = outputs(network, few)
    n = sample_count(few)
    check_outputs(network, found, few)
    width = found[0].numel()
    layered: dict[str, list[Use]] = {}
    activations = counter.bytes // n
    units: list[Unit] = []
    if found.requires_grad:
        layered, units = _verified(found, calls, uses, parameters)
    sampled = {name: parameter for name, parameter in parameters.items() if name not in layered}
    if sampled:
        if method == "layers":
            raise IsoplastError(
                f"method='layers': no layer-wise formula for {next(iter(sampled))!r}; use method='auto'"
            )
        entries = width * sum(nbytes(parameter) for parameter in sampled.values())
        units.append(Unit(tuple(sampled), entries, entries + width * activations, _WORK, 0))
    return Plan(layered, sampled, parameters, width, activations, units)


class _Saved:
    """Adds up what the graph keeps for the backward pass, each storage once."""

    def __init__(self, parameters: set[int]) -> None:
        self.bytes = 0
        self._known = set(parameters)

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            # A view of a few samples keeps the whole batch alive, but takes nothing of its own.
            self.bytes += min(storage.nbytes(), tensor.nbytes)
        # An operation that saves its own output would hold itself alive for good.
        return tensor.detach()


def _verified(
    found: Tensor, calls: list[Call], uses: dict[str, list[Use]], parameters: dict[str, Tensor]
) -> tuple[dict[str, list[Use]], list[Unit]]:
    """Return the parameters whose formula agrees with autograd, and what they take."""
    n = len(found)
    strange = {call.module for call in calls if not call.fits(n)}
    seen = signals([call for call in calls if call.module not in strange], found, _one_sample_each(found), n)
    known = {name: users for name, users in uses.items() if not any(use.module in strange for use in users)}
    wholes = [0.0] * n
    deviations: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
    takes: dict[str, _Bytes] = {}
    most = sum(nbytes(parameter) for parameter in parameters.values()) // 4
    for names in in_chunks(parameters, most):
        map_ = Linearised(found, [parameters[name] for name in names])
        terms = {name: term(known[name], seen) for name in names if name in known}
        takes |= {name: _bytes(name, one, found[0].numel()) for name, one in terms.items()}
        for index, cotangent in enumerate(_one_sample_each(found)):
            weights = torch.zeros(n, n, dtype=found.dtype, device=found.device)
            weights[index, index] = 1.0
            for name, truth in zip(names, map_.pull(cotangent), strict=True):
                norm = float(truth.norm())
                wholes[index] += norm**2
                if name in terms:
                    one = terms[name]
                    off = math.inf if norm else 0.0  # where the layers were not called at all
                    if one is not None:
                        off = float((one.sketch(weights, truth.shape) - sketch(truth)).norm())
                    deviations[name].append((norm, off))
            del truth  # before the next
    layered = {
        name: users
        for name, users in known.items()
        if all(
            agrees(off, norm, whole**0.5, found.dtype)
            for (norm, off), whole in zip(deviations[name], wholes, strict=True)
        )
    }
    modules = {name: {use.module for use in users} for name, users in layered.items()}
    return layered, [_unit(names, takes, parameters) for names in _together(modules)]


def _together(modules: dict[str, set[nn.Module]]) -> list[list[str]]:
    """Return names by layers: those that share one, over others too, are together."""
    found: list[tuple[list[str], set[nn.Module]]] = []
    for name, own in modules.items():
        shared = [one for one in found if one[1] & own]
        found = [one for one in found if not one[1] & own]
        names = [other for one, _ in shared for other in one]
        found.append(([*names, name], own.union(*(layers for _, layers in shared))))
    return [names for names, _ in found]


def _one_sample_each(found: Tensor) -> Iterator[Tensor]:
    """Yield random cotangents, each on the outputs of one sample."""
    generator = torch.Generator().manual_seed(0)
    for index in range(len(found)):
        cotangent = torch.zeros_like(found)
        draw = torch.randn(found[index].shape, generator=generator)
        cotangent[index] = draw.to(found)
        yield cotangent


@dataclasses.dataclass(frozen=True)
class _Bytes:
    """What the gradients of a parameter hold per sample, by tensor; what forms them; what multiplies them."""

    held: dict[object, int]
    forming: int
    work: int


def _bytes(name: str, one: Term | None, width: int) -> _Bytes:
    if one is None:
        return _Bytes({}, 0, 0)
    if isinstance(one, Explicit):
        size = width * one.gradients[0, 0].nbytes
        return _Bytes({name: size}, size, _WORK)
    inputs, signals = one.inputs[0].nbytes, width * one.signals[0, 0].nbytes
    gradients = width * one.signals.shape[3] * one.inputs[0, 0].nbytes
    if one.positions > 1 and gradients < inputs + signals:
        return _Bytes({name: gradients}, inputs + signals + gradients, _WORK)
    held: dict[object, int] = {(name, "inputs"): inputs, name if one.call is None else one.call: signals}
    entries = width * one.signals[0, 0].numel()
    work = _WORK if one.positions == 1 else 4 * 8 * max(CHUNK, entries)
    # Inputs of one position are the layer's own, others are copied. Signals of one output are compared.
    forming = signals // width + (inputs if one.positions > 1 else 0)
    return _Bytes(held, forming, work)


def _unit(names: list[str], takes: dict[str, _Bytes], parameters: dict[str, Tensor]) -> Unit:
    held: dict[object, int] = {}
    for name in names:
        held |= takes[name].held
    forming = max(takes[name].forming for name in names)
    return Unit(
        names=tuple(names),
        held=sum(held.values()),
        passing=sum(held.values()) + forming,
        work=max(takes[name].work for name in names),
        largest=max(nbytes(parameters[name]) for name in names),
    )
