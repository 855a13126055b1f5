"""What a hidden unit owns: the rows of weights that make it, the columns that read it, where to watch it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.layer_kinds import BATCH_NORMS, CONVOLUTIONS
from isoplast.model._preserve_state import unwrap


@dataclasses.dataclass(frozen=True)
class Slot:
    """The entries of one tensor that belong to a group of units.

    Along `dim` the tensor is a block of parts x size x inner entries, in this order, for the `size` units of
    the group: unit u owns the entries (p * size + u) * inner + i for all p < parts and i < inner. A channel
    that is flattened into many columns has inner > 1; an activation that returns two features for each, or
    sorts two of them, has parts > 1.

    Args:
        module: qualified name of the module that owns the tensor.
        tensor: name of the parameter or buffer in it.
        dim: the dimension along which the units lie.
        parts: blocks of units along that dimension, >= 1.
        inner: entries of one unit side by side, >= 1.
    """

    module: str
    tensor: str
    dim: int = 0
    parts: int = 1
    inner: int = 1

    def find(self, model: nn.Module) -> Tensor:
        """Return the tensor itself."""
        found: Tensor = getattr(model.get_submodule(self.module), self.tensor)
        return found

    def view(self, tensor: Tensor) -> Tensor:
        """Return a view of a tensor of that shape whose first dimension is the units."""
        size = tensor.shape[self.dim] // (self.parts * self.inner)
        return tensor.unflatten(self.dim, (self.parts, size, self.inner)).movedim(self.dim + 1, 0)  # type: ignore[no-untyped-call, no-any-return]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A place where the activations of units can be watched.

    Args:
        module: qualified name of the module to hook.
        side: whether its "output" or its first "input" is the activation.
        dim: the dimension of the features, counted from the end (-1 for (..., features)).
        parts, inner: how the units lie along it, see `Slot`.
    """

    module: str
    side: Literal["input", "output"]
    dim: int = -1
    parts: int = 1
    inner: int = 1

    def other_dims(self, values: Tensor) -> tuple[int, ...]:
        """Return the dimensions of a watched tensor that are not the features'."""
        rank = values.dim()
        return (0,) if rank == 2 and self.dim == -1 else tuple(d for d in range(rank) if d != rank + self.dim)

    def units_first(self, features: Tensor) -> Tensor:
        """Return numbers (features,) as a view (size, parts, inner)."""
        return features.view(self.parts, -1, self.inner).transpose(0, 1)


