"""Measuring a network without leaving a trace in it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.nn import OrthogonalWeight


def unwrap(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` or a data-parallel wrapper wraps, else the module itself."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


@contextlib.contextmanager
def preserve_state(model: nn.Module, *, training: bool | None = False) -> Iterator[nn.Module]:
    """Lend a network to a measurement, and give it back to the bit.

    Inside, autocast is off (the numbers are those of the weights' own precision), compiled parts run as they
    are written, and the network is in evaluation mode: BatchNorm uses its running statistics, dropout does
    nothing. Afterwards each module's
    own mode, every buffer, every gradient, `requires_grad` and the generators of the CPU and of the model's
    devices are what they were. Hooks of the measurement are the measurement's own to remove.

    Args:
        model: any module; a compiled or data-parallel one is unwrapped.
        training: False for evaluation mode, True for training mode, None to leave the modes alone.

    Yields:
        The unwrapped module.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with preserve_state(model) as network:
        ...     network.training
        False
        >>> model[1].training
        True
    """
    network = unwrap(model)
    modes = [(module, module.training) for module in network.modules()]
    # Changing its mode makes an isometric layer forget the factor that its next optimizer step builds on.
    isometric = [module for module in network.modules() if isinstance(module, OrthogonalWeight)]
    factors = [(layer, layer._cache) for layer in isometric]
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in network.parameters()]
    # In evaluation mode too some modules write to buffers: counters, caches of keys and values.
    buffers = [
        (module._buffers, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = sorted({p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices), no_autocast(), _eager(), torch.inference_mode(False):
            if training is not None:
                network.train(training)
            for parameter, _, _ in parameters:
                parameter.grad = None
            yield network
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, factor in factors:
            layer._cache = factor
        for parameter, gradient, required in parameters:
            parameter.grad = gradient
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                owner[name] = buffer
                # A write to what a pending backward pass has saved would break that.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _eager() -> contextlib.AbstractContextManager[object]:
    """Run compiled parts as they are written: a compiled graph can be neither seen into nor transformed."""
    # Nothing can be compiled before this module is loaded, and loading it takes a second.
    if "torch._dynamo" in sys.modules:
        stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance
    return contextlib.nullcontext()


def refuse_scripted(network: nn.Module) -> None:
    """Refuse a TorchScript program, which can be run but neither copied nor differentiated in parts.

    Raises:
        IsoplastError: for a scripted or traced module, as a whole or inside.
    """
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"{name!r} of the model" if name else "the model"
            raise IsoplastError(f"{where} is a TorchScript program: measure the module that it was made from")


def refuse_batch_statistics(network: nn.Module) -> None:
    """Refuse a network in which the samples of a batch influence each other even in evaluation mode.

    Raises:
        IsoplastError: for a BatchNorm without running statistics.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise IsoplastError(
                f"{name!r} normalises by the batch even in eval mode: give it running statistics"
            )


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Switch autocast off on every kind of device."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def run(network: nn.Module, inputs: Any) -> Any:
    """One forward pass, whatever the network returns.

    Args:
        network: any module.
        inputs: what it takes: a tensor, a tuple of positional or a dict of keyword arguments.

    Raises:
        IsoplastError: for inputs that do not fit; in one line.
    """
    try:
        if isinstance(inputs, tuple):
            return network(*inputs)
        if isinstance(inputs, dict):
            return network(**inputs)
        return network(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise IsoplastError(
            f"the inputs {_shape(inputs)} do not fit the model ({type(network).__name__}): {reason}"
        ) from error


def outputs(network: nn.Module, inputs: Any) -> Tensor:
    """The outputs of a network as one tensor, with the shape (n, ...).

    Args:
        network: any module.
        inputs: as for :func:`run`.

    Raises:
        IsoplastError: for inputs that do not fit, and for outputs that are no tensor; in one line.
    """
    found = run(network, inputs)
    if not isinstance(found, Tensor):
        found = getattr(found, "logits", found)
    if not isinstance(found, Tensor):
        raise IsoplastError(
            f"the model returns {type(found).__name__}: wrap it in a module that returns one tensor"
        )
    return found


def _shape(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return f"of shape {tuple(inputs.shape)}"
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {_shape(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, tuple):
        return "(" + ", ".join(_shape(value) for value in inputs) + ")"
    return f"of type {type(inputs).__name__}"
