"""Remedies through isometry: what each method holds of the singular values, claimed and measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Spectrum
from isoplast.report.data._method_runs import Array

# What the classes of section 5 of the paper say that a method holds, from all of the spectrum to nothing.
CLAIMS: dict[Spectrum, tuple[str, ...]] = {
    "all": ("largest", "mean square", "all"),
    "mean square": ("mean square",),
    "largest": ("largest",),
    "activations": (),
    "none": (),
}
# A functional counts as held if a method removes at least this share of the drift it has under Adam. The page
# shows the shares themselves, so that everyone can draw the line elsewhere.
HELD = 1 / 3
_BASELINE = "adam"
_LAST = 3  # tasks over which the final accuracy is averaged
# Smaller singular values count as this one: a reset to zero is not infinitely far from isometry.
_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Reading:
    """One method after training: means over seeds (geometric ones of ratios), and the pooled spectra.

    The functionals of the spectrum are those of the hidden matrices (all but the last), because several
    methods leave the head free on purpose.

    Args:
        name: what `isoplast.methods.get` calls it.
        setting: what its label says beyond its title; "" for its defaults.
        seeds: number of runs.
        accuracy: mean over the last three tasks and the seeds; `accuracy_low`, `accuracy_high` the extremes
            over the seeds.
        largest, mean_square, smallest: of the singular values of the hidden matrices.
        condition_number: the largest over the hidden matrices.
        effective_rank: exp of the entropy of the singular values over the number of them, mean over the
            hidden matrices.
        gram_deviation: R_iso (Eq 16), summed over the hidden matrices.
        dormant: share of the hidden units, mean over layers.
        ntk_condition_number, ntk_participation: of the empirical NTK; the participation rank over its size.
        plasticity: the share of the loss of an uninformed guess that a probe removes.
        drift: how far each functional of `CLAIMS` has moved since initialisation: |log| of the ratio of the
            largest singular values and of the root mean squares, and the root mean square of log sigma (all).
        removed: the share of Adam's drift that is not there; empty for Adam itself.
        before, after: quantiles of the singular values at initialisation and after the last task, pooled over
            the hidden matrices and seeds.
    """

    name: str
    setting: str
    seeds: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    largest: float
    mean_square: float
    smallest: float
    condition_number: float
    effective_rank: float
    gram_deviation: float
    dormant: float
    ntk_condition_number: float
    ntk_participation: float
    plasticity: float
    drift: dict[str, float]
    removed: dict[str, float]
    before: Array
    after: Array

    @property
    def title(self) -> str:
        """The name with the setting, where it is not the default one."""
        return f"{self.name}, {self.setting}" if self.setting else self.name

    @property
    def claim(self) -> Spectrum:
        """The class the method belongs to: of a combination, that of the part that holds most."""
        return methods.get(self.name).info.spectrum

    @property
    def holds(self) -> tuple[str, ...]:
        """The functionals that drift at least a third less than under Adam."""
        return tuple(name for name, share in self.removed.items() if share >= HELD)

    @property
    def verdict(self) -> str:
        """Whether the measurement agrees with the claim."""
        claimed, held = set(CLAIMS[self.claim]), set(self.holds)
        if self.name == _BASELINE:
            return "the baseline"
        if claimed == held:
            return "agrees"
        missing = [name for name in CLAIMS[self.claim] if name not in held]
        more = [name for name in self.holds if name not in claimed]
        words = [f"does not hold {', '.join(missing)}"] if missing else []
        return "; ".join(words + ([f"holds {', '.join(more)} too"] if more else []))


def readings(frame: pl.DataFrame) -> list[Reading]:
    """One reading per result of a study, by claim, the most accurate first.

    Args:
        frame: what `load_study` returns; every run has a row for the untrained network (task -1).

    Raises:
        IsoplastError: no run of Adam, the baseline, has finished its first task.
    """
    groups = frame.partition_by("method", "label", maintain_order=True)
    found = [reading for group in groups if (reading := _reading(group)) is not None]
    baseline = next((reading for reading in found if reading.name == _BASELINE), None)
    if baseline is None:
        raise IsoplastError("the study holds no finished task of adam, the baseline: run it first")
    order = list(CLAIMS)
    compared = [_against(baseline, reading) for reading in found]
    return sorted(compared, key=lambda reading: (order.index(reading.claim), -reading.accuracy))


def _against(baseline: Reading, reading: Reading) -> Reading:
    if reading is baseline:
        return reading
    removed = {name: 1 - drift / baseline.drift[name] for name, drift in reading.drift.items()}
    return dataclasses.replace(reading, removed=removed)


def _reading(group: pl.DataFrame) -> Reading | None:
    runs = [run.sort("task") for run in group.partition_by("run_id", maintain_order=True)]
    runs = [run for run in runs if run["task"][-1] >= 0]
    if not runs:
        return None
    final = [_mean(run.filter(pl.col("task") >= 0)["accuracy"].to_list()[-_LAST:]) for run in runs]
    first = [_hidden(run.row(0, named=True)) for run in runs]
    last = [_hidden(run.row(-1, named=True)) for run in runs]
    label = group["label"][0]
    return Reading(
        name=group["method"][0],
        setting=label.partition(", ")[2] if label != methods.get(group["method"][0]).info.title else "",
        seeds=len(runs),
        accuracy=_mean(final),
        accuracy_low=min(final),
        accuracy_high=max(final),
        largest=_geometric([_largest(row) for row in last]),
        mean_square=_geometric([_mean_square(row) for row in last]),
        smallest=_geometric([min(row["sigma_min"]) for row in last]),
        condition_number=_geometric([max(row["condition_number"]) for row in last]),
        effective_rank=_mean([_rank_share(row) for row in last]),
        gram_deviation=_geometric([sum(row["gram_deviation"]) for row in last]),
        dormant=_mean([_mean(row["dormant"]) for row in last]),
        ntk_condition_number=_geometric([row["ntk_condition_number"] for row in last]),
        ntk_participation=_mean([row["ntk_participation_rank"] / row["ntk_size"] for row in last]),
        plasticity=_mean([row["plasticity_learned"] for row in last]),
        drift={
            "largest": _mean(
                [abs(_log(_largest(b)) - _log(_largest(a))) for a, b in zip(first, last, strict=True)]
            ),
            "mean square": _mean(
                [
                    abs(_log(_mean_square(b)) - _log(_mean_square(a))) / 2
                    for a, b in zip(first, last, strict=True)
                ]
            ),
            "all": _mean([_spread(row) for row in last]) - _mean([_spread(row) for row in first]),
        },
        removed={},
        before=_pooled(first),
        after=_pooled(last),
    )


Row: TypeAlias = dict[str, Any]
_PER_MATRIX = (
    *("sigma_min", "sigma_max", "sigma_mean_square", "sigma_count", "sigma_quantiles"),
    *("condition_number", "effective_rank", "gram_deviation"),
)


def _hidden(row: Row) -> Row:
    """The row without the head, the last matrix."""
    return {name: value[:-1] if name in _PER_MATRIX else value for name, value in row.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _log(value: float) -> float:
    return math.log(max(value, _FLOOR))


def _geometric(values: Sequence[float]) -> float:
    """The geometric mean; infinite or 0 if one of them is."""
    if any(math.isnan(value) for value in values):
        return math.nan
    if min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def _largest(row: Row) -> float:
    return float(max(row["sigma_max"]))


def _mean_square(row: Row) -> float:
    """Over all singular values of the matrices."""
    return float(np.average(row["sigma_mean_square"], weights=row["sigma_count"]))


def _spread(row: Row) -> float:
    """Root mean square of log sigma over all singular values of the matrices."""
    squares = [np.square(np.log(np.maximum(matrix, _FLOOR))).mean() for matrix in row["sigma_quantiles"]]
    return float(np.sqrt(np.average(squares, weights=row["sigma_count"])))


def _rank_share(row: Row) -> float:
    shares = np.array(row["effective_rank"]) / np.array(row["sigma_count"])
    return float(shares.mean())


def _pooled(rows: Sequence[Row]) -> Array:
    return np.array([value for row in rows for matrix in row["sigma_quantiles"] for value in matrix])


def table(found: Sequence[Reading]) -> str:
    """The readings as a Markdown table."""
    head = (
        "method | claim | σ max | mean σ² | σ min | κ(W) | rank | R_iso | dormant | κ(K) | PR/m | probe "
        "| accuracy | largest | mean square | all | verdict"
    )
    lines = [f"| {head} |", "|---|---|" + "---:|" * 14 + "---|"]
    for reading in found:
        cells = [
            f"`{reading.title}`",
            reading.claim,
            _number(reading.largest),
            _number(reading.mean_square),
            _number(reading.smallest),
            _number(reading.condition_number),
            f"{reading.effective_rank:.2f}",
            _number(reading.gram_deviation),
            f"{reading.dormant:.0%}",
            _number(reading.ntk_condition_number),
            f"{reading.ntk_participation:.3f}",
            f"{reading.plasticity:.2f}",
            f"{reading.accuracy:.2f} ({reading.accuracy_low:.2f} to {reading.accuracy_high:.2f})",
            *(f"{reading.removed[name]:.0%}" if reading.removed else "0%" for name in CLAIMS["all"]),
            reading.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return str(value)
    return f"{value:.2g}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.0e}".replace("e+0", "e")


def spectra_page(found: Sequence[Reading], figure: Path, command: str, scope: str) -> str:
    """The document: what was asked, the table, what agrees and what does not, the figure."""
    agreeing = [reading for reading in found if reading.verdict == "agrees"]
    others = [reading for reading in found if reading.verdict not in ("agrees", "the baseline")]
    paragraphs = [
        "# Remedies through isometry",
        "Section 5 of the paper (Rosseau, Müller and Nowé, arXiv:2606.09762) reads earlier remedies as "
        "partial control of the singular values of the weights: of the largest alone (spectral "
        "regularisation), of their mean square (projection to a norm, weight decay), of all of them "
        "(isometry), or of activations only (resets, normalisation). This page is the measurement, made by "
        "one command:",
        f"    {command}",
        scope,
        table(found),
        "Columns: σ max and σ min are the extremes over the hidden weight matrices after the last task (the "
        "head is left out: several methods leave it free on purpose), mean σ² is the mean over all their "
        "singular values; κ(W) is the worst condition number of a matrix; rank the effective rank over the "
        "full rank; R_iso the Gram deviation of Eq 16, summed; dormant the share of units with a Sokar score "
        "of at most 0.1; κ(K) and PR/m the condition number and the participation rank (over the size) of "
        "the empirical NTK on centred logits; probe the share of the loss of an uninformed guess that a "
        "fresh Adam removes in 25 steps on new random labels (0 is chance); accuracy the mean over the last "
        "three tasks (lowest to highest seed).",
        "The next three columns are the test of the claim: what share of Adam's drift since initialisation, "
        "where all singular values are 1, the method removes. Largest: |log σ max|. Mean square: |log of the "
        "root mean square|. All: the root mean square of log σ over every singular value. A functional "
        f"counts as held from {HELD:.0%} on.",
        "## Where the measurement agrees with the claim",
        f"{len(agreeing)} of {len(agreeing) + len(others)} methods hold exactly what they are said to hold, "
        "at these strengths and this horizon. The others:",
        "\n".join(f"* `{reading.title}` (claim: {reading.claim}): {reading.verdict}." for reading in others),
        "## Every method's singular values",
        f"![A histogram of the singular values for every method, before and after]({figure.name})",
        "Thin line: at initialisation. Filled: after the last task, all hidden matrices and seeds together. "
        "Log scale; the dotted line is 1, isometry.",
    ]
    return "\n\n".join(paragraphs) + "\n"
