"""The plasticity probe: how much of the loss of fresh tasks a network removes within a budget of steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Result, format_number, wrapped
from isoplast.diagnostics._student import interval
from isoplast.diagnostics.plasticity._probe import MakeOptimizer, Probe, Problems, Task, seed_generators
from isoplast.model import clone, freshly_made, preserve_state, redrawn, usable

_STATES = ("fresh", "keep")


@dataclasses.dataclass(frozen=True, eq=False)
class Progress(Result):
    """What one network made of the tasks.

    Attributes:
        value: mean over the tasks of rho = 1 - L_t / L_0 after all steps: at most 1, 0 where nothing was
            learned, negative where the loss grew, NaN if any task diverged.
        low, high: confidence interval of that mean; NaN for a single task.
        per_task: rho of each task, shape (tasks,); NaN where the loss was not finite.
        losses: mean loss of each task at `at`, shape (tasks, points + 1).
        at: the steps after which it was measured, from 0.
        diverged: number of tasks on which the loss became infinite or NaN.
        learned: for random labels, mean of 1 - L_t / ln(classes): what remains of `value` once a
            network that is sure of old labels has merely become unsure. 0 is chance; NaN for other tasks.
    """

    value: float
    low: float
    high: float
    per_task: Tensor
    losses: Tensor
    at: tuple[int, ...]
    diverged: int
    learned: float

    @property
    def curve(self) -> Tensor:
        """Mean rho after each of the steps in `at`, shape (points + 1,); it starts at 0."""
        return _removed(self.losses).mean(0)

    def discounted(self, gamma: float) -> float:
        r"""The budget-free plasticity :math:`(1 - \gamma) \sum_{t \ge 0} \gamma^t P_t`.

        P is interpolated linearly between the points of the curve and constant after its end, so choose
        gamma such that gamma^steps is small.

        Args:
            gamma: in [0, 1).

        Reference:
            arXiv:2606.09762, footnote 3.
        """
        if not 0 <= gamma < 1:
            raise IsoplastError(f"gamma is {gamma}: it must lie in [0, 1)")
        steps = torch.arange(self.at[-1] + 1, dtype=torch.float64)
        at = torch.tensor(self.at, dtype=torch.float64)
        right = torch.searchsorted(at, steps).clamp(min=1)
        share = (steps - at[right - 1]) / (at[right] - at[right - 1])
        values = torch.lerp(self.curve[right - 1], self.curve[right], share)
        weights = gamma**steps
        return float((1 - gamma) * (weights * values).sum() + weights[-1] * gamma * values[-1])

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under their names; what does not apply is left out."""
        initial, final = self.losses[:, 0].mean(), self.losses[:, -1].mean()
        found = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "initial_loss": float(initial),
            "final_loss": float(final),
            "diverged": float(self.diverged),
        }
        return found if math.isnan(self.learned) and not self.diverged else {**found, "learned": self.learned}

    def __str__(self) -> str:
        return text_table(_HEADER, [_row("network", self)])


@dataclasses.dataclass(frozen=True, eq=False)
class Plasticity(Progress):
    """The plasticity of a network, beside that of freshly initialised twins on the same tasks.

    Attributes:
        fresh: the same for the twins, or None.
        gap: mean over the tasks of rho minus the twin's rho: negative where plasticity was lost.
        gap_low, gap_high: confidence interval of that mean paired difference.
        kept: trainable parameters that nothing knew how to draw anew: the twins have the trained ones.
        setting: what was done, in one line.
    """

    fresh: Progress | None
    gap: float
    gap_low: float
    gap_high: float
    kept: tuple[str, ...]
    setting: str

    def as_dict(self) -> dict[str, float]:
        """Return the numbers under their names, the twin's as `fresh_...`; no twin, none of those."""
        found = super().as_dict()
        if self.fresh is None:
            return found
        found.update({f"fresh_{key}": value for key, value in self.fresh.as_dict().items()})
        return {**found, "gap": self.gap, "gap_low": self.gap_low, "gap_high": self.gap_high}

    def __str__(self) -> str:
        rows = [_row("network", self)]
        if self.fresh is not None:
            rows.append(_row("fresh twin", self.fresh))
            rows.append(
                ["difference", *map(format_number, (self.gap, self.gap_low, self.gap_high)), "", "", ""]
            )
        lines = [self.setting, text_table(_HEADER, rows)]
        for name, progress in (("the network", self), ("the twin", self.fresh)):
            if progress is not None and progress.diverged:
                lines.append(
                    f"the loss of {name} diverged on {progress.diverged} of {len(self.per_task)} tasks"
                )
        if self.kept:
            lines.append(f"trained values kept in the twin: {', '.join(self.kept)}")
        return wrapped("\n".join(lines))


