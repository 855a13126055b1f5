"""What the spectrum of an empirical NTK says, exactly or by estimates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast._core.text import text_table
from isoplast.diagnostics._lanczos import Ritz, lanczos
from isoplast.diagnostics._result import Result, format_number, wrapped
from isoplast.isometry import effective_rank


@dataclasses.dataclass(frozen=True)
class NTK(Result):
    r"""The empirical NTK :math:`K = J J^T` of n samples with C outputs each, and its spectrum.

    m is the number of eigenvalues: n C, or n (C - 1) for centred outputs.

    Attributes:
        matrix: float64 (n C, n C), sample-major: row i C + a is output a of sample i; None from "lanczos".
        eigenvalues: float64, descending, m of them; from "lanczos" the Ritz values of one starting vector.
        condition_number: largest over smallest eigenvalue; infinite where the smallest is not above rounding
            (m eps of the largest). It bounds the progress of the worst task.
        participation_rank: (sum lambda)^2 / sum lambda^2, in [1, m]. Divided by m it is the progress of the
            average task in one step of the best size (`one_step_plasticity`).
        effective_rank: exp of the entropy of lambda / sum lambda, in [1, m].
        isotropy_gap: ||K / mean(lambda) - I||_F; 0 for the ideal kernel c I.
        std: standard deviation of the eigenvalues.
        mean: mean of the eigenvalues.
        trace: sum of the eigenvalues.
        rank: eigenvalues above rounding; NaN from "lanczos".
        alignment: g^T K g / |g|^2 over the mean eigenvalue, for the gradient g of the loss by the outputs:
            above 1, this task is learned faster than an average one; NaN without targets.
        errors: standard errors of random estimates and bounds of extreme eigenvalues, by name; empty if
            exact.
        ritz: from "lanczos", the Ritz values and weights: `ritz.density(...)`.
        size: m.
        samples: n.
        outputs: C.
        parameters: number of trainable entries the kernel is about.
        biases: whether biases are among them.
        centred: whether the mean over the last output dimension is projected out.
        method: how it was computed.
        non_finite: where a NaN or an infinity was found; if anywhere, all values are NaN.

    Reference:
        arXiv:2606.09762, Eq 3-8. The isotropy gap is plotted there without a formula; this one is ours.
    """

    matrix: Tensor | None
    eigenvalues: Tensor
    condition_number: float
    participation_rank: float
    effective_rank: float
    isotropy_gap: float
    std: float
    mean: float
    trace: float
    rank: float
    alignment: float
    errors: Mapping[str, float]
    ritz: Ritz | None
    size: int
    samples: int
    outputs: int
    parameters: int
    biases: bool
    centred: bool
    method: str
    non_finite: tuple[str, ...]

    @property
    def finite(self) -> bool:
        """Whether weights, inputs and outputs hold numbers only."""
        return not self.non_finite

    @property
    def one_step_plasticity(self) -> float:
        """Share of a random task's squared loss that the best single step removes: participation_rank / m."""
        return self.participation_rank / self.size

    def of_outputs(self, chosen: Sequence[int]) -> NTK:
        """The kernel of some of the outputs, by the same parameters.

        Args:
            chosen: which, each in 0 .. C - 1.

        Raises:
            IsoplastError: there is no matrix ("lanczos"), or the outputs are centred, which mixes them.

        Example:
            >>> from isoplast.diagnostics import ntk
            >>> net = torch.nn.Linear(2, 3)
            >>> ntk(net, torch.randn(4, 2)).of_outputs([2]).matrix.shape
            torch.Size([4, 4])
        """
        if self.matrix is None:
            raise IsoplastError("a kernel by lanczos has no matrix: compute it by another method")
        if self.centred:
            raise IsoplastError("centred outputs are mixtures of all: compute the kernel with centred=False")
        facts = {
            **{"samples": self.samples, "outputs": len(chosen), "size": self.samples * len(chosen)},
            **{"parameters": self.parameters, "biases": self.biases, "centred": False},
        }
        if self.non_finite:
            return nothing(self.non_finite, self.method, facts)
        rows = (torch.arange(self.samples)[:, None] * self.outputs + torch.tensor(chosen)).flatten()
        rows = rows.to(self.matrix.device)
        return exact(self.matrix[rows][:, rows], None, None, self.method, facts)

    def as_dict(self) -> dict[str, float]:
        """Return every number under a name of its own."""
        values = {name: float(getattr(self, name)) for name in _NUMBERS}
        values |= {"largest": float(self.eigenvalues[0]), "smallest": float(self.eigenvalues[-1])}
        values |= {"one_step_plasticity": self.one_step_plasticity, "size": float(self.size)}
        return values | {f"{name}_error": value for name, value in self.errors.items()}

    def __str__(self) -> str:
        outputs = f"{self.outputs} {'centred ' if self.centred else ''}outputs"
        biases = "with" if self.biases else "without"
        lines = [
            f"NTK of {self.samples} samples x {outputs}, {self.parameters} parameters {biases} biases "
            f"({self.method})"
        ]
        if self.non_finite:
            lines.append(f"not finite: {', '.join(self.non_finite)}; nothing can be said about the kernel")
            return wrapped("\n".join(lines))
        rows = [
            (name.replace("_error", " +-"), format_number(value))
            for name, value in self.as_dict().items()
            if not math.isnan(value)
        ]
        return wrapped("\n".join([*lines, text_table(("", "value"), rows)]))


