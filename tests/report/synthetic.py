"""A made-up study, written to disk as real runs are, in which every number is known in advance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from isoplast.study import Run, RunDirectory, Status, Study, Switch

LAYERS = ["layers.0", "layers.1", "layers.2", "head"]
UNITS = ["activations.0", "activations.1", "activations.2"]
TASKS = 24
STEPS = 500
ADAMO = {"method": {"name": "adamo", "isometry": 1e-2}}

Curve = Callable[[int], float]


def collapsing(task: int) -> float:
    return max(0.91 - 0.08 * task, 0.11)


def staying(task: int) -> float:
    return 0.88 + 0.03 * (task % 2)


def rescued(task: int) -> float:
    return collapsing(task) if task < 12 else min(0.36 + 0.07 * (task - 12), 0.94)


METHODS: dict[str, tuple[dict[str, Any], Curve]] = {
    "Adam": ({"method": "adam"}, collapsing),
    "AdamW": ({"method": "adamw"}, lambda task: collapsing(task) - 0.01),
    "AdamO": (ADAMO, staying),
    "Adam, then AdamO from task 12 (rescue)": (
        {"method": "adam", "switch": Switch(12, {"name": "adamo", "isometry": 1e-2})},
        rescued,
    ),
}


def specification(label: str, seed: int, tasks: int = TASKS, **changes: Any) -> Run:
    settings = METHODS[label][0] if label in METHODS else {"method": "adam"}
    given = {"lr": 3e-3, "tasks": tasks, "seed": seed, "label": label} | settings | changes
    return Run.from_mapping(given)


def row(run: Run, task: int, curve: Curve) -> dict[str, Any]:
    """The metrics of one task; 0.01 more accurate per seed, and the healthier the more accurate."""
    accuracy = min((curve(task) if task >= 0 else 0.1) + 0.01 * run.seed, 1.0)
    health = (accuracy - 0.1) / 0.8 if task >= 0 else 1.0
    smallest = [max(health, 1e-3) * 10**-i for i in range(4)]
    largest = [1 + max(1 - health, 0) * 30 * (i + 1) for i in range(4)]
    return {
        "task": task,
        "method_active": run.make_method(task).name,
        "steps": 0 if task < 0 else STEPS,
        "seconds": 0.5,
        "primary": "accuracy",
        "chance": 0.1,
        "accuracy": accuracy,
        "loss": 1 - accuracy,
        "layers": LAYERS,
        "sigma_min": smallest,
        "sigma_mean": [1.0] * 4,
        "sigma_max": largest,
        "sigma_mean_square": [value**2 / 2 for value in largest],
        "sigma_count": [64, 128, 128, 10],
        "sigma_quantiles": [[low, 1.0, high] for low, high in zip(smallest, largest, strict=True)],
        "condition_number": [1.0] * 4,
        "effective_rank": [60.0] * 4,
        "gram_deviation": [value**4 for value in largest],
        "units": UNITS,
        "dead": [max(1 - health, 0.0) * share for share in (0.2, 0.6, 1.0)],
        "dormant": [min(max(1 - health, 0.0), 1.0)] * 3,
        "plasticity_learned": 0.5 * health - 0.05,
        "ntk_condition_number": 10 ** (3 + 6 * (1 - health)) if health > 0.02 else math.inf,
        "ntk_participation_rank": 1 + 40 * max(health, 0.0),
        "ntk_size": 216,
        "jacobian_condition_number": 3 * 10 ** (2 * (1 - health)),
    }


def write_run(
    parent: Path,
    run: Run,
    curve: Curve,
    state: str = "done",
    reason: str = "",
    done: int = -1,
    threads: int = 1,
) -> None:
    """Write one run's directory; `done` tasks of it, all by default."""
    finished = run.tasks if done < 0 else done
    directory = RunDirectory.create(parent, run)
    directory.append([row(run, task, curve) for task in range(-1, finished)])
    directory.write_status(
        Status(
            state=state,  # type: ignore[arg-type]
            reason=reason,
            tasks=finished,
            steps=STEPS * finished,
            seconds=21.5,
            peak_memory=300 * 2**20,
            attempts=1,
            provenance={
                "versions": {"python": "3.12.1", "torch": "2.13.0", "isoplast": "0.1.0"},
                "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "changed": False},
                "machine": "node-17",
                "system": "Linux-6.1",
                "processor": "Some CPU <at> 3 GHz",
                "cores": 2,
                "device": "cpu",
                "threads": threads,
                "data": {"note": "handwritten digits (scikit-learn)", "fingerprint": "ab" * 32},
            },
        )
    )


def write_study(
    parent: Path, labels: Iterable[str] = METHODS, seeds: int = 2, tasks: int = TASKS, **changes: Any
) -> Path:
    """Write a study of these methods and return its directory; names that are not in METHODS run Adam."""
    runs = [specification(label, seed, tasks, **changes) for seed in range(seeds) for label in labels]
    for run in runs:
        write_run(parent, run, METHODS[run.label][1] if run.label in METHODS else collapsing)
    Study("made-up", runs, "Every number is known.", "name: made-up\n").describe(parent)
    return parent