_HEADER = ("loss removed", "mean", "low", "high", "before", "after", "learned")


def _row(name: str, progress: Progress) -> list[str]:
    ends = progress.losses[:, 0].mean(), progress.losses[:, -1].mean()
    values = (progress.value, progress.low, progress.high, float(ends[0]), float(ends[1]), progress.learned)
    return [name, *map(format_number, values)]


def plasticity(
    model: nn.Module,
    inputs: Any,
    *,
    tasks: int = 8,
    steps: int = 100,
    lr: float = 1e-3,
    optimizer: Optimizer | MakeOptimizer | None = None,
    state: str = "fresh",
    task: Task | None = None,
    classes: int | None = None,
    batch_size: int = 64,
    fresh: bool | nn.Module | Callable[[], nn.Module] = True,
    points: int = 4,
    confidence: float = 0.95,
    seed: int = 0,
) -> Plasticity:
    r"""Measure the plasticity of a network: train copies of it on fresh tasks.

    .. math:: P_t(\theta) = E_\tau[\rho_{\tau,t}(\theta)], \qquad
              \rho_{\tau,t}(\theta) = 1 - \frac{L_\tau(\theta_t) - L^*_\tau}{L_\tau(\theta_0) - L^*_\tau}

    with :math:`L^*_\tau = 0`. A task gives every input a label of its own, uniformly random, under
    cross-entropy. For each task a copy of the network is trained for `steps` steps, and so is a twin with
    freshly drawn weights (anew for each task), on the same labels, batches and random numbers.

    Copies train in training mode: BatchNorm on batch statistics, dropout on, modules that a network in
    training mode holds in evaluation mode left there. Losses are measured on all inputs of the task in
    evaluation mode. Autocast is off. The network, its optimizer, all random generators and the order of
    the data stay as they are, to the bit; hooks of the network are not called (those of `torch.nn.utils`
    that compute weights are).

    A network that is sure of old labels starts from a high loss, and removes most of it by becoming unsure:
    compare `learned` and the losses too. Random labels are memorised, so pass a few hundred inputs: with
    fewer than steps * batch_size / inputs = 3 passes little can be seen of any network.

    Args:
        model: any module whose output is one tensor; compiled or data-parallel ones are unwrapped.
        inputs: a tensor (n, ...), or a tuple or mapping of such, on the model's device; a `task` of your own
            brings its own.
        tasks: number of tasks, >= 1; 2 for an interval.
        steps: the budget, >= 1 optimizer steps per task.
        lr: learning rate of the Adam that trains the copies if there is no `optimizer`.
        optimizer: an optimizer of this model, copied with its settings (present learning rate and an
            attachment of `isoplast.attach` included); or a function that makes one of a list of parameters.
        state: "fresh", or "keep" to go on with a copy of the optimizer's state; the twin starts afresh.
        task: a function of the task's index that returns (inputs, targets, loss) in place of random labels;
            loss(outputs, targets) is the mean over the samples and its optimum 0. torch's generators
            are seeded before each call.
        classes: labels of the random task, 2 <= classes <= outputs; None means all outputs, the last
            dimension of (n, outputs) or (n, length, outputs).
        batch_size: samples per step, >= 1; with n or more of them every step takes all.
        fresh: False for no twin; a module or a function that makes one; True to draw a twin by every module's
            `reset_parameters`, for networks of `isoplast.nn.build` by their own initialisation.
        points: times that the loss is measured during the steps, >= 1: 1 means at their end only.
        confidence: coverage of the intervals (Student's t over the tasks), in (0, 1).
        seed: determines tasks, batches, dropout and twins.

    Returns:
        The result: print it, or look at `.value`, `.low`, `.high`, `.gap`, `.fresh`.

    Raises:
        IsoplastError: for a value out of range, inputs that do not fit, outputs that random labels do not
            suit, a loss that is 0 to begin with, and a twin or an optimizer that cannot be made.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        >>> found = plasticity(net, torch.randn(32, 8), tasks=3, steps=20, lr=1e-2)
        >>> 0 < found.value < 1, abs(found.gap) < 0.2
        (True, True)

    Reference:
        arXiv:2606.09762, Definition 2.1, Eq 2.
    """
    numbers = {"tasks": tasks, "steps": steps, "batch_size": batch_size, "points": points}
    _check(numbers, confidence, state, optimizer)
    seeds = torch.randint(2**62, (tasks, 4), generator=torch.Generator().manual_seed(seed)).tolist()
    at = sorted({round(steps * (i + 1) / points) for i in range(points)} - {0})
    kept: tuple[str, ...] = ()
    with preserve_state(model, training=None) as network, torch.enable_grad():
        probe = Probe(network, optimizer, state == "keep", lr, at)
        problems = Problems(network, usable(inputs), task, classes, batch_size, steps)
        own, twins = [], []
        for index, (label_seed, order_seed, twin_seed, noise_seed) in enumerate(seeds):
            problem = problems.draw(index, label_seed, order_seed)
            own.append(probe.losses(clone(network), problem, noise_seed))
            if fresh is not False:
                seed_generators(network, twin_seed)
                twin, kept = _twin(network, fresh)
                twins.append(probe.losses(twin, problem, noise_seed, fresh=True))
    chance = math.log(problems.classes) if problems.classes else math.nan
    progress = _progress(torch.stack(own), at, chance, confidence)
    twin_progress = _progress(torch.stack(twins), at, chance, confidence) if twins else None
    gap = (math.nan, math.nan, math.nan)
    if twin_progress is not None:
        gap = interval(progress.per_task - twin_progress.per_task, confidence)
    setting = f"{tasks} tasks, {steps} steps, {probe.describe(state)}, {problems.describe()}"
    return Plasticity(
        **vars(progress),
        fresh=twin_progress,
        gap=gap[0],
        gap_low=gap[1],
        gap_high=gap[2],
        kept=kept,
        setting=setting,
    )


