"""The measures that a monitor knows by name, in the small size that fits into a training loop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._result import Result
from isoplast.diagnostics._selection import for_jacobian, for_kernel
from isoplast.diagnostics._student import interval
from isoplast.diagnostics.activity._activity import Activity, LayerActivity, activity
from isoplast.diagnostics.health._evidence import Evidence, activity_places
from isoplast.diagnostics.health._limits import LIMITS
from isoplast.diagnostics.health._measured import growth
from isoplast.diagnostics.health._numbers import diverged, kernel_condition, probe_lr
from isoplast.diagnostics.health._roughness import answers_apart, nearest
from isoplast.diagnostics.jacobian._jacobian import jacobian
from isoplast.diagnostics.ntk._ntk import ntk
from isoplast.diagnostics.ntk._result import NTK
from isoplast.diagnostics.plasticity._plasticity import Plasticity, Progress, plasticity
from isoplast.diagnostics.weights._norms import Norms, largest_singular_values
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

_ACTIVITY, _FEATURES, _JACOBIAN, _KERNEL, _PROBE = 256, 256, 16, 24, 256
_KERNEL_SIZE = 512  # eigenvalues of more rows take longer than all the rest
_PROBE_TASKS, _PROBE_STEPS = 2, 25
_CONFIDENCE = 0.95
_LEAST_GROWTH = min(one.value for one in LIMITS if one.number == "growth")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the measures need to know.

    Attributes:
        shape: of the model's outputs (n, ...), empty where they are no tensor.
        normalised: whether the model has normalisations.
        optimizer, lr: of the training and of the probe, as the user gave them.
        roughness: of the outputs the last two times that it was taken; right after a change of task, and at
            the start, it is high in any network.
        neighbours: the nearest neighbours of the inputs, where those stay the same.
        vectors: right singular vectors that estimates of norms go on from.
        twins: what fresh networks made of the probe, by learning rate; None where the inputs may change.
    """

    shape: tuple[int, ...]
    normalised: bool
    optimizer: Optimizer | None
    lr: float | None
    twins: dict[float, Progress] | None
    neighbours: Tensor | None = None
    roughness: list[float] = dataclasses.field(default_factory=list)
    vectors: dict[str, Tensor] = dataclasses.field(default_factory=dict)


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
    neighbours = nearest(take_samples(inputs, slice(_ACTIVITY))) if fixed and inputs is not None else None
    return Setting(shape, has_normalisation(network), optimizer, lr, {} if fixed else None, neighbours)


@dataclasses.dataclass(frozen=True)
class Standard:
    """A measure with a name.

    Attributes:
        guess: its cost before it has run, in training steps (an MLP of width 128 on batches of 64).
        measure: of a model and all inputs.
        importance: factor of its share of the budget.
    """

    guess: float
    measure: Callable[[nn.Module, Any, Setting], Result]
    importance: float = 1.0


def _weights(model: nn.Module, inputs: Any, known: Setting) -> Result:
    processes = max(sharded_names(unwrap(model)).values(), default=1)
    if processes > 1:  # putting them together is communication, and no two monitors measure at the same step
        raise IsoplastError(
            f"the weights are sharded over {processes} processes: call weight_spectra(model) on all of them "
            "at the same step"
        )
    return weight_spectra(model)


def _norms(model: nn.Module, inputs: Any, known: Setting) -> Result:
    if sharded_names(unwrap(model)):
        raise IsoplastError("the weights are sharded: call weight_spectra(model) on all processes")
    return largest_singular_values(model, known.vectors)


def _activity(model: nn.Module, inputs: Any, known: Setting) -> Result:
    return activity(model, take_samples(inputs, slice(_ACTIVITY)), ranks=False)


def _features(model: nn.Module, inputs: Any, known: Setting) -> Result:
    return activity(model, take_samples(inputs, slice(_FEATURES)))


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
    "norms": Standard(1, _norms, importance=8.0),  # they warn first
    "weights": Standard(6, _weights),
    "activity": Standard(4, _activity, importance=4.0),
    "features": Standard(25, _features),
    "jacobian": Standard(20, _jacobian),
    "ntk": Standard(15, _ntk),
    "plasticity": Standard(150, _plasticity),
}


def with_roughness(evidence: Evidence, model: nn.Module, inputs: Any, known: Setting) -> Evidence:
    """The evidence with how differently the network answers to neighbouring inputs, twice in a row."""
    given = take_samples(inputs, slice(_ACTIVITY))
    neighbours = nearest(given) if known.neighbours is None else known.neighbours
    if neighbours is None or not known.shape:
        return evidence
    with preserve_state(model) as network, torch.no_grad():
        found = answers_apart(one_tensor(run(network, given)), neighbours)
    known.roughness[:] = [*known.roughness[-1:], 0.0 if found is None else found]
    return evidence.with_(roughness=min(known.roughness) if len(known.roughness) == 2 else None)


def has_grown(evidence: Evidence) -> bool:
    """Whether the growth is beyond its lowest limit: then the verdict depends on the roughness."""
    grown = growth(evidence.largest, evidence.initial or {})
    return bool(grown) and sum(grown.values()) / len(grown) > _LEAST_GROWTH


UNITS = frozenset(("activity", "features"))
"""The measures of what units do, which wavers."""


def added(evidence: Evidence, result: object, known: Setting) -> Evidence:
    """The evidence with what a measure found."""
    if isinstance(result, WeightSpectra):
        return evidence.with_(spectra=result)
    if isinstance(result, Norms):
        first = evidence.initial is None and not any(map(math.isnan, result.values()))
        return evidence.with_(largest=dict(result), initial=dict(result) if first else evidence.initial)
    if isinstance(result, Activity):
        return _with_activity(evidence.with_(normalised=known.normalised), activity_places(result))
    if isinstance(result, NTK):
        return evidence.with_(ntk_condition=kernel_condition(result, known.shape))
    if isinstance(result, Plasticity):
        return evidence.with_(diverged=diverged(result))
    return evidence


def _with_activity(evidence: Evidence, places: dict[str, LayerActivity]) -> Evidence:
    """What units do, and, the first time, what later looks are compared with."""
    inputs = max((layer.inputs for layer in places.values()), default=0)
    found = evidence.with_(
        activity=places, inputs=inputs, start=evidence.start or places, start_name="the first look"
    )
    if not any(layer.rank_samples for layer in places.values()):
        return found
    return found.with_(features=places, start_features=evidence.start_features or places)
