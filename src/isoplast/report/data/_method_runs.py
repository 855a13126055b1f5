"""The frame of a study, cut into methods: one array per metric, seeds by tasks.

A method here is a method with its settings, run with one or more seeds. Everything the page says about it
(curves, table, headline) is computed from here, so that no two places of the page can disagree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.report.data._instruments import INSTRUMENTS, PER_ACTIVATION, PER_MATRIX, PROBES
from isoplast.report.figures._palette import Style, style
from isoplast.statistics import EXPLORATORY_BELOW, fill_failures
from isoplast.study import METRICS, Metric, edition, metric, varying

Array = npt.NDArray[np.float64]
SMALLEST_DRAWN = 1e-10
"""Singular values below this are rounding noise of a float32 decomposition; log axes end here."""

_LISTS = {
    *(one.name for one in METRICS if one.per != "task"),
    *(*PER_MATRIX, *PER_ACTIVATION),
}
_SCALARS = {
    *("score", *(one.name for one in METRICS if one.per == "task")),
    *(*PROBES, "ntk_size", "plasticity", "plasticity_low", "plasticity_high"),
}
_REQUIRED = ("run_id", "label", "seed", "task", "method_active", "score", "primary")


@dataclass(frozen=True)
class Switch:
    """A method gives way to another: the 0-based first task of the new one."""

    task: int
    old: str
    new: str


@dataclass(frozen=True)
class MethodRuns:
    """All runs of one setting.

    Args:
        tasks: 0-based task indices, -1 for the untrained network, shape (T,).
        score: the metric that counts, after each task, shape (seeds, T); NaN where a run has no such row, and
            for a failed run what `isoplast.statistics.fill_failures` gives it.
        metric: which one that is.
        steps: optimizer steps spent on each task, shape (seeds, T).
        chance: score of a guess on each task, shape (T,); NaN where there is none.
        per_layer: metric name -> array (seeds, T, layers), layers named by `layers` or `units`.
        probes: metric name -> array (seeds, T), for those of `PROBES` that were measured.
        methods: the title of the method in force in each task.
        runs: the ids of its runs, one per seed.
        failed: the seeds of those that failed.
        data: the editions of its data, in words; "" where nothing says so.
        settings: the columns of the spec that all its runs share.
    """

    label: str
    style: Style
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    failed: tuple[int, ...]
    data: str
    tasks: npt.NDArray[np.int64]
    score: Array
    metric: Metric
    steps: Array
    chance: Array
    layers: tuple[str, ...]
    units: tuple[str, ...]
    per_layer: dict[str, Array]
    probes: dict[str, Array]
    methods: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return -1.0 if self.metric.higher_is_better is False else 1.0

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which columns belong to tasks that were trained on (all but the untrained network's)."""
        return self.tasks >= 0

    @property
    def switches(self) -> tuple[Switch, ...]:
        """The tasks from which another method was in force than before."""
        named = [(int(task), name) for task, name in zip(self.tasks, self.methods, strict=True) if task >= 0]
        pairs = itertools.pairwise(named)
        return tuple(Switch(task, old, new) for (_, old), (task, new) in pairs if old != new)

    def names(self, metric: str) -> tuple[str, ...]:
        """The layers that a per-layer metric speaks of."""
        return self.units if metric in PER_ACTIVATION else self.layers


