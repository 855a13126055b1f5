"""One number for each seed: what became of a run over its tasks. And what a failed run scores."""

from __future__ import annotations

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown
from isoplast.statistics._checks import Array, ArrayLike, count, matrix, numbers, sign


def fill_failures(scores: ArrayLike, chance: ArrayLike, *, higher_is_better: bool) -> Array:
    r"""Give the tasks in which a run had failed the score of a guess.

    A score that is not finite (the run diverged there, or had ended before) becomes the worse of chance and
    of the worst score that the same run reached, so that no method gains by failing:
    :math:`s_{it} = \min(c_t, \min_{u\ \text{finite}} s_{iu})` where higher is better, else the maximum. It
    asks nothing of the other methods: adding one leaves the numbers of the rest alone.

    Args:
        scores: shape (seeds, tasks); NaN or infinite where a run failed.
        chance: score of a guess that does not look at the inputs: one number, or one a task, shape (tasks,).
        higher_is_better: direction of the score.

    Returns:
        Finite scores of the same shape; those that were finite are unchanged.

    Raises:
        IsoplastError: chance is not finite, or not one number a task.

    Example:
        >>> fill_failures([[0.9, np.nan, np.nan], [0.05, 0.8, np.inf]], 0.1, higher_is_better=True)
        array([[0.9 , 0.1 , 0.1 ],
               [0.05, 0.8 , 0.05]])

    Reference:
        Single imputation by the worst outcome: Lachin, "Worst-rank score analysis with informatively missing
        observations in clinical trials", Controlled Clinical Trials 20 (1999).
    """
    found, guess = matrix(scores, finite=False), numbers("chance", chance)
    if guess.shape not in ((), found.shape[1:]) or not np.isfinite(guess).all():
        raise IsoplastError(
            f"chance is {shown(guess.tolist())}: give one finite number, or one for each of the tasks"
        )
    known, toward = np.isfinite(found), sign(higher_is_better)
    own_worst = np.where(known, toward * found, np.inf).min(axis=1, keepdims=True)
    return np.where(known, found, toward * np.minimum(toward * guess, own_worst))


def average(scores: ArrayLike) -> Array:
    r"""Mean over the tasks: the whole lifetime, every task alike.

    :math:`\frac1T \sum_t s_{it}`.

    Args:
        scores: shape (seeds, tasks), finite.

    Returns:
        Shape (seeds,).

    Example:
        >>> average([[0.9, 0.8, 0.7], [0.9, 0.9, 0.9]])
        array([0.8, 0.9])

    Reference:
        "Average online accuracy" of Kumar et al., arXiv:2308.11958.
    """
    return np.asarray(matrix(scores).mean(axis=1))


def last(scores: ArrayLike, k: int = 1) -> Array:
    r"""Mean over the last k tasks: what is left of the ability to learn.

    :math:`\frac1k \sum_{t > T - k} s_{it}`.

    Args:
        scores: shape (seeds, tasks), finite.
        k: number of tasks, 1 to all.

    Returns:
        Shape (seeds,).

    Raises:
        IsoplastError: there are not that many tasks.

    Example:
        >>> last([[0.9, 0.8, 0.6]], k=2)
        array([0.7])

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632 (2024).
    """
    found = matrix(scores)
    _check_width(k, found.shape[1])
    return np.asarray(found[:, -k:].mean(axis=1))


