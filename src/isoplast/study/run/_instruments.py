"""What is measured of a network at the boundaries between tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from isoplast import diagnostics
from isoplast._core.errors import IsoplastError
from isoplast.model import preserve_state, unwrap
from isoplast.nn import to_plain
from isoplast.streams import Objective, Regression

INSTRUMENTS = ("weights", "activity", "ntk", "jacobian", "plasticity")
"""What may be measured at the boundaries between tasks, in this order."""

# Of a spectrum the rows keep so many quantiles, from the smallest to the largest value.
_QUANTILES = 33
# A unit is dormant if its mean activity is at most this share of its layer's average (arXiv:2302.12902).
_DORMANT = 0.1
_FORWARD_INPUTS = 1024  # per forward pass
# These look at the first inputs of the task. Their cost stays below a few hundredths of a task's.
_KERNEL_INPUTS = 24
_JACOBIAN_INPUTS = 16
_PROBE_INPUTS, _PROBE_TASKS, _PROBE_STEPS = 256, 2, 25

_Parts: TypeAlias = Mapping[str, Sequence[int]]


class Measured:
    """Losses and scores, added up over batches."""

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.score: Tensor | None = None
        self.count = 0

    @torch.no_grad()
    def add(self, objective: Objective, outputs: Tensor, targets: Tensor) -> None:
        """Take in the outputs of a batch."""
        loss, score = objective.totals(outputs, targets)
        self.loss = loss if self.loss is None else self.loss + loss
        self.score = score if self.score is None else self.score + score
        self.count += objective.count(targets)

    def means(self, objective: Objective) -> dict[str, float]:
        """The mean score under its name, and the mean loss."""
        assert self.score is not None
        assert self.loss is not None
        return {objective.metric: self.score.item() / self.count, "loss": self.loss.item() / self.count}


@torch.no_grad()
def score(model: nn.Module, inputs: Tensor, targets: Tensor, objective: Objective) -> dict[str, float]:
    """Score and mean loss of a network in evaluation mode, by the names of their metrics.

    Args:
        model: the network; it stays as it is.
        inputs: (n, ...), on its device.
        targets: of these inputs.
        objective: what is minimised and what counts.
    """
    found = Measured()
    with preserve_state(model) as network:
        batches = zip(
            torch.split(inputs, _FORWARD_INPUTS), torch.split(targets, _FORWARD_INPUTS), strict=True
        )
        for batch, wanted in batches:
            found.add(objective, network(batch), wanted)
    return found.means(objective)


def measure_network(
    model: nn.Module,
    inputs: Tensor,
    objective: Objective,
    lr: float,
    instruments: tuple[str, ...] = INSTRUMENTS,
    on_failure: Callable[[str, str], None] = lambda instrument, reason: None,
    parts: _Parts = MappingProxyType({}),
) -> dict[str, Any]:
    """Measure a network; it, its mode, its gradients and the random numbers to come stay as they were.

    What an instrument cannot measure of this network is left out: the others still count.

    Args:
        model: the network.
        inputs: inputs of a task, shape (n, ...), on the model's device.
        objective: tells what the outputs mean.
        lr: learning rate of the plasticity probe.
        instruments: some of `INSTRUMENTS`.
        on_failure: told which instrument failed, and why.
        parts: names of groups of outputs, such as "policy": the NTK is measured of each alone, too.

    Returns:
        Metrics by their names in `isoplast.study.METRICS`.

    Reference:
        The instruments of `isoplast.diagnostics`; docs/what-each-number-means.md defines them.
    """
    found: dict[str, Any] = {}
    for name in instruments:
        try:
            found |= _MEASURES[name](model, inputs, objective, lr, parts)
        except IsoplastError as error:
            on_failure(name, str(error))
    return found


def _weights(
    model: nn.Module, inputs: Tensor, objective: Objective, lr: float, parts: _Parts
) -> dict[str, Any]:
    spectra = diagnostics.weight_spectra(model)
    weights = list(spectra.values())
    share = torch.linspace(0, 1, _QUANTILES, dtype=torch.float64)
    return {
        "layers": list(spectra),
        "sigma_min": [one.smallest for one in weights],
        "sigma_mean": [one.mean for one in weights],
        "sigma_max": [one.largest for one in weights],
        "sigma_mean_square": [float(one.singular_values.double().square().mean()) for one in weights],
        "sigma_count": [len(one.singular_values) for one in weights],
        "sigma_quantiles": [one.singular_values.double().quantile(share).tolist() for one in weights],
        "condition_number": [one.condition_number for one in weights],
        "effective_rank": [one.effective_rank for one in weights],
        "gram_deviation": [one.gram_deviation for one in weights],
    }


def _activity(
    model: nn.Module, inputs: Tensor, objective: Objective, lr: float, parts: _Parts
) -> dict[str, Any]:
    found = diagnostics.activity(model, inputs, tau=(_DORMANT,), batch_size=_FORWARD_INPUTS, ranks=False)
    return {
        "units": list(found),
        "dead": [one.dead for one in found.values()],
        "dormant": [one.dormant for one in found.values()],
    }


def _ntk(model: nn.Module, inputs: Tensor, objective: Objective, lr: float, parts: _Parts) -> dict[str, Any]:
    # Of an isometric network the kernel by the weights it applies: the raw ones only stand for them.
    kernel = diagnostics.ntk(to_plain(unwrap(model)), inputs[:_KERNEL_INPUTS], centred=objective.centred)
    found = {
        "ntk_condition_number": kernel.condition_number,
        "ntk_participation_rank": kernel.participation_rank,
        "ntk_size": kernel.size,
    }
    for name, chosen in parts.items():
        alone = kernel.of_outputs(chosen)
        found[f"ntk_{name}_condition_number"] = alone.condition_number
        found[f"ntk_{name}_participation_rank"] = alone.participation_rank
    return found


def _jacobian(
    model: nn.Module, inputs: Tensor, objective: Objective, lr: float, parts: _Parts
) -> dict[str, Any]:
    found = diagnostics.jacobian(model, inputs[:_JACOBIAN_INPUTS], layers=False)
    return {"jacobian_condition_number": found.condition_number}


def _plasticity(
    model: nn.Module, inputs: Tensor, objective: Objective, lr: float, parts: _Parts
) -> dict[str, Any]:
    first = inputs[:_PROBE_INPUTS]
    settings: dict[str, Any] = {
        **{"tasks": _PROBE_TASKS, "steps": _PROBE_STEPS, "points": 1},
        **{"lr": lr, "fresh": False},
    }
    if isinstance(objective, Regression):
        settings["task"] = _random_targets(first, objective)
    found = diagnostics.plasticity(model, first, **settings)
    learned = found.learned
    if isinstance(objective, Regression):  # the targets have variance 1, the loss of the uninformed guess
        learned = float((1 - found.losses[:, -1]).mean())
    return {
        "plasticity": found.value,
        "plasticity_low": found.low,
        "plasticity_high": found.high,
        "plasticity_learned": learned,
    }


def _random_targets(inputs: Tensor, objective: Objective) -> Callable[[int], tuple[Any, Any, Any]]:
    def draw(index: int) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        # The probe has seeded torch's generators for this task.
        return inputs, torch.randn(len(inputs), objective.outputs).to(inputs.device), mse_loss

    return draw


_MEASURES: dict[str, Callable[[nn.Module, Tensor, Objective, float, _Parts], dict[str, Any]]] = {
    "weights": _weights,
    "activity": _activity,
    "ntk": _ntk,
    "jacobian": _jacobian,
    "plasticity": _plasticity,
}
