"""The compact table: one row for each network at each time it was measured, with the truth about its next task."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alarms.probes import AT
from alarms.recording import read

Row = dict[str, Any]
LOST, HEALTHY = 0.7, 0.95
_MEANING = (
    0.1  # of the scale from chance to perfect: where fresh networks learn less, nothing can be compared
)
_TEXTS = ("key", "family", "data", "network", "recipe", "history", "time", "loss")
_KEPT_STEPS = (5, 10, 20, 40, 70)


def build(folder: Path) -> list[Row]:
    """All rows of the records in a folder."""
    networks = list(read(folder))
    twins = _twins(networks)
    fresh = _fresh(networks)
    rows = []
    for one in networks:
        reference = fresh[(one["family"], one["recipe"], one["lr"], _kind(one))]
        for time in one["times"]:
            if time["next"] is None:
                continue
            rows.append(_row(one, time, reference, twins))
    return rows


def _kind(one: Row) -> str:
    return "shift" if one["history"] in ("one", "finetune", "warm") else one["history"]


def _fresh(networks: list[Row]) -> dict[tuple[Any, ...], list[float]]:
    """What fresh networks learn of a task, by family, recipe and kind of task."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for one in networks:
        key = (one["family"], one["recipe"], one["lr"], _kind(one))
        found[key] += [score for score, _ in one["fresh"]]
        first = [time for time in one["times"] if time["time"] in ("task0", "fresh") and time["next"]]
        found[key] += [time["next"][0] for time in first]
    return found


def _twins(networks: list[Row]) -> dict[tuple[str, float], Row]:
    """Mean probe scores of fresh networks and of trained twins, by family and rate of the probe's Adam."""
    fresh: dict[Any, list[Row]] = defaultdict(list)
    trained: dict[Any, list[Row]] = defaultdict(list)
    for one in networks:
        key = (one["family"], _probe_lr(one))
        fresh[key] += [
            _scores(one, time["probes"]) for time in one["times"] if time["time"] in ("task0", "fresh")
        ]
        if one["trained_twin"]:
            trained[key].append(_scores(one, one["trained_twin"]))
    return {key: {"fresh": _mean(fresh[key]), "trained": _mean(trained[key])} for key in fresh}


def _probe_lr(one: Row) -> float:
    return one["lr"] if one["recipe"].startswith("adam") else 1e-3


def _mean(all_scores: Iterable[Row]) -> Row:
    sums: dict[str, list[float]] = defaultdict(list)
    for scores in all_scores:
        for name, value in scores.items():
            if math.isfinite(value):
                sums[name].append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _scores(one: Row, probes: Row) -> Row:
    """What each probe reached after each of its steps: 0 is chance, 1 everything; and by loss."""
    outputs = {"numbers": 1, "tokens": 27, "classes": 10}[one["loss"]]
    found = {}
    for name, curve in probes.items():
        for place, step in enumerate(AT):
            loss, hit = curve["loss"][place], curve["hit"][place]
            guess = math.log(outputs) if outputs > 1 else 1.0
            found[f"{name}/learned{step}"] = 1 - loss / guess
            known = not math.isnan(hit)
            found[f"{name}/score{step}"] = (hit - 1 / outputs) / (1 - 1 / outputs) if known else 1 - loss
    return found


def _row(one: Row, time: Row, reference: list[float], twins: dict[tuple[str, float], Row]) -> Row:
    mean = sum(reference) / len(reference)
    row: Row = {name: one[name] for name in _TEXTS if name != "time"}
    row |= {"time": time["time"], "tasks": time["tasks"], "lr": one["lr"], "score": time["score"]}
    row |= {"fresh": mean, "next": time["next"][0], "held": time["next"][1]}
    row["ratio"] = time["next"][0] / mean if mean >= _MEANING else math.nan
    row |= {name: value for name, value in time["numbers"].items() if isinstance(value, int | float)}
    own, twin = _scores(one, time["probes"]), twins[(one["family"], _probe_lr(one))]
    for name, value in own.items():
        probe, _, step = name.partition("/")
        if not any(step.endswith(f"d{at}") or step.endswith(f"e{at}") for at in _KEPT_STEPS):
            continue
        for kind in ("fresh", "trained"):
            if name in twin[kind]:
                row[f"probe/{name}/{kind}"] = _share(value, twin[kind][name])
    return row


def _share(value: float, twin: float) -> float:
    """Of what the twin reached; NaN where that is too little to compare."""
    return value / twin if twin >= 0.05 else math.nan


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as compressed CSV, four digits a number; the same bytes for the same rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in sorted(rows, key=lambda row: (row["key"], row["tasks"])):
        writer.writerow([_cell(row.get(name)) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def load(path: Path) -> list[Row]:
    """The table that `write` wrote."""
    lines = csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))
    return [
        {name: value if name in _TEXTS else float(value or "nan") for name, value in line.items()}
        for line in lines
    ]
