"""From the frame of a study to scores by method, and to a table of methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError, unknown
from isoplast.statistics._checks import Array
from isoplast.statistics._comparison import Comparison, Correction, compare_all
from isoplast.statistics._estimates import EXPLORATORY_BELOW, Estimate, aggregate, mean
from isoplast.statistics._summaries import average, change, fill_failures

if TYPE_CHECKING:
    import polars as pl

_NEEDED = ("run_id", "seed", "task", "score")


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one method.

    Args:
        seeds: of the runs that are done or have failed, ascending.
        values: score on each task, failures filled in by `fill_failures`, shape (seeds, tasks).
        failed: where a score was filled in, shape (seeds, tasks).
        unfinished: seeds of runs that are still waiting or running; nothing of them counts.
    """

    seeds: tuple[int, ...]
    values: Array
    failed: npt.NDArray[np.bool_]
    unfinished: tuple[int, ...] = ()

    @property
    def failures(self) -> int:
        """How many runs failed on at least one task."""
        return int(self.failed.any(axis=1).sum())

    def by_seed(self, statistic: Callable[[Array], Array] = average) -> dict[int, float]:
        """One number for each seed, as `compare` takes them."""
        if not self.seeds:
            return {}
        return dict(zip(self.seeds, statistic(self.values).tolist(), strict=True))


def method_scores(
    frame: pl.DataFrame,
    *,
    higher_is_better: bool,
    runs: pl.DataFrame | None = None,
    by: str = "label",
    chance: float | None = None,
) -> dict[str, Scores]:
    """The scores of every method as arrays, with its failures filled in and counted.

    A task without a finite score is a failure of its run. With `runs`, runs that failed before their first
    task count too, and those that are not finished yet are set apart; without, they count as failed.

    Args:
        frame: one row per run and task, as `isoplast.study.load_study` returns it: columns `run_id`, `seed`,
            `task`, `score`, the one named by `by`, and if it has them `chance` and `primary`. Tasks below 0
            do not count.
        higher_is_better: direction of the score: `isoplast.study.metric(name).higher_is_better`.
        runs: one row per run, as `isoplast.study.load_runs` returns it: columns `run_id`, `seed`, `state`,
            and the one named by `by`.
        by: the column that names the method.
        chance: what a failure scores; mean of the frame's `chance` at that task if None.

    Returns:
        Scores by method, in the order of `runs` or of the frame.

    Raises:
        IsoplastError: a column is missing, two runs of a method share a seed, the frame mixes primary
        metrics, a
            finished run lacks tasks, or a run failed and nobody knows what chance scores.
    """
    frame = _checked(frame, by)
    tasks: list[int] = frame["task"].unique().sort().to_list()
    place = {task: column for column, task in enumerate(tasks)}
    rows: dict[str, dict[int, float]] = {}
    for run, task, score in frame.select("run_id", "task", "score").iter_rows():
        rows.setdefault(run, {})[place[task]] = score
    finished: dict[str, dict[int, Array]] = {}
    unfinished: dict[str, list[int]] = {}
    for run, method, seed, state in _runs(frame, runs, by):
        seen, waiting = finished.setdefault(method, {}), unfinished.setdefault(method, [])
        if seed in seen or seed in waiting:
            raise IsoplastError(
                f"method {method!r} has two runs with seed {seed}: filter the frame, or name in `by` a column that "
                "tells its methods apart"
            )
        row = rows.get(run, {})
        if state not in ("done", "failed"):
            waiting.append(seed)
            continue
        if state == "done" and len(row) < len(tasks):
            raise IsoplastError(
                f"run {run!r} is done after {len(row)} of {len(tasks)} tasks: compare one length"
            )
        seen[seed] = np.array([row.get(column, math.nan) for column in range(len(tasks))])
    guess = _guess(frame, tasks, chance)
    return {
        method: _filled(method, seeds, unfinished[method], guess, higher_is_better)
        for method, seeds in finished.items()
    }


