"""The hidden units of a network: which weights make each of them, and which weights read it.

A unit is one entry of a hidden layer. Everything that resets units needs to know the rows of weights that
compute it, the columns of weights that read it, and where to watch its activation; `trace_units` finds them
by following the computation (see `_trace`), and `declare_units` takes them from the user.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import heads
from isoplast.model._preserve_state import unwrap
from isoplast.model.units._groups import Probe, Slot, UnitGroup, Units
from isoplast.model.units._trace import follow

__all__ = ["Probe", "Slot", "UnitGroup", "Units", "declare_units", "head_name", "head_names", "trace_units"]

DECLARED = "isoplast_units"
"""The attribute of a model that holds the units its user has declared."""


def trace_units(model: nn.Module) -> Units:
    """Find the hidden units of a network by following its computation.

    Units are followed through normalisations, pooling, flattening, dropout, scaling, gating and residual
    sums; the channels of a residual stream that passes a nonlinearity are one group with everything that
    writes and reads them. The values of attention, written by the value rows and read by the columns of
    the output projection, are groups as well (kind "value").

    Args:
        model: any module; what was declared with `declare_units` comes first.

    Returns:
        The groups, in the order of their activations, and what was left out.

    Raises:
        IsoplastError: for a model that cannot be traced, naming the module.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(trace_units(net))
        1: 8 units, written by 0, read by 2
    """
    model = unwrap(model)
    declared = getattr(model, DECLARED, None)
    return Units(declared) if declared is not None else follow(model)


def declare_units(model: nn.Module, groups: Iterable[UnitGroup]) -> nn.Module:
    """Tell the methods which units a network has, where tracing does not find them.

    Args:
        model: the network, which keeps the declaration and is returned.
        groups: its groups of units, made by `UnitGroup.of`.

    Raises:
        IsoplastError: for no group at all.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = declare_units(net, [UnitGroup.of(net, producer="0", consumer="2", activation="1")])
        >>> trace_units(net)[0].name
        '1'
    """
    found = tuple(groups)
    if not found:
        raise IsoplastError("declare_units got no group: name at least one, made by UnitGroup.of")
    setattr(unwrap(model), DECLARED, found)
    return model


def head_names(model: nn.Module) -> list[str]:
    """Return the qualified names of the layers that produce the outputs, several for an actor-critic.

    A module called `head` counts with all that is in it; see `isoplast._core.layer_kinds.heads`.

    Raises:
        IsoplastError: for a model without a linear layer or convolution.

    Example:
        >>> head_names(nn.ModuleDict({"actor": nn.Linear(8, 2), "critic": nn.Linear(8, 1)}))
        ['actor', 'critic']
    """
    model = unwrap(model)
    found = heads(model)
    if not found:
        raise IsoplastError(f"{type(model).__name__} has no linear layer: name its output layer `head`")
    return [head.name for head in found]


def head_name(model: nn.Module) -> str:
    """Return the qualified name of the one layer that produces the outputs.

    Raises:
        IsoplastError: for a model without such a layer, or with several: see `head_names`.

    Example:
        >>> head_name(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        '2'
    """
    names = head_names(model)
    if len(names) > 1:
        raise IsoplastError(
            f"{type(unwrap(model)).__name__} has several output layers ({', '.join(names)}): use head_names"
        )
    return names[0]