def method_runs(frame: pl.DataFrame, runs: pl.DataFrame | None = None) -> list[MethodRuns]:
    """The runs of a study, by method and settings.

    Args:
        frame: one row per (run, task), as `isoplast.study.load_study` returns it.
        runs: one row per run, as `isoplast.study.load_runs` returns it; tells which runs have failed, and
            what their data were. Without it no run has.

    Returns:
        One for each distinct setting with a finished task, in the order of the frame. To a label that
        several settings share, what tells them apart is appended.

    Raises:
        IsoplastError: the frame is empty, lacks a column, or holds no score at all.
    """
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing:
        raise IsoplastError(
            f"the study's results lack the column {missing[0]!r}: was it written by isoplast?"
        )
    finished = (pl.col("task") >= 0) & pl.col("score").is_not_null()
    if frame.filter(finished).is_empty():
        raise IsoplastError("the study holds no finished task yet: run it first, then write the report")
    spec = [name for name in frame.columns if name not in {"run_id", "seed"} | _SCALARS | _LISTS]
    every = frame.partition_by(spec, maintain_order=True)
    groups = [group for group in every if not group.filter(finished).is_empty()]
    labels = _distinct_labels([{name: group[name][0] for name in spec} for group in groups])
    problem = [name for name in ("stream", "data", "tasks") if name in frame.columns]
    told = _told(runs, {*frame["run_id"]})
    return [
        _runs_of(label, group, style(index), spec, told, _like(frame, group, problem))
        for index, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


def _like(frame: pl.DataFrame, group: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """The rows with the values that a group has in these columns."""
    same = [pl.col(name).eq_missing(pl.lit(group[name][0], dtype=frame.schema[name])) for name in names]
    return frame.filter(same) if same else frame


@dataclass(frozen=True)
class _Told:
    """What the whole study says of its runs."""

    data: dict[str, str]
    failed: frozenset[str]
    unseen: dict[str, dict[int, str]]  # of each label the failed runs without a row, by seed


def _told(runs: pl.DataFrame | None, seen: set[str]) -> _Told:
    if runs is None:
        return _Told({}, frozenset(), {})
    notes = {run: edition(text) for run, text in runs.select("run_id", "provenance").iter_rows()}
    lost = runs.filter(pl.col("state") == "failed")
    unseen: dict[str, dict[int, str]] = {}
    for run, label, seed in lost.select("run_id", "label", "seed").iter_rows():
        if run not in seen:
            unseen.setdefault(label, {})[seed] = run
    return _Told(notes, frozenset(lost["run_id"]), unseen)


def _chance(frame: pl.DataFrame) -> dict[int, float]:
    """The mean chance of each task that has one."""
    if "chance" not in frame.columns:
        return {}
    known = frame.select("task", pl.col("chance").cast(pl.Float64)).filter(pl.col("chance").is_finite())
    return dict(known.group_by("task").agg(pl.col("chance").mean()).iter_rows())


def _distinct_labels(settings: list[dict[str, Any]]) -> list[str]:
    labels = []
    for one in settings:
        same = [other for other in settings if other["label"] == one["label"]]
        told = [f"{key} {one[key]}" for key in varying(same) if one[key] is not None]
        labels.append(", ".join([str(one["label"]), *told]))
    return labels


def _runs_of(
    label: str, group: pl.DataFrame, look: Style, spec: Iterable[str], told: _Told, problem: pl.DataFrame
) -> MethodRuns:
    unseen = told.unseen.get(str(group["label"][0]), {})
    run_of = {seed: run for seed, run in unseen.items() if seed not in {*group["seed"]}}
    run_of |= dict(group.select("seed", "run_id").iter_rows())
    seeds = np.array(sorted(run_of))
    failed = np.array([run_of[seed] in told.failed for seed in seeds.tolist()])
    tasks = np.unique(group["task"].to_numpy())
    if failed.all():  # nothing else says how far the others would have come
        tasks = np.union1d(tasks, problem["task"].to_numpy())
    rows = np.searchsorted(seeds, group["seed"].to_numpy())
    columns = np.searchsorted(tasks, group["task"].to_numpy())
    names = {kind: _first_names(group, kind) for kind in ("layers", "units")}

    def scalars(column: str) -> Array:
        values = np.full((len(seeds), len(tasks)), np.nan)
        if column in group.columns:
            values[rows, columns] = group[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return values

    def lists(column: str) -> Array:
        known = names["units" if column in PER_ACTIVATION else "layers"]
        values = np.full((len(seeds), len(tasks), len(known)), np.nan)
        whole = (group[column].list.len() == len(known)).fill_null(False)
        found = group[column].filter(whole).explode().cast(pl.Float64).fill_null(np.nan).to_numpy()
        if known:
            values[rows[whole], columns[whole]] = found.reshape(-1, len(known))
        return values

    active = ["" if name is None else name for name in group["method_active"]]
    titles = {name: _title(name) for name in dict.fromkeys(active)}
    by_task = dict(zip(group["task"], active, strict=True))
    by_chance = {**_chance(problem), **_chance(group)}
    chance = np.array([by_chance.get(task, math.nan) for task in tasks.tolist()])
    known = metric(group["primary"].drop_nulls()[0])
    score, counted = scalars("score"), tasks >= 0
    if failed.any() and np.isfinite(chance[counted]).all():
        better = known.higher_is_better is not False
        filled = fill_failures(score[:, counted], chance[counted], higher_is_better=better)
        score[:, counted] = np.where(failed[:, None], filled, score[:, counted])
    last = max(by_task)
    return MethodRuns(
        label=label,
        style=look,
        seeds=tuple(seeds.tolist()),
        runs=tuple(run_of[seed] for seed in seeds.tolist()),
        failed=tuple(seeds[failed].tolist()),
        data=", ".join(dict.fromkeys(told.data[run] for run in run_of.values() if told.data.get(run))),
        tasks=tasks,
        score=score,
        metric=known,
        steps=scalars("steps"),
        chance=chance,
        layers=names["layers"],
        units=names["units"],
        per_layer={name: lists(name) for name in (*PER_MATRIX, *PER_ACTIVATION) if name in group.columns},
        probes={name: values for name in PROBES if not np.isnan(values := scalars(name)).all()},
        methods=tuple(titles[by_task.get(task, by_task[last])] for task in tasks.tolist()),
        settings={name: group[name][0] for name in spec},
    )


def _title(method: str) -> str:
    known = method and all(part in methods.names() for part in method.split("+"))
    return methods.get(method).info.title if known else method


def _first_names(group: pl.DataFrame, kind: str) -> tuple[str, ...]:
    if kind not in group.columns:
        return ()
    known = group[kind].drop_nulls()
    return tuple(known[0]) if len(known) else ()


def over_layers(metric: str, values: Array) -> Array:
    """The values (seeds, T, layers) as one of all layers, (seeds, T); NaN where no layer has a value."""
    reduce = INSTRUMENTS[metric].over_layers
    assert reduce is not None
    found: Array = np.full(values.shape[:2], np.nan)
    known = ~np.isnan(values).all(axis=2)  # of the others numpy would warn
    found[known] = reduce(values[known], axis=1)
    return found


def over_seeds(values: Array, *, log: bool = False) -> tuple[Array, Array, Array]:
    """Mean, lower and upper edge of the band over the first axis, ignoring what is missing.

    The band is the range for up to four seeds, where a standard deviation says little, and one standard
    deviation either way from five on.

    Args:
        values: shape (seeds, ...).
        log: whether for a log axis: mean and deviation are of the logarithms, those of values below
            `SMALLEST_DRAWN` as of it.

    Returns:
        Three arrays of the shape of one seed; NaN where no seed has a value.
    """
    if log:
        mean, low, high = over_seeds(np.log(np.maximum(values, SMALLEST_DRAWN)))
        return np.exp(mean), np.exp(low), np.exp(high)
    known = np.isfinite(values)
    count = known.sum(axis=0)
    filled = np.where(known, values, 0.0)
    mean = np.where(count > 0, filled.sum(axis=0) / np.maximum(count, 1), np.nan)
    if len(values) <= 4:
        low = np.where(count > 0, np.where(known, values, np.inf).min(axis=0), np.nan)
        high = np.where(count > 0, np.where(known, values, -np.inf).max(axis=0), np.nan)
        return mean, low, high
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    spread = np.sqrt(squares / np.maximum(count - 1, 1))
    return mean, mean - spread, mean + spread


def alike(chance: Array) -> bool:
    """Whether tasks have about one level of chance: the largest is at most 1.5 times the smallest."""
    known = np.abs(chance[np.isfinite(chance)])
    return not len(known) or bool(known.max() <= 1.5 * known.min())


def fine_print(results: Iterable[MethodRuns]) -> str:
    """What stands beside every table and figure: the editions of the data, and whether seeds are few."""
    found = list(results)
    said = list(dict.fromkeys(result.data for result in found if result.data))
    if exploratory(found):
        fewest = min(len(result.seeds) for result in found)
        said.append(f"exploratory: {'one seed' if fewest == 1 else f'{fewest} seeds'}")
    return ", ".join([*said, *failures(found)])


def exploratory(results: Iterable[MethodRuns]) -> bool:
    """Whether a method has too few seeds to show more than where to look."""
    return any(len(result.seeds) < EXPLORATORY_BELOW for result in results)


def failures(results: Iterable[MethodRuns]) -> list[str]:
    """How many runs have failed, in words; nothing where none has."""
    count = sum(len(result.failed) for result in results)
    return [f"{count} failed {'run counts' if count == 1 else 'runs count'} as chance"] if count else []


def band_words(results: Iterable[MethodRuns]) -> str:
    """What the bands of these methods show, in words."""
    counts = sorted({len(result.seeds) for result in results})
    if counts == [1]:
        return "One seed per method: no band."
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts[-1] <= 4:
        return f"Line: mean over n = {n} seeds. Band: lowest to highest seed."
    if counts[0] > 4:
        return f"Line: mean over n = {n} seeds. Band: one standard deviation either way."
    return (
        f"Line: mean over n = {n} seeds. Band: one standard deviation either way; lowest to highest seed "
        "where a method has four seeds or fewer."
    )