def method_table(
    frame: pl.DataFrame,
    *,
    higher_is_better: bool,
    runs: pl.DataFrame | None = None,
    by: str = "label",
    chance: float | None = None,
    statistic: Callable[[Array], Array] = average,
    baseline: str | None = None,
    correction: Correction = "holm",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """A row for every method, the best first.

    Args:
        frame, higher_is_better, runs, by, chance: as for `method_scores`.
        statistic: the number of a run that ranks and is compared: maps (seeds, tasks) to (seeds,).
        baseline: the method to compare the others with, if any.
        correction: of the p values for the number of methods, "holm" or "fdr".
        confidence: coverage of every interval, in (0, 1).

    Returns:
        Columns `method`, `seeds`, `failed` (runs with a failure: they count, with the score of chance),
        `unfinished` (runs that do not count yet), `exploratory` (fewer than ten seeds); `score` (mean of the
        statistic), `iqm` (of all scores) and `change` (late against early; null for a single task), each
        followed by its `_low` and `_high`. With a baseline also `pairs` (seeds in common), `gain`,
        `gain_low`, `gain_high` (above 0 is better than the baseline), `effect_size`, `p`, `p_adjusted` and
        `detectable`. What a single seed cannot say is null.

    Raises:
        IsoplastError: as `method_scores`; the baseline or correction is unknown, or has no seed in common
        with a
            method.

    Example:
        >>> import polars as pl
        >>> rows = [
        ...     {"run_id": f"{label}{seed}", "label": label, "seed": seed, "task": task, "score": score - task
        / 10} ...     for label, score in {"adam": 0.5, "adamo": 0.7}.items() for seed in range(3) for task in
        range(3) ... ]
        >>> table = method_table(pl.DataFrame(rows), higher_is_better=True, baseline="adam")
        >>> table.select("method", "seeds", pl.col("score", "gain").round(3)).rows()
        [('adamo', 3, 0.6, 0.2), ('adam', 3, 0.4, None)]

    Reference:
        As `mean`, `aggregate`, `change` and `compare_all`.
    """
    import polars as pl

    scores = method_scores(frame, higher_is_better=higher_is_better, runs=runs, by=by, chance=chance)
    compared: dict[str, Comparison] = {}
    if baseline is not None:
        if baseline not in scores:
            raise unknown("method", baseline, scores)
        numbers = {method: one.by_seed(statistic) for method, one in scores.items() if one.seeds}
        compared = compare_all(
            numbers, baseline, higher_is_better=higher_is_better, correction=correction, confidence=confidence
        )
    table = [
        _row(method, one, statistic, confidence)
        | (_compared(compared.get(method)) if baseline is not None else {})
        for method, one in scores.items()
    ]
    found = pl.DataFrame(table, infer_schema_length=None)
    return found.sort("score", descending=higher_is_better, nulls_last=True, maintain_order=True)


def _checked(frame: pl.DataFrame, by: str) -> pl.DataFrame:
    """The rows of trained tasks, if they can be compared at all."""
    import polars as pl

    _has(frame, (*_NEEDED, by), "results")
    frame = frame.filter(pl.col("task") >= 0)
    if frame.is_empty():
        raise IsoplastError("there is no finished task yet: run the study first")
    primary = frame["primary"].drop_nulls().unique().sort().to_list() if "primary" in frame.columns else []
    if len(primary) > 1:
        raise IsoplastError(
            f"the scores are of several metrics, {', '.join(primary)}: filter the frame to one"
        )
    unmeasured = frame.filter(pl.col("score").is_null())
    if len(unmeasured):
        run, task = unmeasured.select("run_id", "task").row(0)
        raise IsoplastError(f"run {run!r} has no score for task {task}: its primary metric was not measured")
    if frame.select("run_id", "task").is_duplicated().any():
        raise IsoplastError("a task of a run has several rows: give one row per run and task")
    return frame


def _has(frame: pl.DataFrame, columns: tuple[str, ...], what: str) -> None:
    for column in columns:
        if column not in frame.columns:
            raise IsoplastError(
                f"the {what} lack the column {column!r}: give the frame of load_study or load_runs"
            )


def _runs(frame: pl.DataFrame, runs: pl.DataFrame | None, by: str) -> list[tuple[str, str, int, str]]:
    """Run, method, seed and state of every run; without states, one that lacks tasks has failed."""
    import polars as pl

    named = ("run_id", pl.col(by).cast(pl.String), "seed")
    told = frame.select(*named, state=pl.lit("failed")).unique(maintain_order=True)
    if runs is None:
        return told.rows()
    _has(runs, ("run_id", "seed", "state", by), "runs")
    strange = sorted({*told["run_id"]} - {*runs["run_id"]})
    if strange:
        raise IsoplastError(
            f"run {strange[0]!r} has results but is not among the runs: give those of one study"
        )
    return runs.select(*named, "state").rows()


def _guess(frame: pl.DataFrame, tasks: list[int], chance: float | None) -> Array:
    """What chance scores at each task, shape (tasks,); NaN where nobody knows."""
    import polars as pl

    if chance is not None:
        return np.full(len(tasks), chance, dtype=np.float64)
    if "chance" not in frame.columns:
        return np.full(len(tasks), np.nan)
    known = frame.select("task", pl.col("chance").cast(pl.Float64)).filter(pl.col("chance").is_finite())
    means = dict(known.group_by("task").agg(pl.col("chance").mean()).iter_rows())
    return np.array([means.get(task, math.nan) for task in tasks])


def _filled(
    method: str, seeds: dict[int, Array], unfinished: list[int], chance: Array, higher_is_better: bool
) -> Scores:
    order = tuple(sorted(seeds))
    raw = np.array([seeds[seed] for seed in order]).reshape(len(order), len(chance))
    failed = ~np.isfinite(raw)
    if np.isnan(chance[failed.any(axis=0)]).any():
        raise IsoplastError(f"method {method!r} has failed runs, and no chance level is known: give chance=")
    if failed.any():
        raw = fill_failures(raw, np.nan_to_num(chance), higher_is_better=higher_is_better)
    return Scores(order, raw, failed, tuple(sorted(unfinished)))


def _row(
    method: str, scores: Scores, statistic: Callable[[Array], Array], confidence: float
) -> dict[str, Any]:
    count, values = len(scores.seeds), scores.values
    found: dict[str, Estimate | None] = dict.fromkeys(("score", "iqm", "change"))
    if count:
        found["score"] = mean(statistic(values), confidence=confidence)
        found["iqm"] = aggregate(values, confidence=confidence)
        if values.shape[1] > 1:
            found["change"] = mean(change(values), confidence=confidence)
    return {
        "method": method,
        "seeds": count,
        "failed": scores.failures,
        "unfinished": len(scores.unfinished),
        "exploratory": count < EXPLORATORY_BELOW,
        **{key: value for name, one in found.items() for key, value in _ends(name, one).items()},
    }


def _compared(one: Comparison | None) -> dict[str, Any]:
    names = ("effect_size", "p", "p_adjusted", "detectable")
    return {
        "pairs": one.gain.seeds if one else None,
        **_ends("gain", one.gain if one else None),
        **{name: _known(getattr(one, name)) if one else None for name in names},
    }


def _ends(name: str, one: Estimate | None) -> dict[str, float | None]:
    names = (name, f"{name}_low", f"{name}_high")
    values = (one.value, one.low, one.high) if one else (math.nan,) * 3
    return {key: _known(value) for key, value in zip(names, values, strict=True)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
