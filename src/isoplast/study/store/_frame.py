"""Results as polars frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoplast.study._metrics import METRICS, Metric, metric
from isoplast.study.store._columns import metric_columns
from isoplast.study.store._find import run_directories

if TYPE_CHECKING:
    import polars as pl

_RUNS = {
    "run_id": str,
    "label": str,
    "seed": int,
    "state": str,
    "reason": str,
    "tasks": int,
    "steps": int,
    "seconds": float,
    "peak_memory": int,
    "attempts": int,
    "provenance": str,
}


def load_study(path: str | Path, *, flat: bool = False) -> pl.DataFrame:
    """The results of a study, or of a single run.

    Runs that are still running, or have failed, contribute the tasks they have finished. No code of the parts
    that a run is made of is imported.

    Args:
        path: the directory of a study's results, or of a run.
        flat: for CSV and spreadsheets: instead of lists one column for each matrix and activation, such as
            `sigma_max/layers.0`; quantiles are left out.

    Returns:
        One row per run and task, runs in the study's order. First the specification: `run_id`, `label`,
        `stream`, `data`, `net`, `method`, `learner`, each followed by its settings by their names (with the
        part's name in front where the name is taken: `method_seed`), `lr`, `seed`, `device` and, where runs
        have a switch, `switch_task`, `switch_method` and its settings with `switch_` in front. Then `score`,
        the value of the metric that counts (which `primary` names), and the metrics of
        `isoplast.study.METRICS`: those for each matrix or activation as lists.

    Raises:
        IsoplastError: there are no runs at that path, or a file is damaged.
    """
    import polars as pl

    directories = run_directories(Path(path))
    specs = [_columns(directory.read_settings()) for directory in directories]
    names = list(dict.fromkeys(name for spec in specs for name in spec))
    metrics, counts = metric_columns(directories)
    runs = pl.DataFrame(
        {"run_id": [directory.path.name for directory in directories]}
        | {name: _uniform([spec.get(name) for spec in specs]) for name in names},
        infer_schema_length=None,
    )
    places = [place for place, count in enumerate(counts) for _ in range(count)]
    taken = [name for name in metrics.columns if name in runs.columns]
    frame = runs[places].hstack(metrics.drop(taken).insert_column(0, _score(metrics)))
    return _flattened(frame, [metric(name) for name in metrics.columns]) if flat else frame


def load_runs(path: str | Path) -> pl.DataFrame:
    """The state of every run of a study: one row per run.

    Args:
        path: the directory of a study's results, or of a run.

    Returns:
        Columns `run_id`, `label`, `seed`, `state` ("waiting", "running", "done", "failed", "interrupted"),
        `reason`, `tasks` (finished), `steps`, `seconds` (wall time), `peak_memory` (bytes), `attempts`, and
        `provenance`, a JSON text: versions, source state, data, machine.

    Raises:
        IsoplastError: there are no runs at that path, or a file is damaged.
    """
    import polars as pl

    rows = []
    for directory in run_directories(Path(path)):
        spec, status = directory.read_settings(), directory.status()
        rows.append(
            {
                "run_id": directory.path.name,
                "label": str(spec.get("label", "")),
                "seed": spec["seed"],
                "state": status.state,
                "reason": status.reason,
                "tasks": status.tasks,
                "steps": status.steps,
                "seconds": float(status.seconds),
                "peak_memory": status.peak_memory,
                "attempts": status.attempts,
                "provenance": json.dumps(status.provenance),
            }
        )
    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64}
    return pl.DataFrame(rows, schema={name: kinds[kind] for name, kind in _RUNS.items()})


def _score(metrics: pl.DataFrame) -> pl.Series:
    """Of each row the value of its primary metric."""
    import polars as pl

    primary = metrics["primary"]
    known = [name for name in primary.unique() if name in metrics.columns]
    values = [pl.when(primary == name).then(pl.col(name)) for name in known]
    # with_columns, not select: of no rows a literal makes one.
    return metrics.with_columns(pl.coalesce(*values, None).cast(pl.Float64).alias("score"))["score"]


def _flattened(frame: pl.DataFrame, schema: list[Metric]) -> pl.DataFrame:
    """One column for each matrix and activation instead of lists."""
    import polars as pl

    for group, names in (("matrix", "layers"), ("activation", "units")):
        if names not in frame.columns:
            continue
        all_names = list(dict.fromkeys(name for row in frame[names].drop_nulls() for name in row))
        places = [
            {name: at for at, name in enumerate(row)} if row is not None else {} for row in frame[names]
        ]
        for one in schema:
            if one.per != group or one.kind == "text":
                continue
            lists = frame[one.name].to_list()
            columns = [
                pl.Series(
                    f"{one.name}/{name}",
                    [
                        values[place[name]] if values is not None and name in place else None
                        for values, place in zip(lists, places, strict=True)
                    ],
                    dtype=pl.Float64,
                )
                for name in all_names
            ]
            frame = frame.with_columns(columns)
    return frame.drop([one.name for one in schema if one.per != "task"])


def _columns(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with its nested settings side by side, the label first.

    A nested setting whose name is taken has its owner in front: `seed` of a method is `method_seed`.
    """
    taken = {*spec, "score", *(one.name for one in METRICS)}
    columns: dict[str, Any] = {"label": str(spec.get("label", ""))}
    for key, value in spec.items():
        if key == "switch" and isinstance(value, Mapping):
            settings = dict(value["method"])
            columns |= {"switch_task": value["task"], "switch_method": settings.pop("name")}
            columns |= {f"switch_{name}": setting for name, setting in settings.items()}
        elif isinstance(value, Mapping):
            columns[key] = value.get("name", "")
            for name, setting in value.items():
                if name != "name":
                    columns[f"{key}_{name}" if name in taken else name] = setting
                    taken.add(name)
        elif key not in ("path", "instruments"):
            columns[key] = value
    return columns


def _uniform(values: list[Any]) -> list[Any]:
    """One type for a column: numbers stay numbers, mixtures such as 20 and "auto" become text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and not kinds & {list, dict}:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
