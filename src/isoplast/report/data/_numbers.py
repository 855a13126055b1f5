"""What a method reached, in four numbers: the page, its headline and the command line all show these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isoplast.report.data._method_runs import Array, MethodRuns, over_seeds


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


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one method, as means over seeds.

    Attributes:
        curve: after each task that was trained on, shape (tasks,): the line that figures draw.
        chance: of each of these tasks, shape (tasks,); NaN where there is none.
        first, last: at both ends of the curve.
        worst: at its lowest point, or its highest where less is better.
        mean: over all tasks.
    """

    curve: Array
    chance: Array
    first: Spread
    worst: Spread
    last: Spread
    mean: Spread


def scores(result: MethodRuns) -> Scores:
    """What a method reached. A task counts with the seeds that have finished it.

    Args:
        result: with at least one finished task.
    """
    found = result.score[:, result.trained]
    finished = np.isfinite(found).any(axis=0)
    known = found[:, finished]
    curve, _, _ = over_seeds(known)
    started = known[np.isfinite(known).any(axis=1)]
    return Scores(
        curve,
        result.chance[result.trained][finished],
        first=spread(known[:, 0]),
        worst=spread(known[:, int((result.sign * curve).argmin())]),
        last=spread(known[:, -1]),
        mean=spread(np.nanmean(started, axis=1)),
    )
