"""Statistics that are shares, in [0, 1]: performance profiles and the probability of improvement."""

from __future__ import annotations

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown
from isoplast.statistics._checks import Array, ArrayLike, matrix, numbers, share, sign, without_rounding
from isoplast.statistics._estimates import Curve, Estimate, critical


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, *, higher_is_better: bool, confidence: float = 0.95
) -> Curve:
    r"""For each threshold, the share of all scores that are better than it.

    :math:`\hat F(\tau) = \frac{1}{nT} \sum_{it} 1[s_{it} > \tau]` (or :math:`<` where lower is better): how
    far up the distribution goes, not only its middle. The method whose profile lies above another's
    everywhere is better in the sense of stochastic dominance.

    The band is Wilson's interval for a share with an effective sample size: the shares of the seeds tell how
    much the tasks of one seed have in common.

    Args:
        scores: shape (seeds, tasks), finite.
        thresholds: scores to compare with, shape (thresholds,).
        higher_is_better: direction of the score.
        confidence: coverage at each single threshold, in (0, 1).

    Returns:
        The profile; a single seed has no band.

    Raises:
        IsoplastError: a score or threshold is not finite, or confidence is out of range.

    Example:
        >>> performance_profile([[0.9, 0.5], [0.8, 0.7]], [0.4, 0.6, 0.8], higher_is_better=True).value
        array([1.  , 0.75, 0.25])

    Reference:
        Agarwal et al., arXiv:2108.13264; Korn and Graubard, "Confidence intervals for proportions with small
        expected number of positive counts estimated from survey data", Survey Methodology 24 (1998).
    """
    found, levels = matrix(scores), np.atleast_1d(numbers("thresholds", thresholds))
    if levels.ndim != 1 or not np.isfinite(levels).all():
        raise IsoplastError(f"thresholds must be finite numbers in one row, not {shown(thresholds)}")
    toward = sign(higher_is_better)
    better = (toward * found[:, :, None] > toward * levels).mean(axis=1)
    value, seeds = np.asarray(better.mean(axis=0)), len(found)
    variance = better.var(axis=0, ddof=min(1, seeds - 1)) / seeds
    low, high = _wilson(value, variance, seeds, found.shape[1], seeds - 1, confidence)
    return Curve(levels, value, low, high, seeds, confidence)


def probability_of_improvement(
    scores: ArrayLike, others: ArrayLike, *, higher_is_better: bool, confidence: float = 0.95
) -> Estimate:
    r"""How probably a run of one method beats a run of another on the same task, mean over tasks.

    :math:`\frac{1}{T n m} \sum_{tij} (1[s_{it} > o_{jt}] + \tfrac12 1[s_{it} = o_{jt}])` (or :math:`<` where
    lower is better): the Mann-Whitney statistic of each task; 0.5 says that neither is better. It knows
    nothing of how much better: quote it beside a difference.

    The interval is Wilson's with an effective sample size, from DeLong's variance over the seeds of each
    method. The seeds of the two count as independent, which is cautious where they are the same.

    Args:
        scores: shape (seeds, tasks), finite.
        others: the method to compare with, shape (its seeds, tasks).
        higher_is_better: direction of the score.
        confidence: coverage, in (0, 1).

    Returns:
        The estimate, its `seeds` those of the method with fewer; a single seed has no interval.

    Raises:
        IsoplastError: a score is not finite, the tasks differ in number, or confidence is out of range.

    Example:
        >>> probability_of_improvement([[0.9], [0.8]], [[0.7], [0.8]], higher_is_better=True).value
        0.875

    Reference:
        Agarwal et al., arXiv:2108.13264; DeLong et al., Biometrics 44 (1988); Korn and Graubard, as above.
    """
    ours, theirs, toward = matrix(scores), matrix(others), sign(higher_is_better)
    if ours.shape[1] != theirs.shape[1]:
        raise IsoplastError(
            f"{ours.shape[1]} tasks cannot be compared with {theirs.shape[1]}: give the same tasks"
        )
    difference = toward * (ours[:, None] - theirs[None])
    wins = ((np.sign(difference) + 1) / 2).mean(axis=2)
    value, seeds = np.asarray(wins.mean()), min(wins.shape)
    if seeds == 1:
        return Estimate(float(value), np.nan, np.nan, seeds, share("confidence", confidence), "none")
    spreads = [without_rounding(wins.mean(axis=1 - axis).std(ddof=1), 1.0) for axis in (0, 1)]
    parts = [spread**2 / count for spread, count in zip(spreads, wins.shape, strict=True)]
    weight = sum(part**2 / (count - 1) for part, count in zip(parts, wins.shape, strict=True))
    degrees = sum(parts) ** 2 / weight if weight > 0 else seeds - 1  # Welch's
    low, high = _wilson(value, np.asarray(sum(parts)), seeds, ours.shape[1], degrees, confidence)
    return Estimate(float(value), float(low), float(high), seeds, confidence, "Wilson")


def _wilson(
    value: Array, variance: Array, seeds: int, tasks: int, degrees: float, confidence: float
) -> tuple[Array, Array]:
    """Wilson's interval for a share with the variance that was found, NaN for one seed.

    The effective number of observations is value (1 - value) / variance: at least the seeds (all tasks of a
    seed alike; a smaller one is noise, by the bound of Bernoulli and of van Dantzig), at most seeds x tasks
    (none alike). A share of 0 or 1, which shows no variance, counts the seeds.
    """
    share("confidence", confidence)
    if seeds == 1:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    spread = value * (1 - value)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(spread > 0, np.clip(spread / variance, seeds, seeds * tasks), seeds)
    per = critical(confidence, degrees) ** 2 / effective
    centre = (value + per / 2) / (1 + per)
    half = np.sqrt(per * spread + per**2 / 4) / (1 + per)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)
