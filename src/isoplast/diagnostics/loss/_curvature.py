"""The curvature of the loss: extreme eigenvalues, trace and effective rank of its Hessian, matrix-free."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._lanczos import Ritz, lanczos
from isoplast.diagnostics._linear import Linearised, Samples, derivatives, refuse_once_differentiable
from isoplast.diagnostics._result import Result, format_number
from isoplast.diagnostics.loss._objective import Loss, Objective, Part, finite
from isoplast.isometry import effective_rank
from isoplast.model import differentiable_kernels, preserve_state

_KINDS = ("hessian", "gauss-newton")


@dataclasses.dataclass(frozen=True, eq=False)
class Curvature(Result):
    """The spectrum of the Hessian of a loss, or of its Gauss-Newton part. All NaN if anything is not finite.

    Attributes:
        kind: "hessian" or "gauss-newton".
        eigenvalues: the largest ones, descending, float64 (top,).
        errors: within this distance of each lies an eigenvalue; 0 where the spectrum is complete.
        smallest: the smallest eigenvalue: below zero where the loss curves down.
        trace, trace_error: sum of the eigenvalues, and the standard error of its estimate.
        effective_rank: exp of the entropy of the absolute eigenvalues over their sum.
        participation_rank: (sum of eigenvalues)^2 / sum of their squares.
        complete: whether all eigenvalues were computed; else the ranks and the trace are estimates.
        parameters: number of trainable parameters: the size of the matrix.
        samples: n.
    """

    kind: str
    eigenvalues: Tensor
    errors: Tensor
    smallest: float
    trace: float
    trace_error: float
    effective_rank: float
    participation_rank: float
    complete: bool
    parameters: int
    samples: int

    @property
    def sharpness(self) -> float:
        """The largest eigenvalue; gradient descent is stable up to a learning rate of 2 / sharpness."""
        return float(self.eigenvalues[0])

    @property
    def finite(self) -> bool:
        """Whether weights, outputs and derivatives were all finite."""
        return math.isfinite(self.sharpness)

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under their names; of the eigenvalues the largest and the smallest."""
        return {
            "sharpness": self.sharpness,
            "sharpness_error": float(self.errors[0]),
            "smallest": self.smallest,
            "trace": self.trace,
            "trace_error": self.trace_error,
            "effective_rank": self.effective_rank,
            "participation_rank": self.participation_rank,
        }

    def __str__(self) -> str:
        rows = [
            [f"eigenvalue {i + 1}", format_number(float(value)), format_number(float(error))]
            for i, (value, error) in enumerate(zip(self.eigenvalues, self.errors, strict=True))
        ]
        rows += [
            ["smallest eigenvalue", format_number(self.smallest), ""],
            ["trace", format_number(self.trace), format_number(self.trace_error)],
            ["effective rank", format_number(self.effective_rank), ""],
            ["participation rank", format_number(self.participation_rank), ""],
        ]
        heading = f"{self.kind}, {self.parameters} parameters, {self.samples} samples"
        return f"{heading}\n{text_table(('', 'value', 'error'), rows)}"


def curvature(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Loss = cross_entropy,
    *,
    kind: str = "hessian",
    top: int = 5,
    steps: int = 30,
    probes: int = 3,
    batch_size: int = 256,
    seed: int = 0,
) -> Curvature:
    r"""Largest eigenvalues, trace and effective rank of the curvature of a loss at the present weights.

    .. math:: H = \nabla^2_\theta \frac1n \sum_i \ell(f_\theta(x_i), y_i)
              = \underbrace{\frac1n \sum_i J_i^T (\nabla^2_f \ell_i) J_i}_{\text{Gauss-Newton, } G}
              + \frac1n \sum_{i,a} (\nabla_f \ell_i)_a \nabla^2_\theta f_a(x_i)

    over all trainable parameters, by Lanczos iteration on products with vectors (two backward passes each
    for H; J v and J^T u for G). G is positive semi-definite for every convex loss, and under squared loss its
    non-zero eigenvalues are those of the empirical NTK over n. Piecewise linear activations have no
    curvature of their own: H leaves out their kinks.

    The network is in evaluation mode (BatchNorm on running statistics, no dropout), autocast is off, and all
    is left as it was.

    Args:
        model: any module whose output is one tensor.
        inputs: a tensor (n, ...), or a tuple or mapping of such, on the model's device.
        targets: of the samples, as the loss takes them.
        loss: a function of (outputs, targets), the mean over the samples; twice differentiable.
        kind: "hessian" for H, "gauss-newton" for G.
        top: number of the largest eigenvalues to return, 1 <= top <= steps.
        steps: Lanczos steps per starting vector, >= 1; as many as parameters give the whole spectrum. Each
            takes one product, and one vector of memory.
        probes: starting vectors, >= 1; two or more for the error of the trace.
        batch_size: samples differentiated at a time, >= 1: bounds the memory; all at once saves time.
        seed: determines the starting vectors.

    Returns:
        The result: print it, or look at `.sharpness`, `.eigenvalues`, `.trace`, `.effective_rank`.

    Raises:
        IsoplastError: for a value out of range, inputs or targets that do not fit, an unknown kind, an
            operation without a second derivative, or one whose backward pass is not its derivative.

    Example:
        >>> linear = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> found = curvature(linear, x, torch.zeros(2, 1), nn.functional.mse_loss)
        >>> [round(value, 4) for value in found.eigenvalues.tolist()]  # of 2 X^T X / n
        [4.0, 1.0]

    Reference:
        Ghorbani, Krishnan and Xiao, arXiv:1901.10159 (Lanczos quadrature of Hessians); Martens,
        arXiv:1412.1193 (Gauss-Newton).
    """
    if kind not in _KINDS:
        raise unknown("kind of curvature", kind, _KINDS)
    if not 1 <= top <= steps:
        raise IsoplastError(f"top is {top} with {steps} Lanczos steps: it must lie between 1 and the steps")
    with preserve_state(model) as network, torch.enable_grad(), differentiable_kernels(network):
        objective = Objective(network, inputs, targets, loss, batch_size)
        product = _product(objective, kind)
        found = lanczos(
            product,
            objective.size,
            steps=steps,
            # The whole spectrum is the same from every start.
            probes=1 if steps >= objective.size else probes,
            generator=torch.Generator().manual_seed(seed),
            dtype=objective.dtype,
            device=objective.device,
            rounding=objective.rounding,
        )
    return _summarise(found, kind, top, objective.samples)


