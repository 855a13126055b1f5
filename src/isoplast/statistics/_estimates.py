"""Estimates over seeds and their intervals: Student's t for means, a bootstrap over seeds for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from isoplast._core.errors import IsoplastError
from isoplast.statistics._checks import (
    Array,
    ArrayLike,
    all_finite,
    applied,
    count,
    flag,
    matrix,
    numbers,
    share,
    vector,
)

# Fewer seeds than these are called exploratory; a bootstrap of whole seeds needs so many.
EXPLORATORY_BELOW = 10
# So many scores are drawn at a time: 16 MB of float64.
_AT_A_TIME = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A number over seeds and its confidence interval.

    Args:
        value: the estimate.
        low, high: ends of the interval; NaN for a single seed, which has none.
        seeds: how many it rests on.
        confidence: coverage of the interval.
        interval: where it comes from: "Student t", "jackknife t", "bootstrap", "Wilson" or "none".
    """

    value: float
    low: float
    high: float
    seeds: int
    confidence: float
    interval: str

    @property
    def exploratory(self) -> bool:
        """Whether it rests on too few seeds for a claim: fewer than ten."""
        return self.seeds < EXPLORATORY_BELOW

    def __str__(self) -> str:
        ends = "" if math.isnan(self.low) else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{ends} ({seeds_in_words(self.seeds)})"


@dataclass(frozen=True, eq=False)
class Curve:
    """Numbers over seeds at the points of an axis, with a band.

    Args:
        at: the points, shape (points,): indices of tasks, or thresholds.
        value: the estimate at each, shape (points,).
        low, high: ends of its interval, shape (points,); NaN for a single seed.
        seeds: how many it rests on.
        confidence: coverage of the interval at each single point, not of the whole band.
    """

    at: Array
    value: Array
    low: Array
    high: Array
    seeds: int
    confidence: float

    @property
    def exploratory(self) -> bool:
        """Whether it rests on too few seeds for a claim: fewer than ten."""
        return self.seeds < EXPLORATORY_BELOW


def seeds_in_words(seeds: int) -> str:
    """The number of seeds, called exploratory where it is too small for a claim."""
    return f"{seeds} seed{'' if seeds == 1 else 's'}{', exploratory' if seeds < EXPLORATORY_BELOW else ''}"


