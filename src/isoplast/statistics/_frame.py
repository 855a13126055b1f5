"""From the frame of a study to scores by method, and to a table of methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown
from isoplast.statistics._checks import Array, applied, checked_frame, count, flag, named, real, share
from isoplast.statistics._comparison import CORRECTIONS, Comparison, Correction, compare_all
from isoplast.statistics._estimates import EXPLORATORY_BELOW, Estimate, aggregate, mean
from isoplast.statistics._summaries import average, change, fill_failures

if TYPE_CHECKING:
    import polars as pl

_NEEDED = ("run_id", "seed", "task", "score")
_COUNTS = ("method", "seeds", "failed", "unfinished", "exploratory", "pairs")


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one method.

    Args:
        seeds: of the runs that are done or have failed, ascending.
        values: score on each task, those of failures filled in by `fill_failures`, shape (seeds, tasks).
        failed: seeds of the failed runs, which count.
        unfinished: seeds of the runs that are still waiting or running, which do not count yet.
    """

    seeds: tuple[int, ...]
    values: Array
    failed: tuple[int, ...] = ()
    unfinished: tuple[int, ...] = ()

    def by_seed(self, statistic: Callable[[Array], Array] = average) -> dict[int, float]:
        """One number for each seed, as `compare` takes them."""
        if not self.seeds:
            return {}
        return dict(zip(self.seeds, _of_runs(statistic, self.values).tolist(), strict=True))


def method_scores(
    frame: pl.DataFrame,
    *,
    higher_is_better: bool,
    runs: pl.DataFrame | None = None,
    by: str = "label",
    tasks: int | None = None,
    chance: float | None = None,
) -> dict[str, Scores]:
    """The scores of every method as arrays, its failures filled in and counted.

    A run has failed where its state says so, or where it lacks a finite score for a task. With `runs`, those
    that failed in their first task count too, and those that are not finished are set apart; without, the
    former are not seen, and the latter count as failed.

    Args:
        frame: one row per run and task, as `isoplast.study.load_study` returns it: columns `run_id`, `seed`,
            `task`, `score`, the one named by `by` and, if there are any, `chance` and `primary`. Tasks below
            0 do not count.
        higher_is_better: direction of the score: `isoplast.study.metric(name).higher_is_better`.
        runs: one row per run, as `isoplast.study.load_runs` returns it: columns `run_id`, `seed`, `state` and
            the one named by `by`.
        by: the column that names the method.
        tasks: how many a whole run has; as far as any run came if None.
        chance: what a failure scores; the mean of the frame's `chance` at that task if None.

    Returns:
        Scores by method, in the order of `runs` or of the frame.

    Raises:
        IsoplastError: a column is missing, two runs of a method share a seed, the frame mixes primary
            metrics, a run that is done lacks tasks, or one failed and nobody knows what chance scores.

    Example:
        >>> import polars as pl
        >>> rows = [("a", 0, 0, 0.9), ("a", 0, 1, 0.8), ("b", 1, 0, 0.9)]
        >>> frame = pl.DataFrame(rows, schema=["run_id", "seed", "task", "score"], orient="row")
        >>> frame = frame.with_columns(label=pl.lit("adam"))
        >>> scores = method_scores(frame, higher_is_better=True, chance=0.1)["adam"]
        >>> scores.values.tolist(), scores.failed
        ([[0.9, 0.8], [0.9, 0.1]], (1,))

    Reference:
        As `fill_failures`.
    """
    flag("higher_is_better", higher_is_better)
    if tasks is not None:
        count("tasks", tasks, 1)
    if chance is not None and (not real(chance) or not math.isfinite(chance)):
        raise IsoplastError(f"chance is {shown(chance)}: give one finite number")
    frame = _checked(frame, by)
    known = sorted({*frame["task"].to_list()})
    known += range(known[-1] + 1, tasks or 0)
    rows: dict[str, dict[int, float]] = {}
    for run, task, score in frame.select("run_id", "task", "score").iter_rows():
        rows.setdefault(run, {})[task] = score
    found: dict[str, dict[int, tuple[str, Array]]] = {}
    for run, method, seed, state in _runs(frame, runs, by):
        row, seen = rows.get(run, {}), found.setdefault(method, {})
        if seed in seen:
            raise IsoplastError(
                f"method {method!r} has two runs with seed {seed}: filter the frame, or name in `by` a "
                "column that tells its methods apart"
            )
        if state == "done" and len(row) < len(known):
            raise IsoplastError(
                f"run {run!r} is done, and {len(row)} of {len(known)} tasks are here: give runs of one "
                "length, and those that the frame holds"
            )
        seen[seed] = state, np.array([row.get(task, math.nan) for task in known])
    guess = _guess(frame, known, chance)
    return {method: _scores(method, seen, guess, higher_is_better) for method, seen in found.items()}


