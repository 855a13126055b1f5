"""A finished sweep whose scores are written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isoplast.study import RunDirectory, Status, Study, Tuning

Table = Mapping[tuple[str, float, float | None], Callable[[int, int], float]]


def write(tuning: Tuning, out: Path, table: Table, *, otherwise: float, waiting: int = 0) -> None:
    """Every trial of the grid: its score by (method, lr, isometry), at a seed (0, 1, ...) and a task.

    A run fails at the first task whose score is NaN. The last `waiting` runs are not started.
    """
    wanted = [
        (tuning.run(method, values, seed), place, (method, values["lr"], values.get("isometry")))
        for method in tuning.methods
        for values in tuning.settings(method)
        for place, seed in enumerate(tuning.seeds)
    ]
    runs = list({run: (run, place, key) for run, place, key in reversed(wanted)}.values())[::-1]
    out.mkdir(parents=True, exist_ok=True)
    Study("sweep", [run for run, _, _ in runs]).describe(out)
    for number, (run, place, key) in enumerate(runs):
        directory = RunDirectory.create(out, run)
        if number >= len(runs) - waiting:
            continue
        curve = table.get(key, lambda seed, task: otherwise)
        scores = [curve(place, task) for task in range(run.tasks)]
        lived = next((task for task, score in enumerate(scores) if math.isnan(score)), len(scores))
        rows: list[dict[str, Any]] = [_row(run.method.name, -1, 0.1)]
        rows += [_row(run.method.name, task, scores[task]) for task in range(lived)]
        with directory.owned():
            directory.append(rows)
            state = "done" if lived == len(scores) else "failed"
            directory.write_status(Status(state=state, tasks=lived, attempts=1))  # type: ignore[arg-type]


def _row(method: str, task: int, accuracy: float) -> dict[str, Any]:
    return {
        **{"task": task, "method_active": method, "steps": 1, "seconds": 0.1, "primary": "accuracy"},
        **{"chance": 0.1, "accuracy": accuracy, "loss": 1 - accuracy},
    }
