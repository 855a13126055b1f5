"""What a layer is, and finding the layers of a network by watching it run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from isoplast._core.layer_kinds import MIXING_KINDS, function_kind


@dataclasses.dataclass
class Layer:
    """A module with a weight and what follows it without branching, at the point it was called.

    Attributes:
        name: of the module; further calls are numbered.
        inputs: what the module was applied to, (n, ...).
        steps: the module, then the normalisations, nonlinearities, pooling and so on after it.
    """

    name: str
    inputs: Tensor
    steps: list[Callable[[Tensor], Tensor]]

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the layer to other values than those it saw."""
        for step in self.steps:
            values = step(values)
        return values


class Tracer(TorchFunctionMode):
    """Collects the layers of a running network.

    A layer begins at a leaf module with a parameter of two or more dimensions (Linear, convolutions; not
    Embedding, whose inputs are no numbers) and goes on as long as what it returned is passed, as the same
    tensor, to a module without such a parameter or to an activation function. It ends where anything
    else happens to the tensor: an addition, another layer, the network's output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.inside = 0
        # By the identity of the tensor that ends a layer, which is kept so that the number stays its own.
        self._open: dict[int, tuple[Tensor, Layer]] = {}
        self._calls: dict[str, int] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function; go on with a layer if it is an activation function of the layer's end."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        kind = function_kind(function)
        if not self.inside and kind not in (None, *MIXING_KINDS) and args and isinstance(result, Tensor):
            self._go_on(args[0], lambda value: function(value, *args[1:], **kwargs), result)
        return result

    def module_called(self, name: str, module: nn.Module, inputs: Tensor, given: Tensor, result: Any) -> None:
        """Begin or go on with a layer.

        Args:
            name: of the module.
            module: a leaf.
            inputs: the values it was given.
            given: the tensor it was given, which may hold other values by now.
            result: what it returned.
        """
        if not isinstance(result, Tensor):
            return
        if not any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)) and not hasattr(
            module, "parametrizations"
        ):
            self._go_on(given, module, result)
        elif inputs.is_floating_point():
            count = self._calls[name] = self._calls.get(name, 0) + 1
            layer = Layer(name if count == 1 else f"{name} (call {count})", inputs, [module])
            self.layers.append(layer)
            self._open[id(result)] = (result, layer)

    def _go_on(self, given: Any, step: Callable[[Tensor], Tensor], result: Tensor) -> None:
        _, layer = self._open.pop(id(given), (None, None))
        if layer is not None:
            layer.steps.append(step)
            self._open[id(result)] = (result, layer)


def traced(network: nn.Module, run: Callable[[], Any]) -> list[Layer]:
    """Return the layers that a run of the network goes through, in order."""
    tracer = Tracer()
    with _watched(network, tracer), torch.no_grad(), tracer:
        run()
    return tracer.layers


def named(network: nn.Module, names: list[str], run: Callable[[], Any]) -> list[Layer]:
    """Return the modules of these names as layers of their own: residual blocks, say."""
    found: list[Layer] = []

    def hook(module: nn.Module, args: tuple[Any, ...], *, name: str) -> None:
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            rest = args[1:]
            found.append(Layer(name, args[0].clone(), [lambda value: module(value, *rest)]))

    modules = dict(network.named_modules())
    handles = [modules[name].register_forward_pre_hook(functools.partial(hook, name=name)) for name in names]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _leaves(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules without children; a parametrised weight's own modules do not count."""
    for name, module in network.named_modules():
        children = {child for child, _ in module.named_children()}
        if children <= {"parametrizations"} and ".parametrizations" not in f".{name}":
            yield name, module


@contextlib.contextmanager
def _watched(network: nn.Module, tracer: Tracer) -> Iterator[None]:
    handles = []
    given: list[tuple[Tensor, Any]] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        tracer.inside += 1
        single = len(args) == 1 and isinstance(args[0], Tensor)
        given.append((args[0].clone(), args[0]) if single else (torch.empty(0), None))

    def after(module: nn.Module, args: tuple[Any, ...], result: Any, *, name: str) -> None:
        tracer.inside -= 1
        values, tensor = given.pop()
        if tensor is not None:
            tracer.module_called(name, module, values, tensor, result)

    for name, module in _leaves(network):
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(functools.partial(after, name=name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
