"""What every function asks of its arguments: numbers of the right shape, in range, none of them missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import shown

if TYPE_CHECKING:
    import polars as pl

Array = npt.NDArray[np.float64]
ArrayLike = npt.ArrayLike

# Float64 carries 16 digits, of which a mean over thousands of tasks costs one or two.
_ROUNDING = 1e-12


def numbers(name: str, values: Any) -> Array:
    """An array of any shape; NaN for None.

    Raises:
        IsoplastError: it holds something other than real numbers, or rows of several lengths.
    """
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "cSUMm":
            return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last by tensors that need a gradient
        pass
    raise IsoplastError(f"{name} must be numbers in an array, all rows of one length, not {shown(values)}")


def matrix(scores: ArrayLike, *, finite: bool = True) -> Array:
    """Scores as an array of shape (seeds, tasks), at least one of each.

    Raises:
        IsoplastError: another shape, or a score that is not finite where all must be.
    """
    found = numbers("scores", scores)
    if found.ndim != 2 or 0 in found.shape:
        raise IsoplastError(
            f"scores have the shape {found.shape}: give an array (seeds, tasks), one row a run"
        )
    return all_finite(found) if finite else found


def vector(values: ArrayLike) -> Array:
    """One number for each seed, shape (seeds,), at least one.

    Raises:
        IsoplastError: another shape, or a number that is not finite.
    """
    found = numbers("values", values)
    if found.ndim != 1 or not len(found):
        raise IsoplastError(
            f"values have the shape {found.shape}: give one number a seed, such as average(scores)"
        )
    return all_finite(found)


def all_finite(values: Array) -> Array:
    """The scores themselves.

    Raises:
        IsoplastError: one is not finite.
    """
    missing = int(np.count_nonzero(~np.isfinite(values)))
    if missing:
        raise IsoplastError(
            f"{missing} of {values.size} scores are not finite: say what a failure scores, "
            "fill_failures(scores, chance, higher_is_better=...)"
        )
    return values


def by_seed(name: str, values: Mapping[int, float]) -> Mapping[int, float]:
    """A number for each seed.

    Raises:
        IsoplastError: it is no mapping, or one from something other than whole numbers.
    """
    if not isinstance(values, Mapping) or not all(isinstance(seed, Integral) for seed in values):
        raise IsoplastError(
            f"{name} must map seeds to numbers, as dict(enumerate(average(scores))), not {shown(values)}"
        )
    return values


def real(value: Any) -> bool:
    """Whether a value is one real number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def share(name: str, value: float) -> float:
    """A number strictly between 0 and 1.

    Raises:
        IsoplastError: it is none.
    """
    if not real(value) or not 0 < value < 1:
        raise IsoplastError(f"{name} is {shown(value)}: it must lie between 0 and 1, 0.95 say")
    return value


def count(name: str, value: int, least: int) -> int:
    """A whole number of at least so many.

    Raises:
        IsoplastError: it is none.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise IsoplastError(f"{name} is {shown(value)}: give a whole number, {least} or more")
    return value


def flag(name: str, value: bool) -> bool:
    """True or False.

    Raises:
        IsoplastError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise IsoplastError(f"{name} is {shown(value)}: say True or False")
    return bool(value)


def sign(higher_is_better: bool) -> float:
    """What turns a difference of scores into a gain.

    Raises:
        IsoplastError: the direction is not known.
    """
    return 1.0 if flag("higher_is_better", higher_is_better) else -1.0


def named(kind: str, name: str, known: Iterable[str]) -> str:
    """One of the known names.

    Raises:
        IsoplastError: it is none of them.
    """
    names = [*known]
    if not isinstance(name, str) or name not in names:
        raise unknown(kind, name if isinstance(name, str) else shown(name), map(str, names))
    return name


def applied(
    statistic: Callable[[Array], Any], scores: Array, shape: tuple[int, ...], maps: str, example: str
) -> Array:
    """What a user's statistic gives for the scores.

    Args:
        statistic: the function.
        scores: its argument.
        shape: of what it must give.
        maps, example: the same in words, and a function that does.

    Raises:
        IsoplastError: it is no function, or gives another shape.
    """
    if not callable(statistic):
        raise IsoplastError(f"statistic is {shown(statistic)}: give a function of scores, {example} say")
    found = numbers("what the statistic gives", statistic(scores))
    if found.shape != shape:
        raise IsoplastError(
            f"statistic gives the shape {found.shape} for scores {scores.shape}: it must map {maps}, as "
            f"{example} does"
        )
    return found


def checked_frame(what: str, frame: pl.DataFrame, columns: Iterable[str]) -> None:
    """Refuse a frame that lacks columns or holds something other than numbers where they belong.

    Raises:
        IsoplastError: it is no polars frame, or such a one.
    """
    import polars as pl

    if not isinstance(frame, pl.DataFrame):
        raise IsoplastError(f"{what} is {shown(frame)}: give the polars frame of load_study or load_runs")
    for column in columns:
        if not isinstance(column, str) or column not in frame.columns:
            raise IsoplastError(
                f"{what} lacks the column {shown(column)}: give the frame of load_study or load_runs"
            )
        if column in ("run_id", "seed", "task") and frame[column].has_nulls():
            raise IsoplastError(f"the column {column!r} of {what} has holes: name the {column} in each row")
    for column, kind in frame.schema.items():
        wanted = kind.is_integer() if column in ("seed", "task") else kind.is_numeric()
        measured = column in ("seed", "task", "score", "chance") and frame[column].null_count() < len(frame)
        if measured and not wanted:
            raise IsoplastError(f"the column {column!r} of {what} holds {kind}: give numbers there")


def without_rounding(values: ArrayLike, scale: float) -> Array:
    """Values, with 0 for those that are no more than the rounding of numbers as large as `scale`.

    Three equal differences of scores have a standard deviation of 1e-17, not 0, and a t value of 1e16.
    """
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(found) <= _ROUNDING * scale, 0.0, found)
