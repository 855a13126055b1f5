"""What is measured of a network at the boundaries between tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast.isometry import is_matrix, matrix_view, spectrum

# Sokar et al. (arXiv:2302.12902, Eq 1): a unit is dormant if its mean activity is at most this share of the
# average over its layer.
DORMANT = 0.1


@dataclasses.dataclass(frozen=True)
class Instruments:
    """A network on the whole data of a task, in eval mode.

    Args:
        accuracy: share of the inputs classified as the task wants.
        loss: mean cross-entropy.
        layers: names of the weight matrices.
        sigma_min, sigma_mean, sigma_max: of their singular values, one number per matrix.
        condition_number: largest over smallest singular value.
        effective_rank: exponential of the entropy of the normalised singular values.
        units: names of the hidden activation layers.
        dead: per activation layer, the share of units that are zero on every input.
        dormant: per activation layer, the share of units with a Sokar score of at most 0.1.
    """

    accuracy: float
    loss: float
    layers: list[str]
    sigma_min: list[float]
    sigma_mean: list[float]
    sigma_max: list[float]
    condition_number: list[float]
    effective_rank: list[float]
    units: list[str]
    dead: list[float]
    dormant: list[float]


@torch.no_grad()
def measure(model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int = 1024) -> Instruments:
    """Measure a network; it, its mode and the random numbers to come are left as they were.

    Args:
        model: the network, its activation functions modules of their own.
        inputs: all inputs of a task, shape (n, ...), on the model's device.
        targets: their classes, shape (n,).
        chunk: inputs per forward pass.

    Returns:
        The measurements.

    Reference:
        Dormant units: Sokar et al., arXiv:2302.12902, Eq 1.
    """
    matrices = _weight_matrices(model)
    summaries = [spectrum(matrix_view(matrix)) for matrix in matrices.values()]
    activity = _Activity()
    correct = torch.zeros((), dtype=torch.int64, device=inputs.device)
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    with _evaluating(model), activity.watching(model):
        for batch, wanted in zip(torch.split(inputs, chunk), torch.split(targets, chunk), strict=True):
            outputs = model(batch)
            correct += (outputs.argmax(1) == wanted).sum()
            loss += cross_entropy(outputs, wanted, reduction="sum").double()
    return Instruments(
        accuracy=correct.item() / len(targets),
        loss=loss.item() / len(targets),
        layers=list(matrices),
        sigma_min=[one.smallest.item() for one in summaries],
        sigma_mean=[one.mean.item() for one in summaries],
        sigma_max=[one.largest.item() for one in summaries],
        condition_number=[one.condition_number.item() for one in summaries],
        effective_rank=[one.effective_rank.item() for one in summaries],
        units=list(activity.sums),
        dead=[activity.dead(name) for name in activity.sums],
        dormant=[activity.dormant(name) for name in activity.sums],
    )


def _weight_matrices(model: nn.Module) -> dict[str, Tensor]:
    """The weights by name as the layers apply them: of an isometric layer its orthogonal factor."""
    found = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if name.endswith("weight") and is_matrix(parameter):
                applied = module.effective_weight() if hasattr(module, "effective_weight") else parameter
                found[name.removesuffix(".weight")] = applied
    return found


class _Activity:
    """Sums of the absolute activity of every unit, collected by forward hooks."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if _is_activation(module)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Units lie along dimension 1 of (n, units, height, width), else along the last.
            activity = output.abs().double()
            total = activity.sum((0, 2, 3)) if output.ndim == 4 else activity.flatten(0, -2).sum(0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total

        return add

    def dead(self, name: str) -> float:
        """The share of units that were zero on every input."""
        return (self.sums[name] == 0).double().mean().item()

    def dormant(self, name: str) -> float:
        """The share of units at or below a tenth of their layer's average."""
        sums = self.sums[name]
        return (sums <= DORMANT * sums.mean()).double().mean().item()


def _is_activation(module: nn.Module) -> bool:
    return not list(module.children()) and type(module).__module__ in (
        "torch.nn.modules.activation",
        "isoplast.nn._activations",
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, each module back to its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
