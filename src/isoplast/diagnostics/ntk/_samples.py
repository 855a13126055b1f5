"""Gradients of every output of every sample, for parameters whose layers have no known formula."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics.ntk._terms import Explicit
from isoplast.model import applied, dense, outputs, sample_count, take_samples


def sample_gradients(
    network: nn.Module, inputs: Any, parameters: dict[str, Tensor], chunk: int
) -> dict[str, Explicit]:
    """Return the gradients of every output of every sample, by parameter.

    All samples at once by `torch.func`; a network that `vmap` cannot trace takes a pass per output of
    each sample.

    Args:
        network: in evaluation mode.
        inputs: a batch.
        parameters: those to differentiate by.
        chunk: samples to differentiate at a time.
    """
    if not parameters:
        return {}
    try:
        return _vectorised(network, inputs, parameters, chunk)
    except torch.OutOfMemoryError:
        raise
    # What vmap raises for code that depends on values, draws numbers, works in place.
    except (RuntimeError, IsoplastError):
        return _looped(network, inputs, parameters)


def _vectorised(
    network: nn.Module, inputs: Any, parameters: dict[str, Tensor], chunk: int
) -> dict[str, Explicit]:
    n = sample_count(inputs)
    leaves, spec = tree_flatten(inputs)
    dims = tuple(0 if isinstance(leaf, Tensor) else None for leaf in leaves)

    def one(values: dict[str, Tensor], *parts: Any) -> Tensor:
        rows = [part.unsqueeze(0) if isinstance(part, Tensor) else part for part in parts]
        return applied(network, values, tree_unflatten(rows, spec)).flatten()

    values = {name: parameter.detach() for name, parameter in parameters.items()}
    # The parameters that stay need no graph. Operations without a rule for vmap are slow, not wrong.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = vmap(jacrev(one), (None, *dims), chunk_size=chunk)(values, *leaves)
    return {name: Explicit(gradient.reshape(n, gradient.shape[1], -1)) for name, gradient in found.items()}


def _looped(network: nn.Module, inputs: Any, parameters: dict[str, Tensor]) -> dict[str, Explicit]:
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for index in range(sample_count(inputs)):
        values = outputs(network, take_samples(inputs, slice(index, index + 1))).flatten()
        gradients = [_gradients(value, parameters) for value in values]
        for name, parameter, column in zip(
            parameters, parameters.values(), zip(*gradients, strict=True), strict=True
        ):
            rows = [torch.zeros_like(parameter) if g is None else dense(g) for g in column]
            found[name].append(torch.stack(rows).flatten(1))
    return {name: Explicit(torch.stack(samples)) for name, samples in found.items()}


def _gradients(value: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor | None, ...]:
    if not value.requires_grad:  # a sample that no trainable parameter has to do with
        return (None,) * len(parameters)
    return torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
