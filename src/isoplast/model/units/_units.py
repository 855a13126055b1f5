"""The hidden units of a network: which weights make each of them, and which weights read it.

A unit is one entry of a hidden layer. Everything that resets units needs to know the rows of weights that
compute it, the columns of weights that read it, and where to watch its activation; `trace_units` finds them
by following the computation (see `_trace`), and `declare_units` takes them from the user.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.model._preserve_state import unwrap
from isoplast.model.units._groups import CONVOLUTIONS, Probe, Slot, UnitGroup, Units
from isoplast.model.units._trace import follow

__all__ = ["Probe", "Slot", "UnitGroup", "Units", "declare_units", "head_name", "trace_units"]

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


def head_name(model: nn.Module) -> str:
    """Return the qualified name of the layer that produces the outputs.

    It is the module `head` if there is one, else the last linear layer (or convolution, without any).

    Raises:
        IsoplastError: for a model without such a layer.

    Example:
        >>> head_name(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        '2'
    """
    model = unwrap(model)
    if isinstance(getattr(model, "head", None), nn.Module):
        return "head"
    kinds: type | tuple[type, ...]
    for kinds in (nn.Linear, CONVOLUTIONS):
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        if names:
            return str(names[-1])
    raise IsoplastError(f"{type(model).__name__} has no linear layer: name its output layer `head`")
