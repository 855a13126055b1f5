"""A network as a function of its inputs and its parameters."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError

_CONTAINERS = (dict, list, set, collections.OrderedDict, collections.defaultdict, collections.deque)


def applied(network: nn.Module, parameters: Mapping[str, Tensor], inputs: Any) -> Tensor:
    """The outputs of a network with other tensors in place of some of its parameters.

    Unlike `torch.func.functional_call` it leaves every parameter where it was, whatever the number of modules
    or names that share it. It may run under the transforms of `torch.func`.

    Args:
        network: any module.
        parameters: tensors by the names of `named_parameters()`; one that several modules own goes by any one
            of its names and is replaced in all of them.
        inputs: as for :func:`run`.

    Returns:
        The outputs as one tensor, (n, ...).

    Raises:
        IsoplastError: for outputs that are no tensor. What the network raises is passed on as it is.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> applied(layer, {"weight": torch.tensor([[1.0, 2.0]])}, torch.ones(1, 2))
        tensor([[3.]])
    """
    with replaced(network, parameters):
        return one_tensor(_called(network, inputs))


@contextlib.contextmanager
def replaced(network: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other tensors in place of parameters while inside; afterwards every module is as it was.

    Args:
        network, parameters: as for :func:`applied`.
    """
    names = dict(network.named_parameters(remove_duplicate=False))
    others = {id(names[name]): tensor for name, tensor in parameters.items()}
    with attributes_kept(network):
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if id(parameter) in others:
                    # Not by setattr, which refuses what is no Parameter.
                    module._parameters[name] = others[id(parameter)]  # type: ignore[assignment]
        yield


@contextlib.contextmanager
def attributes_kept(network: nn.Module) -> Iterator[None]:
    """Give every module back the attributes it had, whatever runs inside.

    That holds for parameters, buffers, children and hooks by identity; for attributes of the user's own,
    such as counters, kept activations and lists; and for what torch keeps there: the list of weights of
    recurrent layers, the weight that weight normalisation computed. Contents of tensors are not looked at.

    Raises:
        IsoplastError: if a forward pass inside made parameters, which measurements would not know.
    """
    names = parameter_names(network)
    kept = [(vars(module), vars(module).copy(), _containers(module)) for module in network.modules()]
    try:
        yield
        refuse_made_late(network, names)
    finally:
        for attributes, before, containers in kept:
            if not _same(attributes, before):
                attributes.clear()
                attributes.update(before)
            for container, contents in containers:
                if not _same(container, contents):
                    _refill(container, contents)


def parameter_names(network: nn.Module) -> frozenset[str]:
    """The names of all parameters."""
    return frozenset(name for name, _ in network.named_parameters())


def refuse_made_late(network: nn.Module, names: frozenset[str]) -> None:
    """Refuse a network that has more parameters than those of the given names.

    Raises:
        IsoplastError: naming one of them; in one line.
    """
    for name in sorted(parameter_names(network) - names):
        raise IsoplastError(
            f"{name} is made by the model's first forward pass: run one batch through the model first"
        )


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """The containers among a module's attributes, each with a shallow copy."""
    values = vars(module).values()
    return [(value, value.copy()) for value in values if type(value) in _CONTAINERS]


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the same objects, in the same order."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return all(a is b and x is y for (a, x), (b, y) in pairs)
    if isinstance(one, set):
        return bool(one == other)
    return all(map(_identical, one, other))


def _identical(one: object, other: object) -> bool:
    return one is other


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(contents)
    else:
        container.extend(contents)


def run(network: nn.Module, inputs: Any) -> Any:
    """One forward pass, whatever the network returns.

    Args:
        network: any module.
        inputs: what it takes: a tensor, a tuple of positional or a mapping of keyword arguments.

    Raises:
        IsoplastError: for inputs that do not fit; in one line.
    """
    try:
        return _called(network, inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise IsoplastError(
            f"the inputs {_shape(inputs)} do not fit the model ({type(network).__name__}): {reason}"
        ) from error


def _called(network: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, tuple):
        return network(*inputs)
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(inputs)


def outputs(network: nn.Module, inputs: Any) -> Tensor:
    """The outputs of a network as one tensor, with the shape (n, ...).

    Args:
        network: any module.
        inputs: as for :func:`run`.

    Raises:
        IsoplastError: for inputs that do not fit, and for outputs that are no tensor; in one line.
    """
    return one_tensor(run(network, inputs))


def one_tensor(found: Any) -> Tensor:
    """What a network returned as a tensor: itself, or its `logits` or the entry of that name.

    Raises:
        IsoplastError: for anything else.
    """
    if not isinstance(found, Tensor):
        found = found.get("logits", found) if isinstance(found, Mapping) else getattr(found, "logits", found)
    if not isinstance(found, Tensor):
        raise IsoplastError(
            f"the model returns {type(found).__name__}: wrap it in a module that returns one tensor"
        )
    return found


def dense(gradient: Tensor) -> Tensor:
    """A gradient with all its zeros: that of an embedding with sparse=True holds the rows it used alone."""
    return gradient.to_dense() if gradient.layout is not torch.strided else gradient


def _shape(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return f"of shape {tuple(inputs.shape)}"
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{key}: {_shape(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, tuple):
        return "(" + ", ".join(_shape(value) for value in inputs) + ")"
    return f"of type {type(inputs).__name__}"
