"""Results as polars frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoplast._core.errors import IsoplastError
from isoplast.study._metrics import METRICS, Metric, metric
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._files import read_rows
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
    spec_columns = {name: _uniform([spec.get(name) for spec in specs]) for name in names}
    columns: dict[str, list[Any]] = {"run_id": [], **{name: [] for name in names}}
    rows: list[tuple[RunDirectory, dict[str, Any]]] = []
    for place, directory in enumerate(directories):
        for row in read_rows(directory.metrics):
            rows.append((directory, row))
            columns["run_id"].append(directory.path.name)
            for name in names:
                columns[name].append(spec_columns[name][place])
    known = {one.name: one for one in METRICS}
    found = {name: metric(name) for _, row in rows for name in row if name not in columns}
    # What no run has is left out, but for what every reader relies on.
    schema = {name: one for name, one in known.items() if name in found or one.source == "run"}
    schema |= {name: one for name, one in found.items() if name not in known}
    values = {
        name: [_value(one, row.get(name), where) for where, row in rows] for name, one in schema.items()
    }
    score = [_score(row, where) for where, row in rows]
    frame = pl.DataFrame(columns, infer_schema_length=None).hstack(
        pl.DataFrame(
            {"score": score, **values},
            schema={"score": pl.Float64, **{name: _dtype(one) for name, one in schema.items()}},
        )
    )
    return _flattened(frame, list(schema.values())) if flat else frame


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


def _dtype(one: Metric) -> Any:
    import polars as pl

    inner: Any = {"number": pl.Float64, "count": pl.Int64, "text": pl.String}[one.kind]
    if one.per == "quantile":
        return pl.List(pl.List(inner))
    return inner if one.per == "task" else pl.List(inner)


def _value(one: Metric, value: Any, where: RunDirectory) -> Any:
    """A value as the frame wants it. JSON has no infinity: rows hold the words that float() reads."""
    depth = {"task": 0, "quantile": 2}.get(one.per, 1)
    try:
        return None if value is None else _nested(one, value, depth)
    except (TypeError, ValueError):
        raise IsoplastError(
            f"{where.metrics}: {one.name} is {str(value)[:60]!r}, which is no {one.kind}: "
            f"delete {where.path} and run again"
        ) from None


def _nested(one: Metric, value: Any, depth: int) -> Any:
    if depth:
        if not isinstance(value, list):
            raise TypeError
        return [None if item is None else _nested(one, item, depth - 1) for item in value]
    if one.kind == "text":
        if not isinstance(value, str):
            raise TypeError
        return value
    return int(value) if one.kind == "count" else float(value)


def _score(row: Mapping[str, Any], where: RunDirectory) -> float | None:
    name = str(row.get("primary", ""))
    found: float | None = _value(metric(name), row.get(name), where)
    return found


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
