"""The measures that a monitor knows by name, in the small size that fits into a training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._result import Result
from isoplast.diagnostics._selection import for_jacobian, for_kernel
from isoplast.diagnostics._student import interval
from isoplast.diagnostics.activity._activity import Activity, activity
from isoplast.diagnostics.health._findings import (
    Finding,
    activity_findings,
    network_findings,
    weight_findings,
)
from isoplast.diagnostics.health._judgement import kernel_numbers, probe_findings, probe_lr, probe_numbers
from isoplast.diagnostics.jacobian._jacobian import jacobian
from isoplast.diagnostics.ntk._ntk import ntk
from isoplast.diagnostics.ntk._result import NTK
from isoplast.diagnostics.plasticity._plasticity import Plasticity, Progress, plasticity
from isoplast.diagnostics.weights._spectra import WeightSpectra, weight_spectra
from isoplast.model import (
    has_normalisation,
    one_tensor,
    preserve_state,
    run,
    sharded_names,
    take_samples,
    unwrap,
)

_ACTIVITY, _JACOBIAN, _KERNEL, _PROBE = 512, 16, 24, 256
_KERNEL_SIZE = 512  # eigenvalues of more rows take longer than all the rest
_PROBE_TASKS, _PROBE_STEPS = 2, 25
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the measures need to know.

    Attributes:
        shape: of the model's outputs (n, ...), empty where they are no tensor.
        normalised: whether the model has normalisations.
        optimizer, lr: of the training and of the probe, as the user gave them.
        twins: what fresh networks made of the probe, by learning rate; None where the inputs may change.
    """

    shape: tuple[int, ...]
    normalised: bool
    optimizer: Optimizer | None
    lr: float | None
    twins: dict[float, Progress] | None


def setting(
    model: nn.Module, inputs: Any, optimizer: Optimizer | None, lr: float | None, fixed: bool
) -> Setting:
    """Look at the model once.

    Args:
        model: ready to run.
        inputs: of the measures.
        optimizer, lr: see `Setting`.
        fixed: whether the inputs stay the same.

    Raises:
        IsoplastError: for inputs that do not fit; in one line.
    """
    found = None
    network = unwrap(model)
    if inputs is not None and not sharded_names(network):  # else the measures say why they cannot run
        with preserve_state(model), torch.no_grad():
            found = run(network, take_samples(inputs, slice(1)))
    try:
        shape = tuple(one_tensor(found).shape)
    except IsoplastError:
        shape = ()
    normalised = has_normalisation(dict(network.state_dict()))
    return Setting(shape, normalised, optimizer, lr, {} if fixed else None)


@dataclasses.dataclass(frozen=True)
class Standard:
    """A measure with a name.

    Attributes:
        guess: its cost before it has run, in training steps (an MLP of width 128 on batches of 64).
        measure: of a model and all inputs.
    """

    guess: float
    measure: Callable[[nn.Module, Any, Setting], Result]


def _weights(model: nn.Module, inputs: Any, known: Setting) -> Result:
    processes = max(sharded_names(unwrap(model)).values(), default=1)
    if processes > 1:  # putting them together is communication, and no two monitors measure at the same step
        raise IsoplastError(
            f"the weights are sharded over {processes} processes: call weight_spectra(model) on all of them "
            "at the same step"
        )
    return weight_spectra(model)


def _activity(model: nn.Module, inputs: Any, known: Setting) -> Result:
    return activity(model, take_samples(inputs, slice(_ACTIVITY)), ranks=False)


def _jacobian(model: nn.Module, inputs: Any, known: Setting) -> Result:
    return jacobian(model, for_jacobian(inputs, _JACOBIAN), layers=False)


def _ntk(model: nn.Module, inputs: Any, known: Setting) -> Result:
    outputs = 1
    for size in known.shape[1:]:
        outputs *= size
    samples = for_kernel(inputs, outputs, _KERNEL, _KERNEL_SIZE)
    return ntk(model, samples, centred=len(known.shape) > 1 and known.shape[-1] > 1)


def _plasticity(model: nn.Module, inputs: Any, known: Setting) -> Result:
    lr = probe_lr(known.lr, known.optimizer)
    # Same seed, same tasks, same twins: training them again would say the same at the same cost.
    twin = None if known.twins is None else known.twins.get(lr)
    rows = take_samples(inputs, slice(_PROBE))
    found = plasticity(
        model, rows, tasks=_PROBE_TASKS, steps=_PROBE_STEPS, lr=lr, points=1, fresh=twin is None
    )
    if twin is None:
        if known.twins is not None and found.fresh is not None:
            known.twins[lr] = found.fresh
        return found
    gap, low, high = interval(found.per_task - twin.per_task, _CONFIDENCE)
    return dataclasses.replace(found, fresh=twin, gap=gap, gap_low=low, gap_high=high)


STANDARD = {
    "weights": Standard(10, _weights),
    "activity": Standard(10, _activity),
    "jacobian": Standard(20, _jacobian),
    "ntk": Standard(20, _ntk),
    "plasticity": Standard(150, _plasticity),
}


def judge(result: object, known: Setting) -> list[Finding]:
    """What is wrong, by the result of a measure."""
    if isinstance(result, WeightSpectra):
        return weight_findings(result, normalised=known.normalised)
    if isinstance(result, Activity):
        return activity_findings(result)
    if isinstance(result, NTK):
        return network_findings(kernel_numbers(result, known.shape))
    if isinstance(result, Plasticity):
        return [*network_findings(probe_numbers(result)), *probe_findings(result)]
    return []
