"""The graph of a model's computation, by torch.fx, down to layers and nonlinearities."""

from __future__ import annotations

import contextlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch.fx
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import ACTIVATION_MODULES, LAYERS, NORMALISATIONS
from isoplast.nn import Attention

_LEAVES = (*LAYERS, *NORMALISATIONS, *ACTIVATION_MODULES, Attention)


def graph_of(model: nn.Module) -> torch.fx.Graph:
    """Return the graph of a model whose modules of torch, layers, nonlinearities and attention stay whole.

    Raises:
        IsoplastError: for a model that cannot be traced, naming the innermost module that cannot.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    # A default decides branches such as `if mask is None`, which a stand-in would answer wrongly.
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    tracer = _Tracer()
    try:
        with _without_hooks(model):
            return tracer.trace(model, concrete_args=defaults)
    except Exception as error:
        # Any line of a stranger's forward may fail on a stand-in for a tensor, with any error.
        where = tracer.where[-1] if tracer.where else ""
        reason = str(error).strip().partition("\n")[0]
        raise IsoplastError(
            f"{type(model.get_submodule(where)).__name__} ({where or 'the model itself'}) cannot be traced: "
            f"{reason}; declare its units by hand: methods.declare_units(model, [methods.UnitGroup.of(...)])"
        ) from error


class _Tracer(torch.fx.Tracer):
    """Remembers the modules it is in, for the error message."""

    def __init__(self) -> None:
        super().__init__()
        self.trace_asserts = True
        self.where: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.where.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.where.pop()
        return result


@contextlib.contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    """Hooks must not see the stand-ins that a trace sends through the model."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    kept = [(module, name, module.__dict__[name]) for module in model.modules() for name in names]
    try:
        for module, name, _ in kept:
            module.__dict__[name] = OrderedDict()
        yield
    finally:
        for module, name, hooks in kept:
            module.__dict__[name] = hooks
