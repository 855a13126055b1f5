"""Streams that still learned well when their record ended are trained on: do they go on learning?

A network is trained again from its seed, without measurements, which changes nothing in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from alarms.networks import network
from alarms.plan import Subject, subjects
from alarms.problems import problem
from alarms.recording import learn
from alarms.table import HEALTHY, Row, with_truth

FOLDER = "ahead"
_STREAMS = ("random", "shift", "inputs")
_LIGHT, _HEAVY = 2, 3  # times as many tasks
_LAST = 4  # tasks at the end whose mean score counts


def open_streams(rows: Sequence[Row]) -> list[str]:
    """The networks on streams that learned well to the end of their record."""
    last: dict[str, Row] = {}
    for row in with_truth(rows):
        if row["history"] in _STREAMS and row["tasks"] >= last.get(row["key"], row)["tasks"]:
            last[row["key"]] = row
    return [key for key, row in last.items() if row["ratio"] > HEALTHY]


def record_ahead(
    folder: Path, data: Path | None, keys: Iterable[str], say: Callable[[str], None] = print
) -> None:
    """Train these networks on, those of kinds that limits are known for first; resumable."""
    torch.set_num_threads(1)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    path, wanted = folder / FOLDER / "scores.jsonl", set(keys) - set(read_ahead(folder))
    found = [one for one in subjects() if one.key in wanted]
    for place, subject in enumerate(
        sorted(found, key=lambda one: one.family.kind not in ("relu", "smooth")), 1
    ):
        scores = _scores(subject, data)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": subject.key, "scores": [float(f"{s:.4g}") for s in scores]}) + "\n")
        say(f"{place}/{len(found)} {subject.key}: {' '.join(f'{score:.2f}' for score in scores)}")


def _scores(subject: Subject, data: Path | None) -> list[float]:
    family = subject.family
    torch.manual_seed(subject.seed)
    of = problem(family.data, family.samples, family.flat, data)
    model = network(family.network, of.shape, of.outputs, subject.recipe.drop)
    optimizer = subject.recipe.optimizer(model)
    scores: list[float] = []
    for index in range(family.tasks * (_LIGHT if family.light else _HEAVY)):
        task = of.task(subject.history, index)
        scores.append(learn(model, optimizer, subject, of, task, family.epochs)[0])
        if not math.isfinite(scores[-1]):
            break
    return scores


def read_ahead(folder: Path) -> dict[str, float]:
    """By network, the mean score of its last tasks."""
    path = folder / FOLDER / "scores.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = {}
    for one in map(json.loads, lines):
        last = [0.0 if math.isnan(score) else score for score in one["scores"][-_LAST:]]
        found[one["key"]] = sum(last) / len(last)
    return found


def with_ahead(rows: Sequence[Row], ahead: dict[str, float]) -> list[Row]:
    """The table with `ahead`, the mean score at the far end, at the last look of each such network."""
    looks = (row for row in rows if not math.isnan(row.get("tasks", math.nan)))
    last = {row["key"]: row for row in sorted(looks, key=lambda row: row["tasks"])}
    for key, row in last.items():
        if key in ahead:
            row["ahead"] = ahead[key]
    return list(rows)
