"""The results table, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoplast.report.data._arms import Arm
from isoplast.report.data._numbers import scores
from isoplast.report.data._source import RunRecord, Source
from isoplast.report.html._markup import NONE, Content, Markup, table, tag

_HEAD = (
    "Arm",
    "λ",
    "lr",
    "Seeds",
    "First task",
    "Worst task",
    "Last task",
    "Mean",
    "Time constant",
    "Isometry time",
)
_OPEN = {"running": "still running", "waiting": "not started yet"}


@dataclass(frozen=True)
class Isometry:
    """How long the isometry step of an arm had to act.

    Args:
        strength: lambda.
        constant: 1 / (8 lr lambda) in steps: the excess of a singular value over 1 falls to 1/e in this time.
        elapsed: 8 lr lambda x the steps that were taken with it: the run's length in time constants.
    """

    strength: float
    constant: float
    elapsed: float


def isometry(arm: Arm) -> Isometry | None:
    """What the isometry step of an arm amounts to, None if it has none.

    A singular value s obeys ds/dt = -4 lr lambda (s^3 - s), whose deviation from 1 decays at the rate
    8 lr lambda per step.

    Reference: arXiv:2606.09762, Eq 20.
    """
    switch_task = arm.settings.get("switch_task")
    strengths = np.zeros(len(arm.tasks))
    for place, task in enumerate(arm.tasks.tolist()):
        switched = switch_task is not None and task >= switch_task
        strengths[place] = _strength(arm.settings, "switch_" if switched else "") if task >= 0 else 0.0
    if not strengths.any():
        return None
    rates = 8 * arm.settings["lr"] * strengths
    elapsed = np.nanmean(np.nansum(arm.steps * rates, axis=1))
    return Isometry(strengths[strengths > 0][-1], 1 / rates[strengths > 0][-1], float(elapsed))


def _strength(settings: Mapping[str, Any], prefix: str) -> float:
    """Lambda of a method's settings, 0 without isometry."""
    time = settings.get(f"{prefix}isometry_time")
    return 1 / (8 * settings["lr"] * time) if time else settings.get(f"{prefix}isometry") or 0.0


def results_table(arms: Sequence[Arm]) -> Markup:
    """One row per arm: what was set, what it reached, how long isometry had to act."""
    caption = (
        f"{arms[0].metric.label.capitalize()} on the first, the worst and the last task and over all tasks: "
        "mean ± standard deviation over seeds. Time constant: 1/(8 lr λ), the steps in which a singular "
        "value's excess over 1 falls "
        "to 1/e. Isometry time: 8 lr λ × steps, the length of the run in time constants."
    )
    return table(caption, _HEAD, [_row(arm) for arm in arms])


def _row(arm: Arm) -> list[Content]:
    reached = scores(arm)
    found = isometry(arm)
    numbers = [str(one) for one in (reached.first, reached.worst, reached.last, reached.mean)]
    settings = [f"{found.strength:.3g}" if found else NONE, f"{arm.settings['lr']:g}", str(len(arm.seeds))]
    return [arm.label, *settings, *numbers, *_times(found)]


def _times(found: Isometry | None) -> list[Content]:
    if found is None:
        return [NONE, NONE]
    elapsed: Content = f"{found.elapsed:.3g}"
    if found.elapsed < 1:
        elapsed = tag("span", f"{found.elapsed:.2g} (short)", class_="low")
    return [f"{found.constant:,.0f}", elapsed]


def troubles(source: Source, arms: Sequence[Arm]) -> list[Markup]:
    """Warnings: runs too short for their isometry, runs that failed, runs that are not complete."""
    return [*_too_short(arms), *_incomplete(source)]


def _too_short(arms: Sequence[Arm]) -> list[Markup]:
    found = [(arm.label, isometry(arm)) for arm in arms]
    short = [
        f"{label} ({time.elapsed:.2g})" for label, time in found if time is not None and time.elapsed < 1
    ]
    if not short:
        return []
    words = (
        f"{'; '.join(short)}, in time constants. A run of x < 1 time constants pulls back only the singular "
        "values above 1/√(1 − e⁻ˣ); for more raise λ, or set isometry_time to a tenth of the run's steps."
    )
    return [_warning("Shorter than the time constant of the isometry:", words)]


def _incomplete(source: Source) -> list[Markup]:
    """Runs that failed or were interrupted, each with where and why; the others only by number."""
    records = list(source.records.values())
    ended = [record for record in records if record.state in ("failed", "interrupted")]
    counts = {words: sum(record.state == state for record in records) for state, words in _OPEN.items()}
    said = [_ended(record) for record in ended]
    if any(counts.values()):
        words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        said.append(_warning("Not complete:", f"of {len(records)} runs, {words}."))
    return said


def _ended(record: RunRecord) -> Markup:
    why = f": {record.reason}" if record.reason else ""
    return _warning(
        f"{record.label}, seed {record.seed}, {record.state}",
        f"after {record.tasks} of {record.spec['stream']['tasks']} tasks{why}. Its finished tasks count. "
        f"It is run {record.id}.",
    )


def _warning(what: str, words: str) -> Markup:
    return tag("p", [tag("strong", what), f" {words}"], class_="warning")