def _product(objective: Objective, kind: str) -> Callable[[Tensor], Tensor]:
    if not finite(objective.network.parameters()):
        return lambda vector: torch.full_like(vector, math.nan)
    return _HessianProduct(objective) if kind == "hessian" else _GaussNewtonProduct(objective)


class _HessianProduct:
    """v -> H v by differentiating the gradient's product with v."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        parts = list(objective.parts())
        # One pass for all samples: its graph serves every product. Several: one graph at a time.
        self._graph = self._gradient(parts[0]) if len(parts) == 1 else None
        self._parts = parts

    def _gradient(self, part: Part) -> list[Tensor]:
        """The gradient on some samples, with a graph of its own."""
        objective = self._objective
        loss = part.share * objective.mean_loss(objective.outputs(part.inputs), part.targets)
        with derivatives(second=True):
            found = objective.differentiated(loss, create_graph=True)
        refuse_once_differentiable(found)
        return list(found)

    def __call__(self, vector: Tensor) -> Tensor:
        pieces = self._objective.split(vector)
        if self._graph is not None:
            return self._along(self._graph, pieces, keep=True)
        total = torch.zeros_like(vector)
        for part in self._parts:
            total += self._along(self._gradient(part), pieces, keep=False)
        return total

    def _along(self, gradient: list[Tensor], pieces: list[Tensor], keep: bool) -> Tensor:
        inner = torch.stack([(g * v).sum() for g, v in zip(gradient, pieces, strict=True)]).sum()
        with derivatives(second=True):
            return self._objective.join(self._objective.differentiated(inner, retain_graph=keep))


class _GaussNewtonProduct:
    """v -> G v as J^T H_f (J v)."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._parts = [
            (part, Samples(objective.network, part.inputs, objective.parameters))
            for part in objective.parts()
        ]
        # One graph for all samples serves every product; several are made anew each time.
        self._kept: tuple[Linearised, Linearised] | None = None
        if len(self._parts) == 1:
            part, samples = self._parts[0]
            map_ = samples.linearised()
            self._kept = map_, self._slope(map_.values, part)

    def _slope(self, values: Tensor, part: Part) -> Linearised:
        """The derivative, by the outputs, of the slope of the loss: H_f."""
        at = values.detach().requires_grad_()
        loss = part.share * self._objective.mean_loss(at, part.targets)
        (slope,) = torch.autograd.grad(loss, at, create_graph=True)
        return Linearised(slope, [at])

    def __call__(self, vector: Tensor) -> Tensor:
        pieces = self._objective.split(vector)
        if self._kept is not None:
            map_, slope = self._kept
            return self._objective.join(map_.pull(slope.pull(map_.push(pieces))[0]))
        total = torch.zeros_like(vector)
        for part, samples in self._parts:
            map_, pushed = samples.pushed(pieces)
            total += self._objective.join(map_.pull(self._slope(map_.values, part).pull(pushed)[0]))
        return total


def _summarise(found: Ritz, kind: str, top: int, samples: int) -> Curvature:
    best = int(found.values[:, 0].argmax())
    trace, error = _trace_of(found, lambda values: values)
    square, _ = _trace_of(found, torch.square)
    return Curvature(
        kind=kind,
        eigenvalues=found.values[best, :top],
        errors=found.residuals[best, :top],
        smallest=found.smallest.value,
        trace=trace,
        trace_error=error,
        effective_rank=float(effective_rank(found.values[0].abs()))
        if _complete(found)
        else found.effective_rank(),
        participation_rank=trace**2 / square if square else 0.0,
        complete=_complete(found),
        parameters=found.size,
        samples=samples,
    )


def _complete(found: Ritz) -> bool:
    return found.values.shape[1] == found.size


def _trace_of(found: Ritz, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Trace of a function of the matrix and its standard error: 0 where all eigenvalues are known."""
    if _complete(found):
        return float(function(found.values[0]).sum()), 0.0
    estimate = found.trace_of(function)
    return estimate.value, estimate.error
