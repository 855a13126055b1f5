"""Results as polars frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoplast._core.errors import IsoplastError
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._files import read_rows
from isoplast.study.store._index import read_index

if TYPE_CHECKING:
    import polars as pl

_PROBES = (
    "ntk_condition_number",
    "ntk_participation_rank",
    "ntk_size",
    "jacobian_condition_number",
    "plasticity",
    "plasticity_low",
    "plasticity_high",
    "plasticity_learned",
)
_FLOATS = ("seconds", "accuracy", "loss", "chance", *_PROBES)
_PER_MATRIX = (
    "sigma_min",
    "sigma_mean",
    "sigma_max",
    "sigma_mean_square",
    "sigma_count",
    "condition_number",
    "effective_rank",
    "gram_deviation",
)
_FLOAT_LISTS = (*_PER_MATRIX, "dead", "dormant")


def load_study(path: str | Path) -> pl.DataFrame:
    """The results of a study, or of a single run.

    Runs that are still running, or have failed, contribute the tasks they have finished.

    Args:
        path: the directory of a study's results, or of a run.

    Returns:
        One row per run and task, runs in the study's order. First the specification: `run_id`, `label`,
        `stream`, `data`, `samples`, `tasks`, `epochs`, `batch_size`, `net`, the settings of the network by
        their names, `method`, its hyper-parameters by their names, `lr`, `seed`, `device` and, where runs
        have a switch, `switch_task`, `switch_method` and its hyper-parameters with `switch_` in front. Then
        the metrics: `task` (-1 is the untrained network), `method_active`, `steps` and `seconds` (of that
        task), `chance`, `accuracy`, `loss` (on the whole task, in eval mode), and lists with one number per
        weight matrix or activation layer: `layers` (names), `sigma_min`, `sigma_mean`, `sigma_max`,
        `sigma_mean_square`, `sigma_count`, `condition_number`, `effective_rank`, `gram_deviation` (R_iso,
        Eq 16), `sigma_quantiles` (33 from the smallest to the largest); `units` (names), `dead`, `dormant`.
        Of the first inputs of the task: `ntk_condition_number`, `ntk_participation_rank`, `ntk_size` (of the
        empirical NTK on centred logits), `jacobian_condition_number` (median over inputs), and the probe
        `plasticity` with its interval `plasticity_low`, `plasticity_high`, and the share of the loss of an
        uninformed guess that it removes, `plasticity_learned`.

    Raises:
        IsoplastError: there are no runs at that path, or a file is damaged.
    """
    import polars as pl

    directories = _directories(Path(path))
    specs = [_columns(directory.read_settings()) for directory in directories]
    names = list(dict.fromkeys(name for spec in specs for name in spec))
    spec_columns = {name: _uniform([spec.get(name) for spec in specs]) for name in names}
    columns: dict[str, list[Any]] = {"run_id": [], **{name: [] for name in names}}
    metrics: dict[str, list[Any]] = {name: [] for name in _schema()}
    for place, directory in enumerate(directories):
        for row in read_rows(directory.metrics):
            columns["run_id"].append(directory.path.name)
            for name in names:
                columns[name].append(spec_columns[name][place])
            for name, values in metrics.items():
                values.append(_numbers(name, row.get(name)))
    return pl.DataFrame(columns, infer_schema_length=None).hstack(pl.DataFrame(metrics, schema=_schema()))


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
    for directory in _directories(Path(path)):
        spec, status = directory.read_settings(), directory.status()
        rows.append(
            {
                "run_id": directory.path.name,
                "label": spec.get("label", ""),
                "seed": spec["seed"],
                "state": status.state,
                "reason": status.reason,
                "tasks": status.tasks,
                "steps": status.steps,
                "seconds": status.seconds,
                "peak_memory": status.peak_memory,
                "attempts": status.attempts,
                "provenance": json.dumps(status.provenance),
            }
        )
    return pl.DataFrame(rows)


def _schema() -> dict[str, Any]:
    import polars as pl

    texts = pl.List(pl.String)
    return {
        "task": pl.Int64,
        "method_active": pl.String,
        "steps": pl.Int64,
        **dict.fromkeys(_FLOATS, pl.Float64),
        "layers": texts,
        "units": texts,
        **dict.fromkeys(_FLOAT_LISTS, pl.List(pl.Float64)),
        "sigma_quantiles": pl.List(pl.List(pl.Float64)),
    }


def _directories(path: Path) -> list[RunDirectory]:
    """The runs at a path: in the study's order where there is an index, else by name."""
    if (path / "spec.yaml").exists():
        return [RunDirectory(path)]
    index = read_index(path)
    names = index.runs if index else sorted(spec.parent.name for spec in path.glob("*/spec.yaml"))
    if not names:
        raise IsoplastError(f"{path} holds no results: give the directory of a study or of a run")
    return [RunDirectory(path / name) for name in names if (path / name / "spec.yaml").exists()]


def _columns(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with its nested settings side by side, the label first.

    A nested setting whose name is taken has its owner in front: a hyper-parameter `seed` is `method_seed`.
    """
    taken = {*spec, *_schema()}
    columns: dict[str, Any] = {"label": spec.get("label", "")}
    for key, value in spec.items():
        if key == "switch":
            settings = dict(value["method"])
            columns |= {"switch_task": value["task"], "switch_method": settings.pop("name")}
            columns |= {f"switch_{name}": setting for name, setting in settings.items()}
        elif isinstance(value, dict):
            columns[key] = value["name"]
            for name, setting in value.items():
                if name != "name":
                    columns[f"{key}_{name}" if name in taken else name] = setting
                    taken.add(name)
        else:
            columns[key] = value
    return columns


def _uniform(values: list[Any]) -> list[Any]:
    """One type for a column: numbers stay numbers, mixtures such as 20 and "auto" become text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and list not in kinds:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def _numbers(name: str, value: Any) -> Any:
    """JSON has no infinity: rows hold the words that float() reads."""
    if name in _FLOAT_LISTS and value is not None:
        return [float(number) for number in value]
    if name == "sigma_quantiles" and value is not None:
        return [[float(number) for number in matrix] for matrix in value]
    return float(value) if name in _FLOATS and value is not None else value
