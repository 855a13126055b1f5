"""Everything at once: can this network still learn, and if not, why?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError, reason_of
from isoplast.diagnostics._outputs import are_classes
from isoplast.diagnostics._result import Result
from isoplast.diagnostics._selection import for_jacobian, for_kernel
from isoplast.diagnostics.health._decide import decide
from isoplast.diagnostics.health._finding import Finding, has_critical, ordered
from isoplast.diagnostics.health._inspection import Inspection, inspect
from isoplast.diagnostics.health._numbers import diverged, kernel_condition, probe_lr
from isoplast.diagnostics.health._optimizer_findings import (
    keeps_isometry,
    optimizer_findings,
    orthogonalises,
)
from isoplast.diagnostics.jacobian._jacobian import Jacobian, jacobian
from isoplast.diagnostics.loss._curvature import Curvature, curvature
from isoplast.diagnostics.loss._gradients import Gradients, gradients
from isoplast.diagnostics.ntk._ntk import ntk
from isoplast.diagnostics.ntk._result import NTK
from isoplast.diagnostics.plasticity._plasticity import Plasticity, plasticity
from isoplast.model import (
    outputs,
    preserve_state,
    refuse_non_finite,
    sample_count,
    take_samples,
    unwrap,
)

# How many of the inputs each instrument looks at.
_KERNEL, _JACOBIAN, _LOSS, _PROBE = 32, 16, 64, 512
_KERNEL_SIZE = 2048  # rows: eigenvalues within seconds
_PROBE_TASKS, _PROBE_STEPS = 4, 100
# Lanczos keeps a vector as long as all parameters for every step: 1 GiB in float32.
_CURVATURE_NUMBERS = 2**28
_CURVATURE_STEPS = 20

R = TypeVar("R", bound=Result)


@dataclasses.dataclass(frozen=True)
class Diagnosis(Result):
    """What all instruments say about a network; None where one was left out.

    Attributes:
        inspection: spectra of the weights and activity of the units.
        jacobian: from inputs to outputs.
        ntk: the empirical NTK, on centred outputs where there are several.
        plasticity: the probe beside fresh twins.
        gradients, curvature: of the loss, where targets were given.
        findings: what is wrong, the worst first.
        left_out: instruments that could not be used, with the reason.
    """

    inspection: Inspection
    jacobian: Jacobian | None
    ntk: NTK | None
    plasticity: Plasticity | None
    gradients: Gradients | None
    curvature: Curvature | None
    findings: tuple[Finding, ...]
    left_out: Mapping[str, str]

    @property
    def healthy(self) -> bool:
        """Whether no finding is critical and no layer half dead; warnings may be there."""
        return not has_critical(self.findings) and not self.inspection.half_dead

    def as_dict(self) -> dict[str, float]:
        """Return every number as "instrument/name"."""
        return {
            f"{name}/{key}": value
            for name, result in self._results().items()
            for key, value in result.as_dict().items()
        }

    def _results(self) -> dict[str, Result]:
        found = {"weights": self.inspection.spectra, "activity": self.inspection.activity}
        rest = ("jacobian", "ntk", "plasticity", "gradients", "curvature")
        every = found | {name: getattr(self, name) for name in rest}
        return {name: result for name, result in every.items() if result is not None}

    def __str__(self) -> str:
        verdict = "\n".join(map(str, self.findings)) or "healthy: nothing found"
        missing = "\n".join(f"{name} is left out: {reason}" for name, reason in self.left_out.items())
        parts = [verdict, *([missing] if missing else []), *map(str, self._results().values())]
        return "\n\n".join(parts)


class _Instruments:
    """Takes measures, and notes which the network does not allow."""

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}

    def use(self, name: str, measure: Callable[[], R]) -> R | None:
        try:
            return measure()
        except Exception as error:  # whatever runs somebody's network may raise anything
            self.left_out[name] = reason_of(error)
            return None


def diagnose(
    model: nn.Module,
    inputs: Any,
    targets: Tensor | None = None,
    *,
    optimizer: Optimizer | None = None,
    steps: int | None = None,
    initial: nn.Module | None = None,
    probe: bool = True,
    lr: float | None = None,
) -> Diagnosis:
    """Look at a network with every instrument, and say what is wrong and what to do.

    It also finds what silently disables a remedy: trainable parameters that are in no group of the optimizer,
    an isometry strength whose time constant is longer than the run, isometry that no matrix has or that
    nothing acts on, outputs that do not depend on the inputs. The model, its optimizer and all random
    generators are left as they were. An instrument that does not suit the network is left out, and that is
    said: the Jacobian of a model of tokens, the probe where there is a single output.

    Args:
        model: any module that returns one tensor (n, ...).
        inputs: some hundred samples: a tensor, or a tuple or mapping of tensors.
        targets: classes, shaped like the outputs without their last dimension (cross-entropy), or numbers
            shaped like the outputs (squared error): then gradients and curvature are measured too.
        optimizer: what trains the network.
        steps: length of the run in optimizer steps.
        initial: the network at its start, for distances and growth.
        probe: whether to train copies on fresh random labels: the most telling, and the most expensive (800
            training steps on batches of 64).
        lr: of the probe's Adam; None takes that of the optimizer if it is of Adam's family, else 1e-3.

    Returns:
        The numbers with the findings; print it.

    Raises:
        IsoplastError: for inputs or targets that do not fit, or that hold NaN or infinities.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> print(diagnose(model, torch.randn(64, 8), probe=False).healthy)
        True

    Reference:
        arXiv:2606.09762, sections 2 and 4; docs/what-each-number-means.md defines every number.
    """
    refuse_non_finite(inputs)
    found = _outputs(model, inputs)
    loss = None if targets is None else _loss(found, targets, sample_count(inputs))
    asked = optimizer_findings(model, optimizer, steps)
    inspection = inspect(model, inputs, initial=initial)
    evidence = inspection.evidence.with_(
        isometric=keeps_isometry(optimizer), orthogonalised=orthogonalises(optimizer)
    )
    tools = _Instruments()
    if inspection.activity is None and inspection.spectra.finite:
        tools.left_out["activity"] = "no hidden layer was seen"
    if not inspection.spectra.finite:  # nothing that runs the network says more
        why = dict.fromkeys(("activity", "jacobian", "ntk", "plasticity"), "the weights are not finite")
        findings = tuple(ordered([*asked, *decide(evidence)]))
        return Diagnosis(inspection, None, None, None, None, None, findings, why)
    slopes = tools.use("jacobian", lambda: jacobian(model, for_jacobian(inputs, _JACOBIAN), layers=False))
    kernel = tools.use("ntk", lambda: _kernel(model, inputs, found))
    trained = (
        tools.use("plasticity", lambda: _probe(model, inputs, probe_lr(lr, optimizer))) if probe else None
    )
    slope, bend = None, None
    if loss is not None:
        part, wanted = take_samples(inputs, slice(_LOSS)), take_samples(targets, slice(_LOSS))
        slope = tools.use("gradients", lambda: gradients(model, part, wanted, loss))
        bend = tools.use("curvature", lambda: _curvature(model, part, wanted, loss))
    evidence = evidence.with_(
        # Where the outputs are constant the Jacobian is zero and its condition says no more.
        jacobian_condition=None if slopes is None or evidence.constant else slopes.condition_number,
        ntk_condition=None if kernel is None else kernel_condition(kernel, tuple(found.shape)),
        diverged=(0, 0) if trained is None else diverged(trained),
    )
    findings = tuple(ordered([*asked, *decide(evidence)]))
    return Diagnosis(inspection, slopes, kernel, trained, slope, bend, findings, tools.left_out)


def _outputs(model: nn.Module, inputs: Any) -> Tensor:
    """The outputs for the first inputs, shape (n, ...)."""
    rows = min(_PROBE, sample_count(inputs))
    with preserve_state(model) as network, torch.no_grad():
        found = outputs(network, take_samples(inputs, slice(rows)))
    if found.ndim == 0 or len(found) != rows:
        raise IsoplastError(
            f"the model returns the shape {tuple(found.shape)} for {rows} samples: one row each is needed"
        )
    return found[:, None] if found.ndim == 1 else found


Loss = Callable[[Tensor, Any], Tensor]


def _loss(found: Tensor, targets: Tensor, samples: int) -> Loss:
    """The loss that suits the targets, tried on those of the outputs.

    Raises:
        IsoplastError: if none does.
    """
    if are_classes(targets, (samples, *found.shape[1:])):
        return lambda values, wanted: functional.cross_entropy(values.flatten(0, -2), wanted.flatten())
    return lambda values, wanted: functional.mse_loss(values, wanted.reshape(values.shape))


def _kernel(model: nn.Module, inputs: Any, found: Tensor) -> NTK:
    samples = for_kernel(inputs, found[0].numel(), _KERNEL, _KERNEL_SIZE)
    return ntk(model, samples, centred=found.shape[-1] > 1)


def _probe(model: nn.Module, inputs: Any, lr: float) -> Plasticity:
    rows = take_samples(inputs, slice(_PROBE))
    return plasticity(model, rows, tasks=_PROBE_TASKS, steps=_PROBE_STEPS, lr=lr)


def _curvature(model: nn.Module, inputs: Any, targets: Tensor, loss: Loss) -> Curvature:
    size = sum(parameter.numel() for parameter in unwrap(model).parameters() if parameter.requires_grad)
    steps = min(_CURVATURE_STEPS, _CURVATURE_NUMBERS // max(size, 1))
    if steps < 5:
        raise IsoplastError(f"{size} parameters: call curvature(model, ..., top=1, steps=...) yourself")
    return curvature(model, inputs, targets, loss, top=1, steps=steps)
