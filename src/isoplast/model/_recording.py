"""Seeing every activation of a network while it runs, whether it is a module or a function call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from isoplast._core import layer_kinds as kinds
from isoplast._core.errors import unknown
from isoplast.model._dataflow import Candidate, Dataflow, is_parameter, tensors
from isoplast.model._matrices import clean_name

_CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_min_")


class Observer(Protocol):
    """Called with the name of a place, its kind, its output and the dimension of its units."""

    def __call__(self, name: str, kind: str, output: Tensor, dim: int) -> None: ...


class _Frame:
    """One running call of a module."""

    def __init__(self, name: str, whole: str | None, single: bool, given: list[Tensor]) -> None:
        self.name = name
        self.whole = whole  # its kind, if its output is observed and nothing inside it
        self.single = single  # whether it has neither children nor parameters
        self.given = given
        self.calls: dict[str, int] = {}
        self.inner: tuple[str, Tensor] | None = None  # what the last activation function in it returned
        self.functions = 0  # how many functions of tensors were seen in it


class ActivationRecorder(TorchFunctionMode):
    """Reports the outputs of all activations of a network to an observer.

    A place is named after its module; a function after the module that calls it ("block.relu"). Where the
    same one runs twice in a call of its parent, the second is another place ("block.relu_1"). A module
    without parameters and children that calls an activation function is itself the activation, and so is
    one that nobody knows, unless what it does is seen to be linear. A nonlinearity that is written out in
    a forward method (torch.where, a product with a mask, an autograd.Function) is reported when a layer
    reads what it made.

    Args:
        network: the network.
        observe: the observer.
        layers: None for activations, attention and recurrent layers; names or patterns of modules whose
            outputs are observed instead.

    Attributes:
        linear: names of linear layers and convolutions, in the order of their calls.
        producers: by place, the one of them that ran last before it.

    Raises:
        IsoplastError: for a pattern that fits no module.
    """

    def __init__(self, network: nn.Module, observe: Observer, layers: Sequence[str] | None) -> None:
        super().__init__()
        self.observe = observe
        self.linear: list[str] = []
        self.producers: dict[str, str] = {}
        self._network = network
        self._names = {module: clean_name(name) for name, module in network.named_modules()}
        self._chosen = None if layers is None else self._choose(layers)
        self._frames: list[_Frame] = []
        self._convolved = False  # whether the last linear map was a convolution
        self._flow = Dataflow()

    def _choose(self, layers: Sequence[str]) -> set[str]:
        chosen: set[str] = set()
        for pattern in layers:
            fitting = {name for name in self._names.values() if fnmatch(name, pattern)}
            if not fitting:
                raise unknown("layer", pattern, self._names.values())
            chosen |= fitting
        return chosen

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch while inside; afterwards the network has the hooks it had."""
        handles: list[RemovableHandle] = []
        try:
            for module in self._names:
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # takes no hooks: what is scripted stays unseen
                handles.append(module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave))
            with self:
                yield
        finally:
            self._flow = Dataflow()
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        single = not module._modules and not module._parameters
        frame = _Frame(self._names[module], self._kind(module), single, tensors([args, kwargs]))
        if self._chosen is None and not self._covered():
            if frame.whole and not kinds.is_activation(module):
                self._read(frame.given)
            if single and self._flow.begun and not any(map(self._flow.of, frame.given)):
                self._flow.start(frame.given)
        self._frames.append(frame)

    def _kind(self, module: nn.Module) -> str | None:
        """The kind of a module that is observed as a whole, else None."""
        if self._chosen is not None:
            return "output" if self._names[module] in self._chosen else None
        if isinstance(module, kinds.RECURRENT):
            return _recurrent_kind(module)
        return kinds.activation_kind(module)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        frame = self._frames.pop()
        if isinstance(module, kinds.MAPS):
            self._convolved = not isinstance(module, nn.Linear)
            self.linear.append(frame.name)
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        tensor = tensor.data if isinstance(tensor, nn.utils.rnn.PackedSequence) else tensor
        if not isinstance(tensor, Tensor) or self._covered():
            return
        kind = frame.whole or self._hidden_kind(module, frame, tensor)
        if kind is None:
            return
        if self._chosen is None and frame.whole and not kinds.is_activation(module):
            self._flow.start(tensor, watched=True)
        elif self._chosen is None:
            self._flow.watch(tensor)
        self._report(frame.name or kind, kind, tensor, _dimension(module), module=module)

    def _hidden_kind(self, module: nn.Module, frame: _Frame, tensor: Tensor) -> str | None:
        """The kind of a module that turned out to be an activation, else None."""
        own = type(module).__name__.lower()
        if self._chosen is not None:
            return None
        if frame.inner is not None:
            return frame.inner[0] if frame.inner[1] is tensor else own
        found = self._flow.of(tensor)
        bent = found is not None and any(candidate.place is frame for candidate in found.pending)
        # A kernel of one's own calls no function of torch.
        kept = any(each is tensor for each in [*frame.given, *module.buffers()])
        unseen = self._flow.begun and not frame.functions and not kept
        return own if frame.single and (bent or unseen) and not _is_of_torch(module) else None

    def _covered(self) -> bool:
        """Whether what runs is part of something that is observed as a whole."""
        return self._chosen is None and any(frame.whole for frame in self._frames)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, and report its output if it is an activation."""
        kwargs = kwargs or {}
        name = kinds.function_name(func)
        seen = bool(self._frames) and self._chosen is None and not self._covered()
        if seen:
            given = [*args, kwargs]
            self._report_candidates(self._flow.overwritten(name, args))
            if name in kinds.MAP_FUNCTIONS:
                self._read(given)
        output = func(*args, **kwargs)
        if name == "linear" or name in kinds.CONVOLUTION_FUNCTIONS:
            self._convolved = name != "linear"
        if seen:
            self._follow(name, args, kwargs, output)
        return output

    def _follow(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        frame = self._frames[-1]
        results = tensors(output)
        frame.functions += bool(results)
        kind = kinds.function_kind(name) or _clamped(name, args, kwargs)
        if kind is None or not results or (args and is_parameter(args[0])):
            make = {"place": frame, "dim": self._dim(results[0]) if results else -1, "layer": self._last}
            self._flow.follow(name, [*args, kwargs], output, make)
            return
        tensor = results[0]
        if frame.single:
            frame.inner = (kind, tensor)
        else:
            merged = tensor.transpose(-3, -2).flatten(-2) if kind == "sdpa" else tensor
            self._report(f"{frame.name}.{kind}".lstrip("."), kind, merged, None)
        if kind in kinds.MIXING_KINDS:
            self._flow.start(tensor, watched=True)
        else:
            self._flow.follow(name, [*args, kwargs], output, {"place": frame, "dim": -1, "layer": ""})
            self._flow.watch(tensor)

    @property
    def _last(self) -> str:
        return self.linear[-1] if self.linear else ""

    def _dim(self, tensor: Tensor) -> int:
        """The dimension of the units of a function's output: that of the layer before."""
        return 1 if self._convolved and tensor.ndim > 2 else -1

    def _read(self, values: Any) -> None:
        """A layer reads values: what bent them was an activation."""
        self._report_candidates(self._flow.read(values))

    def _report_candidates(self, candidates: Iterator[Candidate]) -> None:
        for candidate in list(candidates):
            candidate.done = True
            name = f"{candidate.place.name}.{candidate.function.strip('_')}".lstrip(".")
            kind = candidate.function.strip("_")
            self._report(name, kind, candidate.tensor, candidate.dim, candidate.place, candidate.layer)

    def _report(
        self,
        name: str,
        kind: str,
        tensor: Tensor,
        dim: int | None,
        place: _Frame | None = None,
        layer: str | None = None,
        module: nn.Module | None = None,
    ) -> None:
        if tensor.ndim < 2 or not tensor.is_floating_point():
            return
        place = place or (self._frames[-1] if self._frames else None)
        # A cell is called once for every step of a sequence.
        if place is not None and not isinstance(module, nn.RNNCellBase):
            place.calls[name] = place.calls.get(name, 0) + 1
            name = name if place.calls[name] == 1 else f"{name}_{place.calls[name] - 1}"
        if kind not in kinds.MIXING_KINDS:
            self.producers.setdefault(name, self._last if layer is None else layer)
        if dim is None:
            dim = -1 if kind in kinds.MIXING_KINDS else self._dim(tensor)
        self.observe(name, kind, tensor, dim)


def _dimension(module: nn.Module) -> int | None:
    """The dimension of a module's units where the module itself fixes it."""
    if isinstance(module, nn.PReLU | nn.modules.conv._ConvNd):
        return 1
    if isinstance(module, (nn.Linear, nn.MultiheadAttention, *kinds.RECURRENT)):
        return -1
    own = getattr(module, "dim", None)
    return own if isinstance(own, int) and kinds.activation_kind(module) is not None else None


def _recurrent_kind(module: nn.Module) -> str:
    """The nonlinearity of a plain recurrent layer or cell, else what it is called."""
    mode = str(getattr(module, "mode", getattr(module, "nonlinearity", type(module).__name__)))
    return mode.lower().removeprefix("rnn_").removesuffix("cell")


def _is_of_torch(module: nn.Module) -> bool:
    """Whether torch says what a module is: pooling, dropout, padding and the like."""
    return type(module).__module__.startswith("torch.")


def _clamped(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """ReLU written as a clamp at zero."""
    if function not in _CLAMPS:
        return None
    low, high = (*args[1:3], None, None)[:2]
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    return "relu" if isinstance(low, int | float) and low == 0 and high is None else None
