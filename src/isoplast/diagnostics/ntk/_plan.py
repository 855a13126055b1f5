"""Which formula serves which parameter, found out on two samples, and how much memory a sample takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics.ntk._layers import Call, Seen, Use, known_uses, recorded, signals, term
from isoplast.diagnostics.ntk._terms import CHUNK, Explicit, Outer
from isoplast.model import outputs, refuse_batch_statistics, sample_count, take_samples


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the kernel of one network on one batch is computed.

    Attributes:
        layered: parameters served by the layer-wise formula, with their layers.
        sampled: parameters that need gradients sample by sample.
        outputs: C, the number of outputs of a sample.
        per_sample: bytes that one more sample in a block takes at most.
    """

    layered: dict[str, list[Use]]
    sampled: dict[str, nn.Parameter]
    outputs: int
    per_sample: int

    @property
    def modules(self) -> set[nn.Module]:
        """The layers to record."""
        return {use.module for uses in self.layered.values() for use in uses}

    def block_size(self, samples: int, limit: int) -> int:
        """Return how many samples fit into memory at a time.

        Raises:
            IsoplastError: if not even one does.
        """
        fixed = fixed_bytes(samples * self.outputs)
        if fixed + samples * self.per_sample <= limit:
            return samples
        size = (limit - fixed) // (2 * self.per_sample)  # every pair of blocks meets
        if size >= 1:
            return int(size)
        needed = fixed + 2 * self.per_sample
        fitting = _largest(limit - 2 * self.per_sample, self.outputs)
        advice = f"take at most {fitting} samples, or" if fitting else "use"
        raise IsoplastError(
            f"memory_limit={limit}: the NTK of {samples} samples x {self.outputs} outputs needs at least "
            f"{needed} bytes ({needed / 2**20:.0f} MiB): raise it, {advice} method='lanczos'"
        )


def fixed_bytes(rows: int) -> int:
    """Return the memory for the matrix, its products, its eigenvalues, and chunks in float64."""
    return 4 * 8 * rows**2 + 6 * 8 * CHUNK


def _largest(limit: int, outputs: int) -> int:
    """Return how many samples' matrix fits."""
    room = (limit - fixed_bytes(0)) / (4 * 8)
    return int(math.sqrt(room) / outputs) if room > 0 else 0


def plan(network: nn.Module, inputs: Any, parameters: dict[str, nn.Parameter], method: str) -> Plan:
    """Compare the layer-wise formula with autograd on up to two samples, parameter by parameter.

    Where they differ (a layer used as a function of its weight elsewhere, samples that are not the leading
    dimension, hooks that do something else) the formula does not apply.

    Raises:
        IsoplastError: for inputs that do not fit, a network whose samples influence each other, or
            method="layers" where a parameter has no formula.
    """
    few = take_samples(inputs, slice(0, 2))
    uses = {} if method == "samples" else known_uses(network, parameters)
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
    bytes_held = 0
    if found.requires_grad:
        layered, bytes_held = _verified(found, calls, uses, parameters, width)
    sampled = {name: parameter for name, parameter in parameters.items() if name not in layered}
    if sampled and method == "layers":
        raise IsoplastError(
            f"method='layers': no layer-wise formula for {next(iter(sampled))!r}; use method='auto'"
        )
    itemsize = found.element_size()
    bytes_held += width * itemsize * sum(parameter.numel() for parameter in sampled.values())
    activations = counter.bytes // n
    per_sample = 2 * activations + bytes_held
    if sampled:
        per_sample += width * activations
    return Plan(layered, sampled, width, per_sample)


