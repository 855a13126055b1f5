"""Initial weights: remembered, and drawn anew from the distribution the network started with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from isoplast.isometry import matrix_view
from isoplast.methods._protocol import Method

# Orthogonal matrices out of float32 QR factorisations have singular values within 1e-6 of each other,
# independent entries spread them by more than 1 %, in any shape with at least two rows and columns.
_EQUAL = 1e-4


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def remember(method: Method, model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Keep the present values of these parameters and buffers in the state of a method, as "initial"."""
    method.state["initial"] = {
        name: tensor.detach().clone() for name, tensor in tensors(model).items() if name in names
    }
    found: dict[str, Tensor] = method.state["initial"]
    return found


def prepare_to_draw(method: Method, model: nn.Module) -> None:
    """Keep what `drawn` will need, for methods that draw long after training began."""
    with torch.random.fork_rng(devices=[]):
        known = _rebuilt(model)
    remember(method, model, [name for name in tensors(model) if name not in known])


@torch.no_grad()
def drawn(method: Method, model: nn.Module) -> dict[str, Tensor]:
    """Fresh values for all parameters and buffers, from the network's own initial distribution.

    A network of `isoplast.nn.build` is built again. Of any other only its first weights are known, so each
    tensor is drawn as `redraw` says. Numbers come from torch's global generator; the network is untouched.

    Args:
        method: for which `prepare_to_draw` was called when the network was fresh.
        model: the network.
    """
    fresh = _rebuilt(model)
    parameters = dict(model.named_parameters())
    for name, value in method.state["initial"].items():
        # What is a buffer was computed or counted, not drawn.
        fresh[name] = redraw(value) if name in parameters else value.clone()
    return fresh


def _rebuilt(model: nn.Module) -> dict[str, Tensor]:
    """All that the network has in common with one that is built like it now."""
    rebuild: Callable[[], nn.Module] | None = getattr(model, "rebuild", None)
    built = {} if rebuild is None else tensors(rebuild())
    return {
        name: built[name].detach().to(tensor)
        for name, tensor in tensors(model).items()
        if name in built and built[name].shape == tensor.shape
    }


@torch.no_grad()
def redraw(value: Tensor) -> Tensor:
    """Another sample of the distribution that an initial tensor looks drawn from.

    All entries equal (zero biases, gains of one): the same again. All singular values of the matrix view
    equal: another orthogonal matrix with that gain, on the columns that are not zero (a delta-orthogonal
    kernel keeps its tap). Anything else: the entries in random order, which is exact in mean, variance and
    every other moment for independent entries of whatever distribution.

    Example:
        >>> matrix = torch.nn.init.orthogonal_(torch.empty(4, 6), gain=2.0)
        >>> torch.linalg.svdvals(redraw(matrix)).round(decimals=4)
        tensor([2., 2., 2., 2.])
    """
    if value.numel() < 2 or bool((value == value.flatten()[0]).all()):
        return value.clone()
    if value.is_floating_point() and value.ndim >= 2:
        matrix = matrix_view(value)
        used = (matrix != 0).any(0)
        block = matrix[:, used].to(torch.promote_types(value.dtype, torch.float32))
        if min(block.shape) > 1:
            singular = torch.linalg.svdvals(block)
            if bool(singular[0] - singular[-1] <= _EQUAL * singular[0]):
                fresh = torch.zeros_like(matrix)
                rotated = torch.nn.init.orthogonal_(torch.empty_like(block), float(singular.mean()))
                fresh[:, used] = rotated.to(value.dtype)
                return fresh.view(value.shape)
    order = torch.randperm(value.numel(), device=value.device)
    return value.flatten()[order].view(value.shape)


def moments(fresh: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, list[float]]:
    """Mean and standard deviation of the entries of each of these tensors."""
    return {name: [float(fresh[name].mean()), float(fresh[name].std(correction=0))] for name in names}


@torch.no_grad()
def put(model: nn.Module, values: dict[str, Tensor], names: Iterable[str]) -> None:
    """Write values into the parameters and buffers of these names, in place."""
    present = tensors(model)
    for name in names:
        present[name].copy_(values[name])


def forget(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Drop the optimizer's state of these parameters: torch's optimizers start missing state anew."""
    for parameter in parameters:
        dropped = optimizer.state.pop(parameter, None)
        if dropped and isinstance(optimizer, Adagrad):  # older ones make theirs in the constructor alone
            start = optimizer.defaults["initial_accumulator_value"]
            optimizer.state[parameter] = {
                "step": torch.zeros_like(dropped["step"]),
                "sum": torch.full_like(dropped["sum"], start),
            }
