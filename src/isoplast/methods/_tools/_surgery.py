"""Changing the architecture of a finished network: other activations, normalisations, wider layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import LAYERS
from isoplast.methods._protocol import Method
from isoplast.model import UnitGroup, feature_dim, graph_of, trace_units

_OUTPUTS = "outputs of the network"


@dataclasses.dataclass(frozen=True)
class Hidden:
    """One hidden activation: one call of its module.

    Args:
        name: qualified name of its module, which may serve several layers.
        features: number of features it gets.
        dim: their dimension, from the end.
        calls: how often its module is called in one pass.
        group: its units.
    """

    name: str
    features: int
    dim: int
    calls: int
    group: UnitGroup


def hidden_activations(method: Method, model: nn.Module) -> list[Hidden]:
    """Find the hidden activations of a network, in the order of the computation.

    Args:
        method: who asks, for the error message.
        model: any network that `trace_units` can follow.

    Raises:
        IsoplastError: for an activation that is a function call, one whose units cannot be followed, and a
            network without any. Activations of the outputs are left alone.
    """
    units = trace_units(model)
    for name, reason in units.left_out.items():
        if _OUTPUTS not in reason:
            raise IsoplastError(
                f"method {method.name} cannot take the activation of {name or 'the network'}: {reason}; "
                "declare the units with methods.declare_units, or build the network with what it needs"
            )
    groups = [group for group in units if group.kind == "hidden"]
    names = [name for group in groups for name in group.activations]
    if "" in names:
        group = next(group for group in groups if "" in group.activations)
        raise IsoplastError(
            f"method {method.name} replaces modules, and the activation behind {group.producers[0]} is a "
            "function call: write it as a module, such as torch.nn.ReLU()"
        )
    if not names:
        raise IsoplastError(
            f"method {method.name} found no hidden activation in {type(model).__name__}: "
            "there is nothing it could change"
        )
    return [
        Hidden(name, group.size * group.members, _dim(model, group, name), names.count(name), group)
        for group in groups
        for name in group.activations
    ]


def _dim(model: nn.Module, group: UnitGroup, name: str) -> int:
    watched = [probe.dim for probe in group.probes if (probe.module, probe.side) == (name, "output")]
    return watched[0] if watched else feature_dim(model.get_submodule(group.producers[0]))


def own(method: Method, hidden: Hidden) -> Hidden:
    """Return a hidden activation, or raise if its module serves several layers."""
    if hidden.calls > 1:
        raise IsoplastError(
            f"method {method.name} gives every layer parameters of its own, and {hidden.name} serves "
            f"{hidden.calls} layers: give each of them a module of its own"
        )
    return hidden


def one_dim(method: Method, found: Sequence[Hidden]) -> None:
    """Raise where one module acts on layers whose features lie in different dimensions."""
    dims: dict[str, int] = {}
    for hidden in found:
        if dims.setdefault(hidden.name, hidden.dim) != hidden.dim:
            raise IsoplastError(
                f"method {method.name} acts along the features, and {hidden.name} serves layers whose "
                "features lie in different dimensions: give each of them a module of its own"
            )


def keeps_width(method: Method, hidden: Hidden, name: str) -> None:
    """Raise for an activation that doubles its features: the next layer would not fit any more."""
    if hidden.group.expansion != 1:
        raise IsoplastError(
            f"method {method.name} keeps the number of features, and {hidden.name} multiplies it by "
            f"{hidden.group.expansion}: build the network with activation={name!r}"
        )


def replace_(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put other modules in the place of some, wherever they occur; the new ones take device and mode over.

    Args:
        model: the network, changed in place and returned.
        swaps: old module -> new module.
    """
    reference = next(model.parameters())
    for old, new in swaps.items():
        new.to(reference.device, reference.dtype).train(old.training)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() shows a shared module once
            if child is not None and child in swaps and parent not in swaps.values():
                parent._modules[name] = swaps[child]
    return model


def readers(method: Method, model: nn.Module, hidden: Hidden) -> list[nn.Module]:
    """The layers that read a hidden activation, which must be such that they can be made wider.

    Raises:
        IsoplastError: for one that cannot, naming it and what would work.
    """
    group = hidden.group
    stream = len(group.producers) > 1 or len(group.activations) > 1
    if stream or group.members > 1 or group.expansion > 1:
        reason = "is added to other features of the old width" if stream else "is no plain layer of units"
        raise IsoplastError(
            f"method {method.name} doubles the features behind {hidden.name}, which {reason}: "
            f"build the network with activation={method.name!r}"
        )
    _no_norm_behind(method, model, hidden)
    for slot in group.outgoing:
        layer = model.get_submodule(slot.module)
        plain = type(layer) in LAYERS and getattr(layer, "groups", 1) == 1 and slot.dim == 1
        if not plain or slot.parts != 1 or _shared(model, slot.find(model)):
            raise IsoplastError(
                f"method {method.name} doubles the features behind {hidden.name}, and {slot.module} "
                f"({type(layer).__name__}) cannot be made wider: build the network with "
                f"activation={method.name!r}"
            )
    return [model.get_submodule(slot.module) for slot in group.outgoing]


def _no_norm_behind(method: Method, model: nn.Module, hidden: Hidden) -> None:
    order = [str(node.target) for node in graph_of(model).nodes if node.op == "call_module"]
    # A module that serves several layers is called behind each of them.
    behind = order[order.index(hidden.name, order.index(hidden.group.producers[0])) :]
    late = next((slot.module for slot in hidden.group.norms if slot.module in behind), None)
    if late is not None:
        raise IsoplastError(
            f"method {method.name} doubles the features behind {hidden.name}, and the normalisation {late} "
            "has the old width: put it in front of the activation"
        )


def _shared(model: nn.Module, weight: Tensor) -> bool:
    return sum(other is weight for _, other in model.named_parameters(remove_duplicate=False)) > 1


@torch.no_grad()
def widen_(layer: nn.Module) -> None:
    """Let a linear layer or convolution read twice as many features, by a fresh weight of the same kind.

    The bias stays. See `_another` for the weight.
    """
    old: Tensor = layer.weight  # type: ignore[assignment]
    shape = (old.shape[0], 2 * old.shape[1], *old.shape[2:])
    layer.weight = nn.Parameter(_another(old, shape), requires_grad=old.requires_grad)
    name = "in_features" if isinstance(layer, nn.Linear) else "in_channels"
    setattr(layer, name, shape[1])


def _another(old: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An initial weight of another width: orthogonal if the old one is, on the taps it uses, else torch's."""
    new = old.new_zeros(shape)
    kernels = old.flatten(2) if old.dim() > 2 else old.unsqueeze(2)
    taps = (kernels != 0).flatten(0, 1).any(0)
    matrix = kernels[:, :, taps].flatten(1)
    if not matrix.numel():
        return new
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    square = gram.diagonal().mean()
    # QR in float32 leaves 1e-6; independent entries leave 1 / sqrt(n) > 1e-2 for any layer there is.
    if (gram - square * torch.eye(len(gram)).to(gram)).abs().max() <= 1e-4 * square:
        block = nn.init.orthogonal_(old.new_empty(shape[0], shape[1] * int(taps.sum())), float(square.sqrt()))
        view = new.flatten(2) if old.dim() > 2 else new.unsqueeze(2)
        view[:, :, taps] = block.view(*shape[:2], -1)
        return new
    bound = new[0].numel() ** -0.5
    return nn.init.uniform_(new, -bound, bound)
