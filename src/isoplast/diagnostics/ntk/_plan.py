"""Which formula serves which parameter, found out on two samples, and how much memory a sample takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._linear import Linearised
from isoplast.diagnostics._outputs import check_outputs
from isoplast.diagnostics.ntk._gram import CHUNK
from isoplast.diagnostics.ntk._layers import Call, Seen, Use, known_uses, recorded, signals, term
from isoplast.diagnostics.ntk._terms import Explicit, Outer, Term, agree, whole_norm
from isoplast.model import outputs, sample_count, take_samples

# Bytes for the derivatives of a pass: part of what is counted as chunks in float64.
_PASS = 2 * 8 * CHUNK


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the kernel of one network on one batch is computed.

    Attributes:
        layered: parameters served by the layer-wise formula, with their layers.
        sampled: parameters that need gradients sample by sample.
        parameters: all of them.
        outputs: C, the number of outputs of a sample.
        activations: bytes that the graph of one more sample keeps.
        held: bytes of gradients that one more sample in a block takes.
        passing: bytes that one more sample takes while it is differentiated.
    """

    layered: dict[str, list[Use]]
    sampled: dict[str, Tensor]
    parameters: dict[str, Tensor]
    outputs: int
    activations: int
    held: int
    passing: int

    @property
    def modules(self) -> set[nn.Module]:
        """The layers to record."""
        return {use.module for uses in self.layered.values() for use in uses}

    def block_size(self, samples: int, limit: int) -> int:
        """Return how many samples fit into memory at a time.

        Raises:
            IsoplastError: if not even one does.
        """
        fixed = fixed_bytes(samples * self.outputs) + self.passing
        if fixed + samples * self.held <= limit:
            return samples
        size = (limit - fixed) // (2 * max(1, self.held))  # every pair of blocks meets
        if size >= 1:
            return int(size)
        needed = fixed + 2 * self.held
        fitting = _largest(limit - needed + fixed_bytes(samples * self.outputs), self.outputs)
        advice = f"take at most {fitting} samples, or" if fitting else "use"
        raise IsoplastError(
            f"memory_limit={limit}: the NTK of {samples} samples x {self.outputs} outputs needs at least "
            f"{needed} bytes ({needed / 2**20:.0f} MiB): raise it, {advice} method='lanczos'"
        )

    def pass_size(self, samples: int) -> int:
        """Return how many of the samples of a block are differentiated at a time."""
        return max(1, min(samples, _PASS // max(1, self.passing)))


def fixed_bytes(rows: int) -> int:
    """Return the memory for the matrix, its products, its eigenvalues, and chunks in float64."""
    return 4 * 8 * rows**2 + 6 * 8 * CHUNK


def _largest(limit: int, outputs: int) -> int:
    """Return how many samples' matrix fits."""
    room = (limit - fixed_bytes(0)) / (4 * 8)
    return int(math.sqrt(room) / outputs) if room > 0 else 0


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
    held, passing = 0, 2 * activations
    if found.requires_grad:
        layered, held, formed = _verified(found, calls, uses, parameters, width)
        passing += formed
    sampled = {name: parameter for name, parameter in parameters.items() if name not in layered}
    if sampled:
        if method == "layers":
            raise IsoplastError(
                f"method='layers': no layer-wise formula for {next(iter(sampled))!r}; use method='auto'"
            )
        entries = width * found.element_size() * sum(parameter.numel() for parameter in sampled.values())
        held += entries
        passing += entries + width * activations
    return Plan(layered, sampled, parameters, width, activations, held, passing)


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
    found: Tensor,
    calls: list[Call],
    uses: dict[str, list[Use]],
    parameters: dict[str, Tensor],
    width: int,
) -> tuple[dict[str, list[Use]], int, int]:
    """Return the parameters whose formula agrees with autograd, and the bytes per sample of all their
    gradients and of what it takes to form them.
    """
    n = len(found)
    strange = {call.module for call in calls if not call.fits(n)}
    sound = [call for call in calls if call.module not in strange]
    cotangents = list(_one_sample_each(found))
    seen = signals(sound, found, iter(cotangents), n)
    map_ = Linearised(found, list(parameters.values()))
    truth = [map_.pull(cotangent) for cotangent in cotangents]
    wholes = [whole_norm(row) for row in truth]
    layered = {}
    held: dict[object, int] = {}
    largest = 0
    for index, name in enumerate(parameters):
        users = uses.get(name)
        if users is None or any(use.module in strange for use in users):
            continue
        if _agrees(users, seen, [row[index] for row in truth], wholes):
            layered[name] = users
            one = term(users, seen)
            if one is not None:
                sizes, formed = _bytes(name, one, width)
                held |= sizes
                largest = max(largest, formed)
    passing = sum(width * one.signals[0, 0].nbytes for one in seen) + largest
    return layered, sum(held.values()), passing


def _one_sample_each(found: Tensor) -> Iterator[Tensor]:
    """Yield random cotangents, each on the outputs of one sample."""
    generator = torch.Generator().manual_seed(0)
    for index in range(len(found)):
        cotangent = torch.zeros_like(found)
        draw = torch.randn(found[index].shape, generator=generator)
        cotangent[index] = draw.to(found)
        yield cotangent


def _agrees(users: list[Use], seen: list[Seen], exact: list[Tensor], wholes: list[float]) -> bool:
    one = term(users, seen)
    if one is None:
        return all(not bool(gradient.any()) for gradient in exact)
    gradients = (one.explicit() if isinstance(one, Outer) else one).gradients
    pairs = enumerate(zip(exact, wholes, strict=True))
    return all(agree(gradients[i, i], expected, whole) for i, (expected, whole) in pairs)


def _bytes(name: str, one: Term, width: int) -> tuple[dict[object, int], int]:
    """Return the bytes per sample that one parameter's gradients hold, by tensor, and what forms them."""
    if isinstance(one, Explicit):
        size = width * one.gradients[0, 0].nbytes
        return {name: size}, size
    inputs, signals = one.inputs[0].nbytes, width * one.signals[0, 0].nbytes
    gradients = width * one.signals.shape[3] * one.inputs[0, 0].nbytes
    if one.positions > 1 and gradients < inputs + signals:
        return {name: gradients}, inputs + gradients
    return {(name, "inputs"): inputs, name if one.call is None else one.call: signals}, inputs