def _check(numbers: dict[str, int], confidence: float, state: str, optimizer: object) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise IsoplastError(f"{name} of plasticity is {value}: it must be at least 1")
    if not 0 < confidence < 1:
        raise IsoplastError(f"confidence is {confidence}: it must lie between 0 and 1, 0.95 say")
    if state not in _STATES:
        raise unknown("state", state, _STATES)
    if state == "keep" and not isinstance(optimizer, Optimizer):
        raise IsoplastError("state='keep' needs the optimizer whose state to keep: give optimizer=")


def _twin(
    network: nn.Module, fresh: bool | nn.Module | Callable[[], nn.Module]
) -> tuple[nn.Module, tuple[str, ...]]:
    if isinstance(fresh, nn.Module):
        return clone(fresh), ()
    if callable(fresh):
        return freshly_made(fresh, network), ()
    return redrawn(network)


def _removed(losses: Tensor) -> Tensor:
    """The share of the first loss that is gone, shape as the losses; NaN where a loss is not finite."""
    shares = 1 - losses / losses[:, :1]
    return torch.where(losses.isfinite() & losses[:, :1].isfinite(), shares, math.nan)


def _progress(losses: Tensor, at: list[int], chance: float, confidence: float) -> Progress:
    nothing = (losses[:, 0] <= 0).nonzero()
    if len(nothing):
        raise IsoplastError(
            f"the loss of task {int(nothing[0])} is {float(losses[nothing[0], 0])} before any training: "
            "there is nothing to remove; draw other tasks"
        )
    per_task = _removed(losses)[:, -1]
    mean, low, high = interval(per_task, confidence)
    return Progress(
        value=mean,
        low=low,
        high=high,
        per_task=per_task,
        losses=losses,
        at=(0, *at),
        diverged=int((~losses.isfinite()).any(1).sum()),
        learned=float((1 - losses[:, -1] / chance).mean()),
    )