_NUMBERS = (
    "condition_number",
    "participation_rank",
    "effective_rank",
    "isotropy_gap",
    "std",
    "mean",
    "trace",
    "rank",
    "alignment",
)


def nothing(broken: tuple[str, ...], method: str, facts: dict[str, Any]) -> NTK:
    """The result where a NaN or an infinity was found: every value is NaN."""
    nans: dict[str, Any] = dict.fromkeys(_NUMBERS, math.nan)
    rows = facts["samples"] * facts["outputs"]
    matrix = None if method == "lanczos" else torch.full((rows, rows), math.nan, dtype=torch.float64)
    eigenvalues = torch.full((facts["size"],), math.nan, dtype=torch.float64)
    return NTK(matrix, eigenvalues, **nans, errors={}, ritz=None, method=method, non_finite=broken, **facts)


# Bytes per entry of the matrix that `exact` takes: the matrix and the copy that LAPACK works in.
SPECTRUM = 16


def exact(
    matrix: Tensor, basis: Tensor | None, gradient: Tensor | None, method: str, facts: dict[str, Any]
) -> NTK:
    """The result from the whole matrix; with a basis of the centred outputs, on their space alone."""
    if basis is None:
        eigenvalues = torch.linalg.eigvalsh(matrix).flip(0)
    else:
        # On the space of centred outputs: the mean's directions are not counted as zeros.
        basis = basis.to(matrix)
        matrix = _by_classes(matrix, basis.t())
        eigenvalues = torch.linalg.eigvalsh(matrix).flip(0)
        matrix = _by_classes(matrix, basis)
    numbers: dict[str, Any] = _spectrum(eigenvalues)
    alignment = math.nan
    if gradient is not None:
        alignment = _alignment(lambda g: matrix @ g, gradient, basis, numbers["mean"])
    return NTK(
        matrix,
        eigenvalues,
        **numbers,
        alignment=alignment,
        errors={},
        ritz=None,
        method=method,
        non_finite=(),
        **facts,
    )


def _by_classes(matrix: Tensor, basis: Tensor) -> Tensor:
    """Return (I x basis) matrix (I x basis)^T: rows and columns grouped by the columns of the basis."""
    new, old = basis.shape
    samples = len(matrix) // old
    found = matrix.new_empty(samples * new, samples * new)
    for index in range(samples):  # a temporary of all rows would be as large as the matrix
        rows = basis @ matrix[index * old : (index + 1) * old]
        grouped = rows.view(new, samples, old) @ basis.t()
        found[index * new : (index + 1) * new] = grouped.flatten(1)
    return found


