"""The frame of a study, cut into methods: one array per metric, seeds by tasks.

A method here is a method with its settings, run with one or more seeds. Everything the page says about it
(curves, table, headline) is computed from here, so that no two places of the page can disagree.
"""

from __future__ import annotations

import itertools
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
from isoplast.study import METRICS, Metric, metric, varying

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
        score: the metric that counts, after each task, shape (seeds, T); NaN where a run has no such row.
        metric: which one that is.
        steps: optimizer steps spent on each task, shape (seeds, T).
        per_layer: metric name -> array (seeds, T, layers), layers named by `layers` or `units`.
        probes: metric name -> array (seeds, T), for those of `PROBES` that were measured.
        methods: the title of the method in force in each task.
        runs: the ids of its runs, one per seed.
        settings: the columns of the spec that all its runs share.
    """

    label: str
    style: Style
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    tasks: npt.NDArray[np.int64]
    score: Array
    metric: Metric
    steps: Array
    chance: float
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


def method_runs(frame: pl.DataFrame) -> list[MethodRuns]:
    """The runs of a study, by method and settings.

    Args:
        frame: one row per (run, task), as `isoplast.study.load_study` returns it.

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
    found = enumerate(zip(labels, groups, strict=True))
    return [_runs_of(label, group, style(index), spec) for index, (label, group) in found]


def _distinct_labels(settings: list[dict[str, Any]]) -> list[str]:
    labels = []
    for one in settings:
        same = [other for other in settings if other["label"] == one["label"]]
        told = [f"{key} {one[key]}" for key in varying(same) if one[key] is not None]
        labels.append(", ".join([str(one["label"]), *told]))
    return labels


def _runs_of(label: str, group: pl.DataFrame, look: Style, spec: Iterable[str]) -> MethodRuns:
    tasks, columns = np.unique(group["task"].to_numpy(), return_inverse=True)
    seeds, rows = np.unique(group["seed"].to_numpy(), return_inverse=True)
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
    chance = group["chance"].drop_nulls().to_list() if "chance" in group.columns else []
    return MethodRuns(
        label=label,
        style=look,
        seeds=tuple(seeds.tolist()),
        runs=tuple(group["run_id"].unique(maintain_order=True)),
        tasks=tasks,
        score=scalars("score"),
        metric=metric(group["primary"].drop_nulls()[0]),
        steps=scalars("steps"),
        chance=chance[0] if chance else float("nan"),
        layers=names["layers"],
        units=names["units"],
        per_layer={name: lists(name) for name in (*PER_MATRIX, *PER_ACTIVATION) if name in group.columns},
        probes={name: values for name in PROBES if not np.isnan(values := scalars(name)).all()},
        methods=tuple(titles[by_task[task]] for task in tasks.tolist()),
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
