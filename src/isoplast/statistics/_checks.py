"""What every function asks of its scores: numbers of the right shape, none of them missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError

Array = npt.NDArray[np.float64]
ArrayLike = npt.ArrayLike


def matrix(scores: ArrayLike, *, finite: bool = True) -> Array:
    """Scores as an array of shape (seeds, tasks), at least one of each.

    Raises:
        IsoplastError: another shape, or a score that is not finite where all must be.
    """
    found = _numbers(scores)
    if found.ndim != 2 or 0 in found.shape:
        raise IsoplastError(
            f"scores have the shape {found.shape}: give an array (seeds, tasks), one row a run"
        )
    return _finite(found) if finite else found


def vector(values: ArrayLike) -> Array:
    """One number for each seed, shape (seeds,), at least one.

    Raises:
        IsoplastError: another shape, or a number that is not finite.
    """
    found = _numbers(values)
    if found.ndim != 1 or not len(found):
        raise IsoplastError(
            f"values have the shape {found.shape}: give one number a seed, such as average(scores)"
        )
    return _finite(found)


def share(name: str, value: float) -> float:
    """A number strictly between 0 and 1.

    Raises:
        IsoplastError: it is none.
    """
    if not 0 < value < 1:
        raise IsoplastError(f"{name} is {value}: it must lie between 0 and 1, 0.95 say")
    return value


def sign(higher_is_better: bool) -> float:
    """What turns a difference of scores into a gain.

    Raises:
        IsoplastError: the direction is not known.
    """
    if not isinstance(higher_is_better, bool | np.bool_):
        raise IsoplastError(f"higher_is_better is {higher_is_better}: say True or False")
    return 1.0 if higher_is_better else -1.0


def _numbers(values: Any) -> Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise IsoplastError(
            "scores must be numbers in an array: one row a run, all rows of one length"
        ) from None


def _finite(values: Array) -> Array:
    missing = int(np.count_nonzero(~np.isfinite(values)))
    if missing:
        raise IsoplastError(
            f"{missing} of {values.size} scores are not finite: say what a failure scores, "
            "fill_failures(scores, chance, higher_is_better=...)"
        )
    return values
