"""What is measured of a network at the boundaries between tasks."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import diagnostics
from isoplast.model import preserve_state, unwrap
from isoplast.nn import to_plain

# Of a spectrum the rows keep so many quantiles, from the smallest to the largest value.
_QUANTILES = 33
# A unit is dormant if its mean activity is at most this share of its layer's average (arXiv:2302.12902).
_DORMANT = 0.1
_FORWARD_INPUTS = 1024  # per forward pass
# The probes look at the first inputs of the task. Their cost stays below a few hundredths of a task's.
_KERNEL_INPUTS = 24
_JACOBIAN_INPUTS = 16
_PROBE_INPUTS, _PROBE_TASKS, _PROBE_STEPS = 256, 2, 25


@dataclasses.dataclass(frozen=True)
class Instruments:
    """A network on the data of a task, in eval mode.

    Args:
        accuracy: share of the inputs classified as the task wants.
        loss: mean cross-entropy.
        layers: names of the weight matrices.
        sigma_min, sigma_mean, sigma_max, sigma_mean_square: of their singular values, one number per matrix.
        sigma_count: how many there are.
        sigma_quantiles: 33 quantiles of each matrix's, from the smallest to the largest.
        condition_number: largest over smallest singular value.
        effective_rank: exponential of the entropy of the normalised singular values.
        gram_deviation: R_iso (arXiv:2606.09762, Eq 16).
        units: names of the hidden activations.
        dead: per activation, the share of units that are zero on every input.
        dormant: per activation, the share of units with a Sokar score of at most 0.1.
        ntk_condition_number, ntk_participation_rank, ntk_size: of the empirical NTK of the first inputs on
            centred logits, biases included.
        jacobian_condition_number: largest over smallest singular value of the logits' Jacobian, the median
            over the first inputs.
        plasticity, plasticity_low, plasticity_high, plasticity_learned: what a short training of a copy on
            fresh random labels, by a fresh Adam, removes of the loss, with its interval; and of the loss of
            an uninformed guess.
    """

    accuracy: float
    loss: float
    layers: list[str]
    sigma_min: list[float]
    sigma_mean: list[float]
    sigma_max: list[float]
    sigma_mean_square: list[float]
    sigma_count: list[int]
    sigma_quantiles: list[list[float]]
    condition_number: list[float]
    effective_rank: list[float]
    gram_deviation: list[float]
    units: list[str]
    dead: list[float]
    dormant: list[float]
    ntk_condition_number: float
    ntk_participation_rank: float
    ntk_size: int
    jacobian_condition_number: float
    plasticity: float
    plasticity_low: float
    plasticity_high: float
    plasticity_learned: float


def measure(model: nn.Module, inputs: Tensor, targets: Tensor, lr: float) -> Instruments:
    """Measure a network; it, its mode, its gradients and the random numbers to come stay as they were.

    Args:
        model: the network.
        inputs: all inputs of a task, shape (n, ...), on the model's device.
        targets: their classes, shape (n,).
        lr: learning rate of the plasticity probe.

    Returns:
        The measurements.

    Reference:
        The instruments of `isoplast.diagnostics`; docs/what-each-number-means.md defines them.
    """
    accuracy, loss = _score(model, inputs, targets)
    spectra = diagnostics.weight_spectra(model)
    weights = list(spectra.values())
    share = torch.linspace(0, 1, _QUANTILES, dtype=torch.float64)
    activity = diagnostics.activity(model, inputs, tau=(_DORMANT,), batch_size=_FORWARD_INPUTS, ranks=False)
    # Of an isometric network the kernel by the weights it applies: the raw ones only stand for them.
    kernel = diagnostics.ntk(to_plain(unwrap(model)), inputs[:_KERNEL_INPUTS], centred=True)
    jacobian = diagnostics.jacobian(model, inputs[:_JACOBIAN_INPUTS], layers=False)
    probe = diagnostics.plasticity(
        model, inputs[:_PROBE_INPUTS], tasks=_PROBE_TASKS, steps=_PROBE_STEPS, lr=lr, fresh=False
    )
    return Instruments(
        accuracy=accuracy,
        loss=loss,
        layers=list(spectra),
        sigma_min=[one.smallest for one in weights],
        sigma_mean=[one.mean for one in weights],
        sigma_max=[one.largest for one in weights],
        sigma_mean_square=[float(one.singular_values.double().square().mean()) for one in weights],
        sigma_count=[len(one.singular_values) for one in weights],
        sigma_quantiles=[one.singular_values.double().quantile(share).tolist() for one in weights],
        condition_number=[one.condition_number for one in weights],
        effective_rank=[one.effective_rank for one in weights],
        gram_deviation=[one.gram_deviation for one in weights],
        units=list(activity),
        dead=[one.dead for one in activity.values()],
        dormant=[one.dormant for one in activity.values()],
        ntk_condition_number=kernel.condition_number,
        ntk_participation_rank=kernel.participation_rank,
        ntk_size=kernel.size,
        jacobian_condition_number=jacobian.condition_number,
        plasticity=probe.value,
        plasticity_low=probe.low,
        plasticity_high=probe.high,
        plasticity_learned=probe.learned,
    )


@torch.no_grad()
def _score(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy."""
    correct = torch.zeros((), dtype=torch.int64, device=inputs.device)
    loss = torch.zeros((), dtype=torch.float64, device=inputs.device)
    with preserve_state(model) as network:
        batches = zip(
            torch.split(inputs, _FORWARD_INPUTS), torch.split(targets, _FORWARD_INPUTS), strict=True
        )
        for batch, wanted in batches:
            logits = network(batch)
            correct += (logits.argmax(1) == wanted).sum()
            loss += cross_entropy(logits, wanted, reduction="sum").double()
    return correct.item() / len(targets), loss.item() / len(targets)
