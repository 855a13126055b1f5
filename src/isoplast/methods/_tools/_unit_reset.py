"""Making hidden units new, in place: fresh incoming rows, outgoing zeros, no optimizer state.

Everything is written through views of the parameters themselves: indexing that copies, as in
`weight[:, units].zero_()`, changes nothing, and is what several public implementations do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import LAYERS, is_orthogonal_by_construction
from isoplast.methods._tools._optimizer_state import memories
from isoplast.model import Probe, Slot, UnitGroup, feature_dim

_SCALES = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "alpha": 0.0}

_BLOCK = 2**16


@dataclasses.dataclass(frozen=True)
class Entries:
    """One tensor of a model and the entries in it that a group of units owns."""

    tensor: Tensor
    slot: Slot

    @property
    def name(self) -> str:
        """The tensor's name in the model."""
        return f"{self.slot.module}.{self.slot.tensor}"

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """A view, units first, of a tensor shaped like this one: the tensor itself, or state of it."""
        return self.slot.view(tensor)

    def fill_(self, units: Tensor, value: float) -> None:
        """Write one value to all entries of some units."""
        self.slot.view(self.tensor).index_fill_(0, units, value)

    def forget_(self, units: Tensor, optimizer: Optimizer) -> None:
        """Clear the optimizer's state of these entries, whatever the optimizer and its names for it.

        State with a size of one in other dimensions (factored second moments) is cleared too, state with
        one along this one cannot be. Counts of steps are one number for the whole tensor and stay. A state
        that is another copy of the weights gets the new weights.
        """
        for value, start in memories(optimizer, self.tensor):
            if value.shape[self.slot.dim] != self.tensor.shape[self.slot.dim]:
                continue
            if start is None:
                self[value][units] = self[self.tensor][units].to(value.dtype)
            else:
                self[value].index_fill_(0, units, start)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A layer that reads units: its weight, and what watches its input."""

    weight: Entries
    module: nn.Module
    probe: Probe

    def magnitudes(self) -> Tensor:
        """Return, for each input feature, the sum of the absolute weights that read it."""
        weight = self.weight.tensor
        if self.weight.slot.dim == 0:
            rows = weight.abs().flatten(1).sum(1)
            return rows.view(-1, self.weight.slot.inner // self.probe.inner).sum(1)
        return _column_sums(weight) if weight.dim() == 2 else weight.abs().flatten(2).sum((0, 2))

    def absorb_(self, units: Tensor, means: Tensor) -> None:
        """Move what units contribute on average into the bias: it is about to be taken away.

        Args:
            units: which, shape (n,).
            means: the means of what they give to this layer, shape (n, parts, inner). Linear layers keep
                their mean exactly, convolutions but for the padding at the borders, and a layer without
                a bias, or with a frozen one, absorbs nothing.
        """
        bias = self.module.bias
        if not isinstance(bias, Tensor) or _frozen(bias):
            return
        slot, weight = self.weight.slot, self.weight.tensor
        own = self.weight[weight][units]
        own = own.flatten(4).sum(4) if own.dim() > 4 else own
        means = means.to(weight.dtype)
        if slot.dim == 1:  # (n, out, parts, inner)
            bias.add_(torch.einsum("uopi,upi->o", own, means))
        else:  # depthwise: (n, parts, inner * multiplier, 1), each row with an output of its own
            multiplier = own.shape[2] // means.shape[2]
            slot.view(bias).index_add_(0, units, own.squeeze(3) * means.repeat_interleave(multiplier, 2))


class LiveUnits:
    """A group of units in a model, ready to be watched and reset.

    Args:
        group: the group.
        model: the network.
        state: the method's state, in whose "norms" are the root-mean-square norms of the rows of incoming
            weights when training began, by name; those that are missing are measured now.

    Raises:
        IsoplastError: for weights that are computed from others, which no reset can set, and for layers that
            may mix what different units own.
    """

    def __init__(self, group: UnitGroup, model: nn.Module, state: dict[str, Any]) -> None:
        self.group = group
        self.name = group.name
        self.size = group.size
        self.state = state
        self.incoming = [_entries(model, slot) for slot in group.incoming]
        self.scales = [Entries(slot.find(model), slot) for slot in group.norms]
        self.outgoing = [_entries(model, slot) for slot in group.outgoing]
        self.readers = [_reader(model, entries) for entries in self.outgoing]
        for entries in self.incoming:
            if entries.slot.tensor == "bias":
                continue
            rows = entries.tensor.detach().flatten(1)
            state.setdefault("norms", {}).setdefault(entries.name, rows.square().sum(1).mean().sqrt())

    @property
    def trainable(self) -> bool:
        """Whether all weights of the units are trained: frozen ones must stay, as frozen biases do."""
        weights = (e for e in (*self.incoming, *self.outgoing) if e.slot.tensor != "bias")
        return all(entries.tensor.requires_grad for entries in weights)

    def _renew(self, units: Tensor) -> None:
        """Draw the rows of units, and set their biases, scales and shifts to what they are at the start."""
        for entries in self.incoming:
            if entries.slot.tensor == "weight":
                view = entries[entries.tensor]
                view[units] = _directions(view[units]) * self.state["norms"][entries.name].to(view)
            elif not _frozen(entries.tensor):
                entries.fill_(units, 0.0)
        for entries in self.scales:
            if not _frozen(entries.tensor):
                entries.fill_(units, _SCALES[entries.slot.tensor])

    def _cut(self, units: Tensor) -> None:
        """Set the outgoing weights of units to zero."""
        for entries in self.outgoing:
            entries.fill_(units, 0.0)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that hold entries of its units."""
        return [entries.tensor for entries in (*self.incoming, *self.scales, *self.outgoing)]

    def _forget(self, units: Tensor, optimizer: Optimizer) -> None:
        for entries in (*self.incoming, *self.scales, *self.outgoing):
            entries.forget_(units, optimizer)


