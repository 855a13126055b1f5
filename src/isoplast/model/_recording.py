"""Seeing every activation of a network while it runs, whether it is a module or a function call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from isoplast._core.errors import unknown
from isoplast.model._matrices import clean_name

# The functions behind the activation modules, with the kind of nonlinearity that each is.
FUNCTIONS: dict[Any, str] = {
    function: kind
    for kind, functions in {
        "relu": (F.relu, torch.relu, torch.relu_, F.relu_, Tensor.relu, Tensor.relu_),
        "relu6": (F.relu6,),
        "leaky_relu": (F.leaky_relu, F.leaky_relu_),
        "prelu": (F.prelu, torch.prelu, Tensor.prelu),
        "rrelu": (F.rrelu, torch.rrelu),
        "gelu": (F.gelu,),
        "silu": (F.silu,),
        "mish": (F.mish,),
        "elu": (F.elu, F.elu_),
        "selu": (F.selu, torch.selu),
        "celu": (F.celu, torch.celu),
        "softplus": (F.softplus,),
        "softsign": (F.softsign,),
        "hardswish": (F.hardswish,),
        "hardtanh": (F.hardtanh,),
        "hardsigmoid": (F.hardsigmoid,),
        "tanh": (F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
        "sigmoid": (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
        "glu": (F.glu,),
        "sdpa": (F.scaled_dot_product_attention,),
        "attention": (F.multi_head_attention_forward,),
    }.items()
    for function in functions
}
_KINDS = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.PReLU: "prelu", nn.RReLU: "rrelu",
    nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Hardtanh: "hardtanh", nn.Hardsigmoid: "hardsigmoid",
    nn.Softsign: "softsign", nn.MultiheadAttention: "attention",
}  # fmt: skip
_ACTIVATION_FILES = ("torch.nn.modules.activation", "isoplast.nn.layers._activations")
_NOT_HIDDEN = (nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_CLAMPS = (torch.clamp, Tensor.clamp, Tensor.clamp_, torch.clamp_min, Tensor.clamp_min, Tensor.clamp_min_)
_RECURRENT = {"RNN_RELU": "relu", "RNN_TANH": "tanh"}


class Observer(Protocol):
    """Called with the name of a place, its kind, its output and the dimension of its units."""

    def __call__(self, name: str, kind: str, output: Tensor, dim: int) -> None: ...


class _Frame:
    """One running call of a module."""

    def __init__(self, name: str, whole: str | None, single: bool) -> None:
        self.name = name
        self.whole = whole  # its kind, if its output is observed and nothing inside it
        self.single = single  # whether it has neither children nor parameters
        self.calls: dict[str, int] = {}
        self.inner: tuple[str, Tensor] | None = None  # what the last activation function in it returned


class ActivationRecorder(TorchFunctionMode):
    """Reports the outputs of all activations of a network to an observer.

    A place is named after its module; a function after the module that calls it ("block.relu"). Where the
    same one runs twice in a call of its parent, the second is another place ("block.relu_1"). A module
    without parameters and children that calls an activation function is itself the activation.

    Args:
        network: the network.
        observe: the observer.
        layers: None for activations, attention and recurrent layers; names or patterns of modules whose
            outputs are observed instead.

    Raises:
        IsoplastError: for a pattern that fits no module.
    """

    def __init__(self, network: nn.Module, observe: Observer, layers: Sequence[str] | None) -> None:
        super().__init__()
        self.observe = observe
        self.linear: list[str] = []  # names of linear layers and convolutions, in the order of their calls
        self._network = network
        self._names = {module: clean_name(name) for name, module in network.named_modules()}
        self._chosen = None if layers is None else self._choose(layers)
        self._frames: list[_Frame] = []
        self._convolved = False  # whether the last linear map was a convolution

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
                handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
                handles.append(module.register_forward_hook(self._leave))
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        single = not module._modules and not module._parameters
        self._frames.append(_Frame(self._names[module], self._kind(module), single))

    def _kind(self, module: nn.Module) -> str | None:
        """The kind of a module that is observed as a whole, else None."""
        if self._chosen is not None:
            return "output" if self._names[module] in self._chosen else None
        if isinstance(module, nn.RNNBase):
            return _RECURRENT.get(module.mode, module.mode.lower())
        if type(module).__module__ not in _ACTIVATION_FILES or isinstance(module, _NOT_HIDDEN):
            return None
        return _KINDS.get(type(module), type(module).__name__.lower())

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        frame = self._frames.pop()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            self._convolved = not isinstance(module, nn.Linear)
            self.linear.append(frame.name)
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        tensor = tensor.data if isinstance(tensor, nn.utils.rnn.PackedSequence) else tensor
        kind = frame.whole
        if kind is None and frame.inner is not None:
            kind = frame.inner[0] if frame.inner[1] is tensor else type(module).__name__.lower()
        if kind is not None and isinstance(tensor, Tensor) and not self._covered():
            self._report(frame.name or kind, kind, tensor, _dimension(module))

    def _covered(self) -> bool:
        """Whether what runs is part of something that is observed as a whole."""
        return self._chosen is None and any(frame.whole for frame in self._frames)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, and report its output if it is an activation."""
        output = func(*args, **(kwargs or {}))
        if func is F.linear or func in _CONVOLUTIONS:
            self._convolved = func is not F.linear
            return output
        kind = FUNCTIONS.get(func) or _clamped(func, args, kwargs or {})
        if kind is None or not self._frames or self._chosen is not None or self._covered():
            return output
        tensor = output[0] if isinstance(output, tuple) else output
        frame = self._frames[-1]
        if args and _is_parameter(args[0]):
            return output
        if frame.single:
            frame.inner = (kind, tensor)
        else:
            merged = tensor.transpose(-3, -2).flatten(-2) if kind == "sdpa" else tensor
            self._report(f"{frame.name}.{kind}".lstrip("."), kind, merged, None)
        return output

    def _report(self, name: str, kind: str, tensor: Tensor, dim: int | None) -> None:
        if tensor.ndim < 2 or not tensor.is_floating_point():
            return
        if self._frames:
            calls = self._frames[-1].calls
            calls[name] = calls.get(name, 0) + 1
            name = name if calls[name] == 1 else f"{name}_{calls[name] - 1}"
        if dim is None:
            features_last = kind in ("sdpa", "attention") or not self._convolved or tensor.ndim == 2
            dim = -1 if features_last else 1
        self.observe(name, kind, tensor, dim)


def _dimension(module: nn.Module) -> int | None:
    """The dimension of a module's units where the module itself fixes it."""
    if isinstance(module, nn.PReLU | nn.modules.conv._ConvNd):
        return 1
    if isinstance(module, nn.Linear | nn.RNNBase | nn.MultiheadAttention):
        return -1
    own = getattr(module, "dim", None)
    return own if isinstance(own, int) and type(module).__module__ in _ACTIVATION_FILES else None


def _clamped(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """ReLU written as a clamp at zero."""
    if function not in _CLAMPS:
        return None
    low, high = (*args[1:3], None, None)[:2]
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    return "relu" if isinstance(low, int | float) and low == 0 and high is None else None


def _is_parameter(tensor: Any) -> bool:
    """Whether a function is applied to a weight instead of to features."""
    return isinstance(tensor, nn.Parameter) or isinstance(getattr(tensor, "_base", None), nn.Parameter)