def change(scores: ArrayLike, k: int | None = None) -> Array:
    r"""Late against early: the mean over the last k tasks minus the mean over the first k.

    :math:`\frac1k (\sum_{t > T - k} s_{it} - \sum_{t \le k} s_{it})`. Lost plasticity shows as a negative
    change where a higher score is better, as a positive one where a lower score is.

    Args:
        scores: shape (seeds, tasks), finite, at least two tasks.
        k: number of tasks at either end, at most half of all; a tenth of them, at least one, if None.

    Returns:
        Shape (seeds,), in units of the score.

    Raises:
        IsoplastError: there is only one task, or the two ends would overlap.

    Example:
        >>> change([[0.9, 0.8, 0.6]])
        array([-0.3])

    Reference:
        Dohare et al., "Maintaining plasticity in deep continual learning", arXiv:2306.13812: "from 89%
        accuracy on an early task down to 77%".
    """
    found = matrix(scores)
    _check_several(found, "change")
    width = max(1, found.shape[1] // 10) if k is None else k
    _check_width(width, found.shape[1] // 2)
    return np.asarray(found[:, -width:].mean(axis=1) - found[:, :width].mean(axis=1))


def slope(scores: ArrayLike) -> Array:
    r"""Trend of the score: the slope of the least-squares line through all tasks.

    :math:`\sum_t (t - \bar t) s_{it} / \sum_t (t - \bar t)^2`, its sign as that of `change`.

    Args:
        scores: shape (seeds, tasks), finite, at least two tasks.

    Returns:
        Shape (seeds,), in units of the score per task.

    Raises:
        IsoplastError: there is only one task.

    Example:
        >>> slope([[0.9, 0.8, 0.7]]).round(12)
        array([-0.1])

    Reference:
        Least squares with equally spaced tasks.
    """
    found = matrix(scores)
    _check_several(found, "slope")
    steps = np.arange(found.shape[1]) - (found.shape[1] - 1) / 2
    gains = found - found[:, :1]  # so that a run that stays where it is has a slope of exactly 0
    return np.asarray(gains @ steps / (steps @ steps))


def area(scores: ArrayLike) -> Array:
    r"""Area under the curve over the tasks, by trapezoids, divided by its length.

    :math:`\frac{1}{T - 1} \sum_{t=1}^{T-1} \tfrac12 (s_{it} + s_{i,t+1})`: an average in which the first and
    the last task count half; that of a single task is its score.

    Args:
        scores: shape (seeds, tasks), finite.

    Returns:
        Shape (seeds,), in units of the score.

    Example:
        >>> area([[1.0, 0.5, 0.0]])
        array([0.5])

    Reference:
        The trapezoidal rule.
    """
    found = matrix(scores)
    if found.shape[1] == 1:
        return np.array(found[:, 0])
    middles: Array = (found[:, :-1] + found[:, 1:]) / 2
    return np.asarray(middles.mean(axis=1))


def forward_transfer(scores: ArrayLike, fresh: ArrayLike, *, higher_is_better: bool) -> Array:
    r"""What the tasks before are worth: mean gain over a fresh network on the same task.

    :math:`\frac{1}{T - 1} \sum_{t=2}^{T} (s_{it} - f_{it})`, its sign turned where lower is better: below 0
    the network learns worse than one that has seen nothing. The first task, which both meet alike, does not
    count.

    Args:
        scores: shape (seeds, tasks), finite, at least two tasks.
        fresh: the same tasks and seeds with a network made anew for each task (method "full-reset"), same
            shape; row i of both belongs to one seed.
        higher_is_better: direction of the score.

    Returns:
        Shape (seeds,), in units of the score.

    Raises:
        IsoplastError: the shapes differ, or there is only one task.

    Example:
        >>> forward_transfer([[0.9, 0.6, 0.5]], [[0.9, 0.8, 0.9]], higher_is_better=True).round(12)
        array([-0.3])

    Reference:
        Wołczyk et al., "Continual World", arXiv:2105.10919, without their division by what is left to gain.
    """
    found, control = matrix(scores), matrix(fresh)
    if found.shape != control.shape:
        raise IsoplastError(
            f"scores are {found.shape}, those of fresh networks {control.shape}: give the same seeds, tasks"
        )
    _check_several(found, "forward_transfer")
    return np.asarray(sign(higher_is_better) * (found - control)[:, 1:].mean(axis=1))


def _check_width(k: int, most: int) -> None:
    if count("k", k, 1) > most:
        raise IsoplastError(f"k is {k}: these tasks allow 1 to {most}")


def _check_several(scores: Array, what: str) -> None:
    if scores.shape[1] < 2:
        raise IsoplastError(f"{what} compares tasks, and there is only one: give two or more")