@torch.no_grad()
def reset_(chosen: Sequence[tuple[LiveUnits, Tensor]], optimizer: Optimizer) -> None:
    r"""Make units new, in place.

    Incoming rows are drawn as :math:`r\, x / |x|`, x standard normal and r the root-mean-square norm of the
    rows of that weight when training began. That is how the rows of an orthogonal matrix are distributed one
    by one, and very nearly those of the Kaiming and torch's default initialisations. Incoming biases become
    0, scales and shifts of normalisations 1 and 0, their running statistics 0 and 1, and outgoing columns
    exactly 0, also where the unit that reads is new as well: until they learn, the units change nothing.
    The optimizer's state of exactly these entries is cleared.

    Args:
        chosen: groups, and the numbers (n,), dtype long, of the units of each.
        optimizer: the optimizer of the weights.
    """
    for live, units in chosen:
        live._renew(units)
    for live, units in chosen:
        live._cut(units)
    for live, units in chosen:
        live._forget(units, optimizer)


def _column_sums(weight: Tensor) -> Tensor:
    """Return the sums of the absolute values of every column.

    On a CPU in blocks that stay in its cache and through one buffer: fresh memory for a copy of a large
    matrix costs more than the sums.
    """
    if not weight.is_cpu or weight.numel() <= _BLOCK:
        return weight.abs().sum(0)
    blocks = torch.split(weight.detach(), max(1, _BLOCK // weight.shape[1]))
    buffer = torch.empty_like(blocks[0])
    sums = [torch.abs(block, out=buffer[: len(block)]).sum(0) for block in blocks]
    return torch.stack(sums).sum(0)


def _directions(like: Tensor) -> Tensor:
    """Rows in random directions, of norm one; shaped (units, parts, 1, ...) as `like`, one row a part."""
    drawn: Tensor = torch.randn_like(like)
    norms: Tensor = torch.linalg.vector_norm(drawn.flatten(2), dim=2)
    return drawn / norms.view(*norms.shape, *[1] * (like.dim() - 2))


def _frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _entries(model: nn.Module, slot: Slot) -> Entries:
    module, tensor = model.get_submodule(slot.module), slot.find(model)
    hard = is_orthogonal_by_construction(tensor)
    if hard or not isinstance(tensor, nn.Parameter) or is_parametrized(module):
        raise IsoplastError(
            f"{slot.module}.{slot.tensor} is computed from other parameters, so its units cannot be reset: "
            "use plain layers, or a method that resets no units"
        )
    if not _applied_as_it_is(module):
        raise IsoplastError(
            f"{slot.module} ({type(module).__name__}) has a forward of its own, in which a column of zeros "
            "may not be one: use plain layers, or name the units of the others with methods.declare_units"
        )
    return Entries(tensor, slot)


def _applied_as_it_is(layer: nn.Module) -> bool:
    """Whether a layer applies its weight as it stands: it may also standardise or mask it."""
    kind = next(kind for kind in LAYERS if isinstance(layer, kind))
    steps = ("forward", "_conv_forward")
    return all(getattr(type(layer), step, None) is getattr(kind, step, None) for step in steps)


def _reader(model: nn.Module, entries: Entries) -> Reader:
    module, slot = model.get_submodule(entries.slot.module), entries.slot
    multiplier = 1
    if slot.dim == 0:
        multiplier = module.out_channels // module.in_channels  # type: ignore[operator, assignment]
    probe = Probe(slot.module, "input", feature_dim(module), slot.parts, slot.inner // multiplier)
    return Reader(entries, module, probe)
