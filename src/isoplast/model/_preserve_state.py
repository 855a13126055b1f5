"""Measuring a network without leaving a trace in it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import numpy
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isoplast._core.errors import IsoplastError
from isoplast.model._functional import attributes_kept, replaced
from isoplast.model._sharded import refuse_flattened, refuse_sharded, sharded_names, whole_parameter


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
def preserve_state(
    model: nn.Module, *, training: bool | None = False, runs: bool = True
) -> Iterator[nn.Module]:
    """Lend a network to a measurement, and give it back to the bit.

    Inside, autocast is off (the numbers are those of the weights' own precision), compiled parts run as they
    are written, and the network is in evaluation mode: BatchNorm uses its running statistics, dropout does
    nothing. Afterwards each module's own mode, attributes, children and hooks, every parameter, its gradient
    and `requires_grad`, the contents of all buffers and other tensors that modules keep, and the global
    random generators of Python, NumPy and torch (on the CPU and the model's devices) are what they were.

    Args:
        model: any module; a compiled or data-parallel one is unwrapped.
        training: False for evaluation mode, True for training mode, None to leave the modes alone.
        runs: whether the measurement runs the network. Else weights sharded over processes are put together
            for it; that is communication, so every process has to take part.

    Yields:
        The unwrapped module.

    Raises:
        IsoplastError: for parameters without values (those of lazy modules before their first batch, of the
            meta device), and for sharded weights that cannot be measured this way; in one line.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with preserve_state(model) as network:
        ...     network.training
        False
        >>> model[1].training
        True
    """
    network = unwrap(model)
    refuse_unready(network)
    (refuse_sharded if runs else refuse_flattened)(network)
    modes = [(module, module.training) for module in network.modules()]
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in network.parameters()]
    tensors = [(tensor, tensor.detach().clone()) for tensor in _kept_tensors(network)]
    sharded = {} if runs else {name: network.get_parameter(name) for name in sharded_names(network)}
    try:
        with (
            _generators_kept(network),
            attributes_kept(network),
            no_autocast(),
            _eager(),
            torch.inference_mode(False),
            contextlib.ExitStack() as stack,
        ):
            if training is not None:
                network.train(training)
            for parameter, _, _ in parameters:
                parameter.grad = None
            if sharded:
                gathered = {name: whole_parameter(parameter) for name, parameter in sharded.items()}
                stack.enter_context(replaced(network, gathered))
            yield network
    finally:
        for module, mode in modes:
            if module.training != mode:  # of a scripted module, whose attributes are not in Python's hands
                module.training = mode
        for parameter, gradient, required in parameters:
            parameter.grad = gradient
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)
        with torch.no_grad():
            for tensor, value in tensors:
                # A write to what a pending backward pass has saved would break that.
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def _kept_tensors(network: nn.Module) -> Iterator[Tensor]:
    """What a forward pass may write to in place: counters, caches of keys and values, renormed tables."""
    found = {}
    for module in network.modules():
        renormed = module._parameters.values() if getattr(module, "max_norm", None) is not None else ()
        for value in [*module._buffers.values(), *vars(module).values(), *renormed]:
            # Activations, which have a history, are made anew by each pass and not written to.
            if isinstance(value, Tensor) and value.grad_fn is None and value.layout is torch.strided:
                found[id(value)] = value
    yield from (tensor for tensor in found.values() if not (tensor.is_meta or is_lazy(tensor)))


@contextlib.contextmanager
def _generators_kept(network: nn.Module) -> Iterator[None]:
    """Put the global random generators, and those that modules hold, back afterwards."""
    devices = sorted({p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"})
    values = (value for module in network.modules() for value in vars(module).values())
    own = [(value, value.get_state()) for value in values if isinstance(value, torch.Generator)]
    python, numbers = random.getstate(), numpy.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)  # noqa: NPY002
        for generator, state in own:
            generator.set_state(state)


def refuse_unready(network: nn.Module) -> None:
    """Refuse a network some of whose parameters have no values yet.

    Raises:
        IsoplastError: naming the first of them; in one line.
    """
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise IsoplastError(f"{name} is not initialised yet: run one batch through the model first")
        if parameter.is_meta:
            raise IsoplastError(f"{name} is on the meta device, without values: load the weights first")


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
