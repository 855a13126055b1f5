"""A 95 % interval of `isoplast.statistics` holds the true value in about 95 % of studies.

How often it does in simulated studies of 20 tasks, for the interquartile mean: `aggregate`, the percentiles
of a bootstrap over seeds, and the bootstrap that takes tasks for independent runs (rliable's). Seeds differ
not at all, or as much as the tasks of one seed do; scores are normal, or skewed as accuracies near 1 are.

    python benchmarks/intervals_cover_what_they_say.py [--trials 4000] [--resamples 1000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from isoplast.statistics import aggregate, interquartile_mean

TASKS = 20
Interval = Callable[[np.ndarray, int], tuple[float, float]]


def sample(rng: np.random.Generator, seeds: int, between: float, skewed: bool) -> np.ndarray:
    """Return the scores of one study, shape (seeds, tasks)."""
    normal = between * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, TASKS))
    return 1 - 0.1 * np.exp(0.5 * normal) if skewed else normal


def intervals(resamples: int) -> dict[str, Interval]:
    """Return the ways to make an interval."""

    def ours(scores: np.ndarray, trial: int) -> tuple[float, float]:
        found = aggregate(scores, resamples=resamples, rng=trial)
        return found.low, found.high

    def bootstrap(rows: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(interquartile_mean(scores[rows, np.arange(TASKS)]), [0.025, 0.975])
        return float(low), float(high)

    def percentiles(scores: np.ndarray, trial: int) -> tuple[float, float]:
        rows = np.random.default_rng(trial).integers(len(scores), size=(resamples, len(scores), 1))
        return bootstrap(rows, scores)

    def stratified(scores: np.ndarray, trial: int) -> tuple[float, float]:
        rows = np.random.default_rng(trial).integers(len(scores), size=(resamples, *scores.shape))
        return bootstrap(rows, scores)

    return {"aggregate": ours, "percentiles over seeds": percentiles, "tasks independent": stratified}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    ways = intervals(options.resamples)
    print(f"coverage of a 95 % interval, {options.trials} studies of {TASKS} tasks")
    print(f"{'scores':8s} {'seeds differ':13s} {'seeds':>5s}  " + "  ".join(ways))
    for skewed in (False, True):
        for between in (0.0, 1.0):
            rng = np.random.default_rng(0)
            true = float(interquartile_mean(sample(rng, 200_000, between, skewed)))
            for seeds in (3, 5, 10, 20):
                hits = dict.fromkeys(ways, 0)
                for trial in range(options.trials):
                    scores = sample(rng, seeds, between, skewed)
                    for name, way in ways.items():
                        low, high = way(scores, trial)
                        hits[name] += low <= true <= high
                shares = "  ".join(f"{hits[name] / options.trials:{len(name)}.1%}" for name in ways)
                kind = "skewed" if skewed else "normal"
                print(
                    f"{kind:8s} {'as tasks do' if between else 'not at all':13s} {seeds:5d}  {shares}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
