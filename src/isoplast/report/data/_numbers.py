"""The accuracies of the results table, over tasks within a seed first, then over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isoplast.report.data._arms import Arm, Array


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, its sample standard deviation (NaN for one seed) and the number of seeds."""

    mean: float
    deviation: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "–"
        # no-break spaces: the two numbers stay on one line
        return f"{self.mean:.3f}" + (
            "" if math.isnan(self.deviation) else f"\u00a0±\u00a0{self.deviation:.3f}"
        )


def spread(values: Array) -> Spread:
    """Summarise one number per seed; missing ones do not count."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Spread(math.nan, math.nan, 0)
    return Spread(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else math.nan, len(known))


@dataclass(frozen=True)
class Scores:
    """The score on the first, worst and last task and the mean over tasks: per seed, then over seeds."""

    first: Spread
    worst: Spread
    last: Spread
    mean: Spread


def scores(arm: Arm) -> Scores:
    """What an arm reached. Seeds that ended early count with the tasks they have, but for the last task."""
    found = arm.score[:, arm.trained]
    known = found[np.isfinite(found).any(axis=1)]

    def each(how: Callable[..., Array]) -> Spread:
        return spread(how(known, axis=1))

    worst = np.nanmax if arm.metric.higher_is_better is False else np.nanmin
    return Scores(spread(found[:, 0]), each(worst), spread(found[:, -1]), each(np.nanmean))
