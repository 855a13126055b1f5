"""The layers of a network in the order in which it executes them."""

from __future__ import annotations

import torch.fx
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method
from isoplast.methods._tools._fresh import tensors
from isoplast.model import clone


class LayerTracer(torch.fx.Tracer):
    """Traces down to the modules that have no modules inside, and to those of torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is executed as a whole."""
        return super().is_leaf_module(m, module_qualified_name) or not any(True for _ in m.children())


def executed(model: nn.Module) -> list[str]:
    """Names of the innermost modules in the order of their (last) execution.

    Where the network cannot be traced, the order in which they were registered.
    """
    try:
        graph = LayerTracer().trace(clone(model))  # a clone has no hooks, which symbolic inputs would confuse
    except Exception:  # whatever a stranger's forward raises on them
        return [name for name, module in model.named_modules() if not any(True for _ in module.children())]
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    return list(dict.fromkeys(reversed(calls)))[::-1]


def last_layers(method: Method, model: nn.Module, count: int) -> list[str]:
    """Names of the last `count` layers with a weight, and of everything executed between and after them.

    Raises:
        IsoplastError: if there are not that many.
    """
    order = executed(model)
    weighted = [index for index, name in enumerate(order) if _has_weight(model.get_submodule(name))]
    if count > len(weighted):
        raise IsoplastError(
            f"layers of method {method.name} is {count}: {type(model).__name__} has {len(weighted)} layers "
            "with a weight"
        )
    return order[weighted[-count] :]


def names_within(model: nn.Module, modules: list[str]) -> list[str]:
    """Names of all parameters and buffers in these modules; a tied one has the name of its first place."""
    own = {tensor for prefix in modules for tensor in tensors(model.get_submodule(prefix)).values()}
    return [name for name, tensor in tensors(model).items() if tensor in own]


def _has_weight(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters())