def _spectrum(eigenvalues: Tensor) -> dict[str, float]:
    size = len(eigenvalues)
    total, square = float(eigenvalues.sum()), float(eigenvalues.square().sum())
    mean = total / size
    floor = size * torch.finfo(torch.float64).eps * float(eigenvalues[0])
    smallest, alive = float(eigenvalues[-1]), total > 0
    return {
        "condition_number": float(eigenvalues[0]) / smallest if smallest > floor else math.inf,
        "participation_rank": total**2 / square if alive else 0.0,
        "effective_rank": float(effective_rank(eigenvalues.clamp(min=0.0))),
        "isotropy_gap": float((eigenvalues / mean - 1).norm()) if alive else math.nan,
        "std": float(eigenvalues.std(correction=0)),
        "mean": mean,
        "trace": total,
        "rank": float((eigenvalues > floor).sum()),
    }


def _alignment(
    product: Callable[[Tensor], Tensor], gradient: Tensor, basis: Tensor | None, mean: float
) -> float:
    """Return the Rayleigh quotient (Eq 4) of the loss's gradient over the mean eigenvalue."""
    if basis is not None:
        groups = gradient.unflatten(-1, (-1, len(basis)))  # type: ignore[no-untyped-call]
        gradient = (groups - groups.mean(-1, keepdim=True)).flatten(1)
    flat = gradient.flatten()
    length = float(flat.square().sum())
    if length == 0 or mean <= 0:
        return math.nan
    return float(flat @ product(flat).double()) / length / mean


def estimated(
    product: Callable[[Tensor], Tensor],
    values: Tensor,
    basis: Tensor | None,
    gradient: Tensor | None,
    settings: tuple[int, int, int],
    facts: dict[str, Any],
) -> NTK:
    """The result from products alone; `settings` are the steps, probes and seed of the Lanczos iteration."""
    steps, probes, seed = settings
    size = facts["size"]
    if basis is not None:
        basis = basis.to(values)

    def full(vector: Tensor) -> Tensor:
        return product(vector.to(values.dtype).view_as(values)).flatten()

    def restricted(vector: Tensor) -> Tensor:
        if basis is None:
            return full(vector)
        groups = vector.view(-1, basis.shape[1]) @ basis.t()
        return (full(groups).view(-1, len(basis)) @ basis).flatten()

    found = lanczos(
        restricted,
        size,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
        dtype=values.dtype,
        device=values.device,
        probes=probes,
    )
    numbers, errors = _moments(found, torch.finfo(values.dtype).eps)
    alignment = math.nan
    if gradient is not None:
        alignment = _alignment(full, gradient, None if basis is None else basis.double(), numbers["mean"])
    return NTK(
        None,
        found.values[0],
        **numbers,
        alignment=alignment,
        errors=errors,
        ritz=found,
        method=f"lanczos, {found.values.shape[1]} steps, {probes} probes",
        non_finite=() if found.finite else ("products with the kernel",),
        **facts,
    )


def _moments(found: Ritz, eps: float) -> tuple[dict[str, Any], dict[str, float]]:
    """Return estimates of the spectrum's numbers and their errors."""
    size = found.size
    trace, square = found.trace_of(lambda v: v), found.trace_of(torch.square)
    alive = trace.value > 0
    mean = trace.value / size
    rank = trace.value**2 / square.value if alive else 0.0
    largest, smallest = found.largest, found.smallest
    floor = size * eps * largest.value
    numbers = {
        "condition_number": largest.value / smallest.value if smallest.value > floor else math.inf,
        "participation_rank": rank,
        "effective_rank": found.effective_rank(),
        "isotropy_gap": math.sqrt(max(0.0, size**2 / rank - size)) if alive else math.nan,
        "std": math.sqrt(max(0.0, square.value / size - mean**2)),
        "mean": mean,
        "trace": trace.value,
        "rank": math.nan,
    }
    errors = {
        "largest": largest.error + eps * largest.value,
        "smallest": smallest.error + eps * largest.value,
        "trace": trace.error,
    }
    return numbers, errors