def method_table(
    frame: pl.DataFrame,
    *,
    higher_is_better: bool,
    runs: pl.DataFrame | None = None,
    by: str = "label",
    tasks: int | None = None,
    chance: float | None = None,
    statistic: Callable[[Array], Array] = average,
    baseline: str | None = None,
    correction: Correction = "holm",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """A row for every method, the best first.

    Args:
        frame, higher_is_better, runs, by, tasks, chance: as for `method_scores`.
        statistic: the number of a run that ranks and is compared: maps (seeds, tasks) to (seeds,).
        baseline: the method to compare the others with, if any.
        correction: of the p values for the number of methods, "holm" or "fdr".
        confidence: coverage of every interval, in (0, 1).

    Returns:
        Columns `method`, `seeds`, `failed` (runs that count as chance where they failed), `unfinished` (runs
        that do not count yet), `exploratory` (fewer than ten seeds, or fewer than ten in common with the
        baseline); `score` (mean of the statistic), `iqm` (of all scores) and `change` (late against early),
        each followed by its `_low` and `_high`. With a baseline also `pairs` (seeds in common), `gain`,
        `gain_low`, `gain_high` (above 0 is better than the baseline), `effect_size`, `p`, `p_adjusted`,
        `detectable`. What the seeds or tasks cannot say is null.

    Raises:
        IsoplastError: as `method_scores`; the baseline or the correction is unknown.

    Example:
        >>> import polars as pl
        >>> runs = pl.DataFrame({"label": ["adam", "adam", "adamo", "adamo"], "seed": [0, 1, 0, 1]})
        >>> runs = runs.with_row_index("run_id").join(pl.DataFrame({"task": [0, 1, 2]}), how="cross")
        >>> score = 0.9 - 0.1 * pl.col("task") * (pl.col("label") == "adam") - 0.05 * pl.col("seed")
        >>> table = method_table(runs.with_columns(score=score), higher_is_better=True, baseline="adam")
        >>> table.select("method", "seeds", pl.col("score", "gain").round(3)).rows()
        [('adamo', 2, 0.875, 0.1), ('adam', 2, 0.775, None)]

    Reference:
        As `mean`, `aggregate`, `change` and `compare_all`.
    """
    import polars as pl

    share("confidence", confidence)
    named("correction", correction, CORRECTIONS)
    scores = method_scores(
        frame, higher_is_better=higher_is_better, runs=runs, by=by, tasks=tasks, chance=chance
    )
    if baseline is not None:
        named("method", baseline, scores)
    rows = {method: _row(method, one, statistic, confidence) for method, one in scores.items()}
    if baseline is not None:
        control = set(scores[baseline].seeds)
        paired = {method: one.by_seed(statistic) for method, one in scores.items() if control & {*one.seeds}}
        compared: dict[str, Comparison] = {}
        if paired:
            compared = compare_all(
                paired,
                baseline,
                higher_is_better=higher_is_better,
                correction=correction,
                confidence=confidence,
            )
        for method, row in rows.items():
            found = compared.get(method)
            row |= _compared(found)
            row["exploratory"] |= found is not None and found.gain.exploratory
    numbers = [name for name in next(iter(rows.values())) if name not in _COUNTS]
    table = pl.DataFrame(list(rows.values()), schema_overrides=dict.fromkeys(numbers, pl.Float64))
    return table.sort("score", descending=higher_is_better, nulls_last=True, maintain_order=True)


def _checked(frame: pl.DataFrame, by: str) -> pl.DataFrame:
    """The rows of trained tasks, if they can be compared at all."""
    import polars as pl

    checked_frame("frame", frame, (*_NEEDED, by))
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


def _runs(frame: pl.DataFrame, runs: pl.DataFrame | None, by: str) -> list[tuple[str, str, int, str]]:
    """Run, method, seed and state of every run, the state empty where nobody tells it."""
    import polars as pl

    named = ("run_id", pl.col(by).cast(pl.String), "seed")
    if runs is None:
        return frame.select(*named, state=pl.lit("")).unique(maintain_order=True).rows()
    checked_frame("runs", runs, ("run_id", "seed", "state", by))
    strange = sorted({*frame["run_id"]} - {*runs["run_id"]})
    if strange:
        raise IsoplastError(
            f"run {strange[0]!r} has results but is not among the runs: give both of one study"
        )
    return runs.select(*named, "state").rows()


def _guess(frame: pl.DataFrame, tasks: list[int], chance: float | None) -> Array:
    """What chance scores at each task, shape (tasks,): NaN if nobody knows."""
    import polars as pl

    if chance is not None or "chance" not in frame.columns:
        return np.full(len(tasks), math.nan if chance is None else chance)
    told = frame.select("task", pl.col("chance").cast(pl.Float64)).filter(pl.col("chance").is_finite())
    means = dict(told.group_by("task").agg(pl.col("chance").mean()).iter_rows())
    others = float(np.mean(list(means.values()))) if means else math.nan
    return np.array([means.get(task, others) for task in tasks])


def _scores(method: str, runs: dict[int, tuple[str, Array]], chance: Array, higher_is_better: bool) -> Scores:
    counted = sorted(seed for seed, (state, _) in runs.items() if state in ("", "done", "failed"))
    values = np.array([runs[seed][1] for seed in counted]).reshape(len(counted), len(chance))
    missing = ~np.isfinite(values)
    failed = [
        seed for seed, lacks in zip(counted, missing, strict=True) if lacks.any() or runs[seed][0] == "failed"
    ]
    if missing.any():
        if np.isnan(chance).any():
            raise IsoplastError(
                f"method {method!r} has failed runs and no chance level is known: give chance="
            )
        values = fill_failures(values, chance, higher_is_better=higher_is_better)
    return Scores(tuple(counted), values, tuple(failed), tuple(sorted(runs.keys() - set(counted))))


def _row(
    method: str, scores: Scores, statistic: Callable[[Array], Array], confidence: float
) -> dict[str, Any]:
    seeds, values = len(scores.seeds), scores.values
    found: dict[str, Estimate | None] = dict.fromkeys(("score", "iqm", "change"))
    if seeds:
        found["score"] = mean(_of_runs(statistic, values), confidence=confidence)
        found["iqm"] = aggregate(values, confidence=confidence)
        if values.shape[1] > 1:
            found["change"] = mean(change(values), confidence=confidence)
    return {
        "method": method,
        "seeds": seeds,
        "failed": len(scores.failed),
        "unfinished": len(scores.unfinished),
        "exploratory": seeds < EXPLORATORY_BELOW,
        **{key: value for name, one in found.items() for key, value in _ends(name, one).items()},
    }


def _of_runs(statistic: Callable[[Array], Array], scores: Array) -> Array:
    return applied(statistic, scores, scores.shape[:1], "(seeds, tasks) to (seeds,)", "average")


def _compared(one: Comparison | None) -> dict[str, Any]:
    names = ("effect_size", "p", "p_adjusted", "detectable")
    return {
        "pairs": one.gain.seeds if one else 0,
        **_ends("gain", one.gain if one else None),
        **{name: _known(getattr(one, name)) if one else None for name in names},
    }


def _ends(name: str, one: Estimate | None) -> dict[str, float | None]:
    names = (name, f"{name}_low", f"{name}_high")
    values = (one.value, one.low, one.high) if one else (math.nan,) * 3
    return {key: _known(value) for key, value in zip(names, values, strict=True)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