@dataclasses.dataclass(frozen=True)
class UnitGroup:
    """The units of one hidden layer, aligned in everything that writes and reads them.

    Args:
        name: what the group is called: the (last) activation module, else the module that makes the units.
        size: number of units. One unit of a sorting activation (MaxMin, GroupSort) is a whole sorted group.
        activations: qualified names of the activation modules, in the order of their calls; "" stands for a
            function such as `F.relu`. More than one: the units are channels of a residual stream.
        incoming: weights and biases of which a unit owns rows: all that write it.
        norms: scales, shifts and running statistics of normalisations on the way.
        outgoing: weights of which a unit owns columns: all that read it.
        probes: where its activation can be watched.
        mixed: whether a normalisation over the units stands on the way, so that a change of one unit moves
            the others a little.
        expansion: features after the activation for one before it.
        members: rows of one unit: 1, or the size of the sorted groups.
        kind: "hidden" behind a nonlinearity, or "value" for the values of attention.
    """

    name: str
    size: int
    activations: tuple[str, ...]
    incoming: tuple[Slot, ...]
    norms: tuple[Slot, ...]
    outgoing: tuple[Slot, ...]
    probes: tuple[Probe, ...]
    mixed: bool = False
    expansion: int = 1
    members: int = 1
    kind: Literal["hidden", "value"] = "hidden"

    @property
    def activation(self) -> str:
        """The qualified name of the (last) activation module; "" where a function does it."""
        return self.activations[-1] if self.activations else ""

    @property
    def producers(self) -> tuple[str, ...]:
        """Names of the modules whose weights write the units."""
        return tuple(dict.fromkeys(slot.module for slot in self.incoming))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Names of the modules whose weights read the units."""
        return tuple(dict.fromkeys(slot.module for slot in self.outgoing))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        producer: str,
        consumer: str,
        activation: str | None = None,
        norm: str | None = None,
    ) -> UnitGroup:
        """Declare by hand the units between two layers.

        Args:
            model: the network.
            producer: name of the linear or convolution layer that makes the units.
            consumer: name of the one that reads them; if it has more inputs, a multiple, these are the
                flattened positions of a channel.
            activation: name of the activation module between them, to be watched; None: the input of the
                consumer is.
            norm: name of a normalisation with one scale per unit between producer and activation.

        Raises:
            IsoplastError: for an unknown name, a module of another kind, or sizes that do not fit.

        Example:
            >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> UnitGroup.of(net, producer="0", consumer="2", activation="1").size
            8
        """
        made, read = _module(model, producer), _module(model, consumer)
        size, inputs = _width(producer, made, "out"), _width(consumer, read, "in")
        if inputs % size:
            raise IsoplastError(
                f"{producer} makes {size} units but {consumer} reads {inputs} inputs: "
                "declare layers that follow each other"
            )
        inner = inputs // size
        norms = () if norm is None else slots_of_norm(norm, _module(model, norm), 1, 1)
        probe = Probe(consumer, "input", feature_dim(read), 1, inner)
        if activation is not None:
            _module(model, activation)
            probe = Probe(activation, "output", feature_dim(made))
        return cls(
            name=activation or producer,
            size=size,
            activations=(activation or "",),
            incoming=slots_of_rows(producer, made),
            norms=norms,
            outgoing=(Slot(consumer, "weight", 1, 1, inner),),
            probes=(probe,),
            mixed=norm is not None and mixes(_module(model, norm)),
        )


class Units(list[UnitGroup]):
    """The groups of units of a network; printing it shows what was found and what was left out, and why.

    Attributes:
        left_out: activations whose units cannot be told apart from others, each with the reason.
    """

    def __init__(self, groups: Iterable[UnitGroup], left_out: dict[str, str] | None = None) -> None:
        super().__init__(groups)
        self.left_out = left_out or {}

    def __str__(self) -> str:
        lines = [
            f"{group.name}: {group.size} units, written by {', '.join(group.producers)}, "
            f"read by {', '.join(group.consumers)}"
            for group in self
        ]
        return "\n".join(lines + [f"{name}: left out, {reason}" for name, reason in self.left_out.items()])


def feature_dim(module: nn.Module) -> int:
    """The dimension of the features of a layer's inputs and outputs, from the end."""
    return -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # type: ignore[arg-type]


def slots_of_rows(name: str, module: nn.Module) -> tuple[Slot, ...]:
    """What a unit owns of the layer that writes it."""
    rows = (Slot(name, "weight"),)
    return rows if module.bias is None else (*rows, Slot(name, "bias"))


def slots_of_norm(name: str, module: nn.Module, parts: int, inner: int) -> tuple[Slot, ...]:
    """What a unit owns of a normalisation: scale, shift, running statistics."""
    tensors = ("weight", "bias", "running_mean", "running_var")
    present = [tensor for tensor in tensors if isinstance(getattr(module, tensor, None), Tensor)]
    return tuple(Slot(name, tensor, 0, parts, inner) for tensor in present)


def mixes(norm: nn.Module) -> bool:
    """Whether a normalisation takes its statistics over several units."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups < norm.num_channels
    return not isinstance(norm, BATCH_NORMS)


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = dict(unwrap(model).named_modules())
    if name not in modules:
        raise unknown("module", name, modules)
    found: nn.Module = modules[name]
    return found


def _width(name: str, module: nn.Module, side: Literal["in", "out"]) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, CONVOLUTIONS) and module.groups == 1:
        return module.in_channels if side == "in" else module.out_channels
    raise IsoplastError(
        f"{name} is {type(module).__name__}: units lie between linear layers and convolutions of one group"
    )