def check_outputs(network: nn.Module, found: Tensor, few: Any) -> None:
    """Refuse outputs without a row per sample, and samples that see each other."""
    n = sample_count(few)
    if not found.is_floating_point() or found.dim() == 0 or len(found) != n or found.numel() == 0:
        raise IsoplastError(
            f"the model returns {found.dtype} of shape {tuple(found.shape)} for {n} samples: "
            "it must return numbers with one row per sample"
        )
    refuse_batch_statistics(network)
    if n > 1:
        with torch.no_grad():
            alone = outputs(network, take_samples(few, slice(0, 1)))
        scale = found[:1].detach().norm()
        # Kernels for other batch sizes round differently; a batch statistic changes far more.
        if float((alone - found[:1].detach()).norm()) > 10 * torch.finfo(found.dtype).eps ** 0.5 * float(
            scale
        ):
            raise IsoplastError("the outputs of a sample depend on the other samples of its batch")


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
        return tensor


def _verified(
    found: Tensor,
    calls: list[Call],
    uses: dict[str, list[Use]],
    parameters: dict[str, nn.Parameter],
    width: int,
) -> tuple[dict[str, list[Use]], int]:
    """Return the parameters whose formula agrees with autograd, and the bytes per sample it holds."""
    n = len(found)
    strange = {call.module for call in calls if not _fits(call, n)}
    sound = [call for call in calls if call.module not in strange]
    cotangents = list(_one_sample_each(found))
    seen = signals(sound, found, iter(cotangents), n)
    tensors = list(parameters.values())
    truth = [
        torch.autograd.grad(found, tensors, cotangent, retain_graph=True, allow_unused=True)
        for cotangent in cotangents
    ]
    layered = {}
    held = sum(width * one.signals[0, 0].nbytes for one in seen)
    largest = 0
    for index, (name, parameter) in enumerate(parameters.items()):
        users = uses.get(name)
        if users is None or any(use.module in strange for use in users):
            continue
        exact = [torch.zeros_like(parameter) if row[index] is None else row[index] for row in truth]
        if _agrees(users, seen, exact):
            layered[name] = users
            size, passing = _bytes(users, seen, width)
            held += size
            largest = max(largest, passing)
    return layered, held + largest


def _fits(call: Call, n: int) -> bool:
    """Whether a call has a whole number of rows per sample, in its inputs as in its outputs."""
    spatial = getattr(call.module, "kernel_size", None)
    batched = spatial is None or call.inputs.dim() == len(spatial) + 2
    return (
        batched and len(call.shape) > 0 and call.shape[0] % n == 0 and call.inputs.shape[0] == call.shape[0]
    )


def _one_sample_each(found: Tensor) -> Iterator[Tensor]:
    """Yield random cotangents, each on the outputs of one sample."""
    generator = torch.Generator().manual_seed(0)
    for index in range(len(found)):
        cotangent = torch.zeros_like(found)
        draw = torch.randn(found[index].shape, generator=generator)
        cotangent[index] = draw.to(found)
        yield cotangent


def _agrees(users: list[Use], seen: list[Seen], exact: list[Any]) -> bool:
    one = term(users, seen)
    if one is None:
        return all(not bool(gradient.any()) for gradient in exact)
    gradients = (one.explicit() if isinstance(one, Outer) else one).gradients
    for index, expected in enumerate(exact):
        own = gradients[index, index]
        # Rounding of two ways to add up; a wrong formula is off by its own size.
        allowed = 10 * torch.finfo(own.dtype).eps ** 0.5 * float(expected.norm())
        if not float((own - expected.flatten()).norm()) <= allowed:
            return False
    return True


def _bytes(users: list[Use], seen: list[Seen], width: int) -> tuple[int, int]:
    """Return the bytes per sample of one parameter's gradients: kept, and while they are being made."""
    one = term(users, seen)
    if one is None:
        return 0, 0
    if isinstance(one, Explicit):
        return width * one.gradients[0, 0].nbytes, 0
    size = one.inputs[0].nbytes + width * one.signals[0, 0].nbytes
    gradients = width * one.signals.shape[3] * one.inputs[0, 0].nbytes
    return min(size, gradients), size