def mean(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    r"""Mean over seeds with Student's interval.

    :math:`\bar x \pm t_{n-1} s / \sqrt n`, exact for normal values at any number of seeds. The percentile
    bootstrap asks for less and covers too rarely with few (five normal values: 84 % instead of 95 %).

    Args:
        values: one number for each seed, shape (seeds,): `average(scores)`, `last(scores, 10)`, ...
        confidence: coverage, in (0, 1).

    Returns:
        The estimate; a single seed has no interval.

    Raises:
        IsoplastError: a value is not finite, or confidence is out of range.

    Example:
        >>> print(mean([0.80, 0.82, 0.84]))
        0.82 [0.7703, 0.8697] (3 seeds, exploratory)

    Reference:
        Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    found = vector(values)
    centre, low, high = student(found, confidence)
    how = "Student t" if len(found) > 1 else "none"
    return Estimate(float(centre), float(low), float(high), len(found), confidence, how)


def curve(scores: ArrayLike, *, confidence: float = 0.95) -> Curve:
    r"""Mean over seeds for each task, with a band.

    :math:`\bar x_t \pm t_{n-1} s_t / \sqrt n` at each task for itself.

    Args:
        scores: shape (seeds, tasks), finite.
        confidence: coverage at each single task, in (0, 1).

    Returns:
        The curve; a single seed has no band.

    Raises:
        IsoplastError: a score is not finite, or confidence is out of range.

    Example:
        >>> curve([[0.8, 0.7], [0.9, 0.7], [1.0, 0.7]]).low.round(3)
        array([0.652, 0.7  ])

    Reference:
        As `mean`.
    """
    found = matrix(scores)
    return Curve(
        np.arange(found.shape[1], dtype=np.float64), *student(found, confidence), len(found), confidence
    )


def student(values: Array, confidence: float) -> tuple[Array, Array, Array]:
    """Mean over the first axis and the ends of Student's interval, NaN for one row."""
    share("confidence", confidence)
    centre = np.asarray(values.mean(axis=0))
    if len(values) == 1:
        return centre, np.full_like(centre, np.nan), np.full_like(centre, np.nan)
    half = critical(confidence, len(values) - 1) * values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return centre, centre - half, centre + half


def critical(confidence: float, degrees: float) -> float:
    """The t with P(|T| <= t) = confidence."""
    return float(special.stdtrit(degrees, (1 + confidence) / 2))


def interquartile_mean(scores: ArrayLike) -> Array:
    """Mean of the middle half of all scores, seeds and tasks together (IQM).

    Of n scores the floor(n / 4) smallest and as many of the largest are left out: more robust than the mean
    to a single bad run, more efficient than the median.

    Args:
        scores: shape (..., seeds, tasks), finite.

    Returns:
        Shape (...).

    Raises:
        IsoplastError: another shape, or a score is not finite.

    Example:
        >>> float(interquartile_mean([[0.0, 0.5], [0.7, 9.0]]))
        0.6

    Reference:
        Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
        arXiv:2108.13264.
    """
    found = all_finite(numbers("scores", scores))
    if found.ndim < 2 or 0 in found.shape:
        raise IsoplastError(f"scores have the shape {found.shape}: give an array (..., seeds, tasks)")
    flat = found.reshape(*found.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    kept = flat.shape[-1] - 2 * cut
    # One end after the other: numpy partitions at two places at once thirty times slower.
    middle = np.partition(np.partition(flat, cut)[..., cut:], kept - 1)[..., :kept]
    return np.asarray(middle.mean(axis=-1))


def aggregate(
    scores: ArrayLike,
    statistic: Callable[[Array], Array] = interquartile_mean,
    *,
    confidence: float = 0.95,
    independent_tasks: bool = False,
    resamples: int = 5000,
    rng: int = 0,
) -> Estimate:
    r"""A statistic of all seeds and tasks, IQM unless told otherwise, with its interval.

    From ten seeds on a bootstrap: whole seeds are drawn with replacement, because the tasks of a seed share
    one network and are not independent. A percentile interval of it is too narrow for a small n; its tail
    :math:`\alpha / 2` is replaced by :math:`\Phi(-\sqrt{n / (n-1)}\, t_{n-1, 1 - \alpha/2})`, which makes up
    for the divisor n and for the normal quantile (exactly so for a mean of normal values).

    Below ten seeds, unless the tasks are independent, Student's t on the jackknife's pseudo-values
    :math:`\theta_i = n \hat\theta - (n-1) \hat\theta_{-i}`:
    :math:`\hat\theta \pm t_{n-1}\, s(\theta_i) / \sqrt n`, which for a mean is Student's interval itself.

    Args:
        scores: shape (seeds, tasks), finite.
        statistic: maps scores (..., seeds, tasks) to (...), and does not depend on the order of the seeds.
        confidence: coverage, in (0, 1).
        independent_tasks: whether each seed of each task was a run of its own (as the games of a benchmark):
            then a bootstrap, at any number of seeds, draws seeds for each task apart, stratified by tasks,
            and takes plain percentiles, as rliable does. With five seeds it covers 92 % instead of 95 %. Not
            for the tasks of a stream: with ten seeds that differ as much as the tasks of one do, it covers
            47 %.
        resamples: draws of the bootstrap, at least 100.
        rng: seed of the draws: the same scores give the same interval, in whatever order the seeds come.

    Returns:
        The estimate; a single seed has no interval.

    Raises:
        IsoplastError: a score is not finite, a number is out of range, or the statistic gives another shape.

    Example:
        >>> print(aggregate([[0.9, 0.8], [0.9, 0.7], [0.6, 0.7]]))
        0.775 [0.3955, 1.154] (3 seeds, exploratory)

    Reference:
        Agarwal et al., arXiv:2108.13264 (stratified bootstrap); Hesterberg, "What teachers should know about
        the bootstrap", The American Statistician 69 (2015) (the tails); Tukey, Annals of Mathematical
        Statistics 29 (1958) (the jackknife).
    """
    found = matrix(scores)
    share("confidence", confidence)
    count("resamples", resamples, 100)
    count("rng", rng, 0)
    flag("independent_tasks", independent_tasks)
    value, seeds = float(_of_each(statistic, found[None])[0]), len(found)
    if seeds == 1:
        return Estimate(value, math.nan, math.nan, seeds, confidence, "none")
    if seeds < EXPLORATORY_BELOW and not independent_tasks:
        half = _jackknife_half(found, statistic, confidence)
        return Estimate(value, value - half, value + half, seeds, confidence, "jackknife t")
    draws = _bootstrap(found, statistic, independent_tasks, resamples, rng)
    tail = (1 - confidence) / 2
    if not independent_tasks:
        tail = float(special.ndtr(-math.sqrt(seeds / (seeds - 1)) * critical(confidence, seeds - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), seeds, confidence, "bootstrap")


def _jackknife_half(scores: Array, statistic: Callable[[Array], Array], confidence: float) -> float:
    """Half the interval: pseudo-values spread n - 1 times as far as the statistic without one seed does."""
    seeds = len(scores)
    without = _of_each(statistic, np.stack([np.delete(scores, seed, axis=0) for seed in range(seeds)]))
    deviation = (seeds - 1) * float(without.std(ddof=1))
    return critical(confidence, seeds - 1) * deviation / math.sqrt(seeds)


def _bootstrap(
    scores: Array, statistic: Callable[[Array], Array], independent_tasks: bool, resamples: int, rng: int
) -> Array:
    """The statistic of so many resamples, shape (resamples,)."""
    # Sorted, so that the draws do not depend on the order in which the seeds came.
    scores = np.sort(scores, axis=0) if independent_tasks else scores[np.lexsort(scores.T)]
    generator, (seeds, tasks) = np.random.default_rng(rng), scores.shape
    batch, draws = max(1, _AT_A_TIME // scores.size), []
    for start in range(0, resamples, batch):
        drawn_now = min(batch, resamples - start)
        if independent_tasks:
            drawn = scores[generator.integers(seeds, size=(drawn_now, seeds, tasks)), np.arange(tasks)]
        else:
            drawn = scores[generator.integers(seeds, size=(drawn_now, seeds))]
        draws.append(_of_each(statistic, drawn))
    return np.concatenate(draws)


def _of_each(statistic: Callable[[Array], Array], scores: Array) -> Array:
    """The statistic of each of several arrays, (count, seeds, tasks) to (count,)."""
    maps, example = "(..., seeds, tasks) to (...)", "lambda scores: scores.mean(axis=(-2, -1))"
    return applied(statistic, scores, scores.shape[:1], maps, example)
