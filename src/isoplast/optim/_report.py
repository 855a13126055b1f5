"""What an optimizer keeps isometric: the counts, the matrices and the time constants."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from isoplast._core.text import text_table
from isoplast.optim._groups import Group, learning_rate
from isoplast.optim._roles import BY_SHAPE, Roles, is_frozen


@dataclass(frozen=True)
class KeptMatrix:
    """One parameter under isometry.

    Attributes:
        name: the parameter's name, or its place as "group 0, parameter 2".
        shape: the parameter's shape.
        matrices: how many matrices it holds (3 for a fused q, k, v projection).
        isometry: the strength lambda.
        time_constant: 1 / (8 lr lambda) in optimizer steps, at the present learning rate.
        target: the square that its singular values are pulled to: 1, less what weight decay takes off.
    """

    name: str
    shape: tuple[int, ...]
    matrices: int
    isometry: float
    time_constant: float
    target: float


@dataclass(frozen=True)
class IsometryReport:
    """What is kept isometric, how strongly, and how long it takes.

    Attributes:
        kept: the parameters under isometry.
        parameters_kept: number of scalars in them.
        parameters: number of scalars in all parameters of the optimizer.
    """

    kept: tuple[KeptMatrix, ...]
    parameters_kept: int
    parameters: int

    @property
    def matrices(self) -> int:
        """The number of matrices."""
        return sum(k.matrices for k in self.kept)

    @property
    def time_constants(self) -> tuple[float, float]:
        """The shortest and the longest time constant, in steps; infinite if nothing is kept."""
        times = [k.time_constant for k in self.kept] or [math.inf]
        return min(times), max(times)

    @property
    def targets(self) -> tuple[float, float]:
        """The lowest and the highest target of the squared singular values; 1 without weight decay."""
        targets = [k.target for k in self.kept] or [1.0]
        return min(targets), max(targets)

    def warning(self, steps: int) -> str | None:
        r"""A line that says so if a run is shorter than the time constant, and what it still does; or None.

        After a fraction x < 1 of the time constant the step has brought even the largest singular
        value down to :math:`1 / \sqrt{1 - e^{-x}}`, and moved those below that hardly at all.

        Args:
            steps: the length of the run, in optimizer steps.
        """
        shortest, _ = self.time_constants
        fraction = steps / shortest
        if not self.kept or fraction >= 1:
            return None
        level = 1 / math.sqrt(-math.expm1(-fraction)) if fraction > 0 else math.inf
        return (
            f"{steps:,} steps are fewer than the isometry time constant of {_steps(shortest)} steps: only "
            f"singular values above about {level:.2g} are pulled back; for more raise isometry, or set "
            "isometry_time to a tenth of the run"
        )

    def __str__(self) -> str:
        if not self.kept:
            return "nothing is kept isometric"
        low, high = self.time_constants
        times = _steps(low) if high <= 1.005 * low else f"{_steps(low)} to {_steps(high)}"
        noun = "matrix" if self.matrices == 1 else "matrices"
        return (
            f"{self.matrices} {noun}, {_count(self.parameters_kept)} of {_count(self.parameters)} parameters "
            f"under isometry, time constant {times} steps{self._target()}"
        )

    def _target(self) -> str:
        low, high = self.targets
        if low == high == 1:
            return ""
        between = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        return f", target sigma^2 = {between} (weight decay)"

    def table(self) -> str:
        """One line per parameter: name, shape, number of matrices, strength, time constant, target."""
        columns = 5 if self.targets == (1.0, 1.0) else 6
        header = ("parameter", "shape", "matrices", "isometry", "time constant", "sigma^2")
        rows = []
        for k in self.kept:
            size, strength = "x".join(map(str, k.shape)), f"{k.isometry:g}"
            times, target = _steps(k.time_constant), f"{k.target:.3g}"
            rows.append((k.name, size, str(k.matrices), strength, times, target)[:columns])
        return text_table(header[:columns], rows, right=False)


def isometry_report(
    groups: Iterable[Group], roles: Roles = BY_SHAPE, decoupled: bool = False
) -> IsometryReport:
    """Reads the settled parameter groups of an optimizer; frozen parameters are not kept.

    Args:
        groups: of the optimizer.
        roles: of its parameters.
        decoupled: whether its weight decay is decoupled though its groups do not say so.
    """
    kept: list[KeptMatrix] = []
    total = inside = 0
    for g, group in enumerate(groups):
        names = group.get("param_names") or [f"group {g}, parameter {i}" for i in range(len(group["params"]))]
        total += sum(p.numel() for p in group["params"])
        if group.get("isometry", 0.0) == 0:
            continue
        of = {id(p): name for p, name in zip(group["params"], names, strict=True)}
        rate = 8.0 * float(learning_rate(group)) * group["isometry"]
        trainable = (p for p in group["params"] if not is_frozen(p))
        for p, layout in roles.matrices(trainable, group):
            count = sum(math.prod(v.shape[:-2]) for v in layout.views(p))
            time = 1.0 / rate if rate > 0 else math.inf
            target = 1 - _decay(group, decoupled) / (4 * group["isometry"])
            kept.append(KeptMatrix(of[id(p)], tuple(p.shape), count, group["isometry"], time, target))
            inside += p.numel()
    return IsometryReport(tuple(kept), inside, total)


def _decay(group: Group, decoupled: bool) -> float:
    """The weight decay wd of W <- (1 - lr wd) W, where the group says that its optimizer decays like that.

    Decoupled decay does. SGD's gradient of (wd/2) |W|^2 does, multiplied by what momentum makes of a
    constant gradient. In adaptive optimizers with coupled decay no number can be given.
    """
    decay = float(group.get("weight_decay") or 0.0)
    if "dampening" in group and "momentum" in group:
        return decay * ((1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1.0)
    if group.get("decoupled_weight_decay") or group.get("weight_decouple") or "ns_steps" in group:
        return decay
    return decay if decoupled else 0.0


def warn_of_decay(groups: Iterable[Group], roles: Roles = BY_SHAPE, decoupled: bool = False) -> None:
    """Says once where weight decay moves the target of the squared singular values below 0.5.

    An optimizer state of AdamW brings its weight decay along: 0.1 beside isometry 0.01 makes the target
    -1.5, and the singular values go to zero.
    """
    decayed = [group for group in groups if group.get("weight_decay")]
    low = min(isometry_report(decayed, roles, decoupled).kept, key=lambda k: k.target, default=None)
    if low is not None and low.target < 0.5:
        warnings.warn(
            "weight decay moves the target of the squared singular values from 1 to 1 - wd / (4 isometry) = "
            f"{low.target:.3g} ({low.name}, isometry {low.isometry:g}): set weight_decay=0 for the groups "
            "under isometry, or raise isometry",
            stacklevel=3,
        )


def _steps(value: float) -> str:
    return "infinitely many" if math.isinf(value) else f"{value:,.0f}".replace(",", " ")


def _count(value: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
