"""How long the isometry step of a method had to act."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoplast import methods
from isoplast.report.data._method_runs import MethodRuns


@dataclass(frozen=True)
class Isometry:
    """The isometry step of a method.

    Args:
        strength: lambda.
        constant: 1 / (8 lr lambda) in steps: the excess of a singular value over 1 falls to 1/e in this time.
        elapsed: 8 lr lambda x the steps that were taken with it: the run's length in time constants.
    """

    strength: float
    constant: float
    elapsed: float


def isometry(result: MethodRuns) -> Isometry | None:
    """What the isometry step of a method, or of a part of it, amounts to; None if it has none.

    A singular value s obeys ds/dt = -4 lr lambda (s^3 - s), whose deviation from 1 decays at the rate
    8 lr lambda per step.

    Reference: arXiv:2606.09762, Eq 20.
    """
    switch_task = result.settings.get("switch_task")
    strengths = np.where(result.tasks >= 0, _strength(result.settings, ""), 0.0)
    if switch_task is not None:
        strengths[result.tasks >= switch_task] = _strength(result.settings, "switch_")
    if not strengths.any():
        return None
    rates = 8 * result.settings["lr"] * strengths
    elapsed = np.nanmean(np.nansum(result.steps * rates, axis=1))
    return Isometry(strengths[strengths > 0][-1], 1 / rates[strengths > 0][-1], float(elapsed))


def _strength(settings: Mapping[str, Any], prefix: str) -> float:
    """Lambda of the part of a method that has the step, 0 without one.

    The settings of "adamo" are called isometry and isometry_time, those of "adamo+layernorm"
    adamo.isometry and adamo.isometry_time.
    """
    parts = str(settings.get(f"{prefix}method") or "").split("+")
    for part in filter(_steps, parts):
        owner = f"{prefix}{part}." if len(parts) > 1 else prefix
        time = positive(settings.get(f"{owner}isometry_time"))
        strength = positive(settings.get(f"{owner}isometry"))
        if time or strength:
            return 1 / (8 * settings["lr"] * time) if time else strength
    return 0.0


def positive(value: object) -> float:
    """A setting that is a strength or a time; 0 for another one that a method calls by that name."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < math.inf else 0.0  # type: ignore[arg-type, operator]


def _steps(part: str) -> bool:
    """Whether the setting `isometry` is that of the step: of a penalty, whose gradient an optimizer rescales,
    it has no time constant. Methods of other people are taken at their word."""
    return part not in methods.names() or "optimizer" in methods.get(part).info.claims
