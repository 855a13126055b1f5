"""The compact table: a row for each network at each time it was measured, with what it learned next."""

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
_MEANING = 0.2  # of the scale from chance to perfect: where fresh networks learn less, noise decides
_TEXTS = ("key", "family", "data", "network", "recipe", "history", "time", "loss")
_STEPS = (5, 10, 20, 40, 70, 100, 150, 200, 300)  # of a probe
_TWIN = "trained twin"  # the time of rows about a fresh network that has memorised once
_START = ("task0", "fresh")


def compact(folder: Path) -> list[Row]:
    """One row for each look at a network of the records in a folder, and one for each trained twin."""
    rows = []
    for one in read(folder):
        shared = {name: one[name] for name in _TEXTS if name != "time"} | {"lr": one["lr"]}
        fresh = [score for score, _ in one["fresh"]]
        shared |= {"fresh": sum(fresh) / len(fresh), "fresh_count": len(fresh)}
        for time in one["times"]:
            score, held = time["next"] or (math.nan, math.nan)
            row = {**shared, "time": time["time"], "tasks": time["tasks"], "score": time["score"]}
            row |= {"next": score, "held": held, **_probes(one["loss"], time["probes"])}
            rows.append(row | {k: v for k, v in time["numbers"].items() if not k.endswith("/error")})
        if one["trained_twin"]:
            rows.append({**shared, "time": _TWIN, **_probes(one["loss"], one["trained_twin"])})
    return rows


def _probes(loss: str, probes: Row) -> Row:
    """What each probe reached after some of its steps, by accuracy and by loss: 0 is chance, 1 everything."""
    outputs = {"numbers": 1, "tokens": 27, "classes": 10}[loss]
    guess = math.log(outputs) if outputs > 1 else 1.0
    found = {}
    for name, curve in probes.items():
        for place, step in enumerate(AT[: len(curve["loss"])]):
            value, hit = curve["loss"][place], curve["hit"][place]
            if step in _STEPS or step == 0:
                found[f"{name}/learned{step}"] = 1 - value / guess
                found[f"{name}/score{step}"] = (
                    1 - value if math.isnan(hit) else (hit - 1 / outputs) / (1 - 1 / outputs)
                )
    return found


def with_truth(rows: Sequence[Row]) -> list[Row]:
    """The looks whose next task is known, each with `ratio`, the truth, and its probes beside twins.

    `probe/random/score70/fresh` is what the probe reached over what fresh networks of its family reach at
    the same rate of Adam, ".../trained" over what twins reach that have memorised once.
    """
    fresh, twins = _fresh(rows), _twins(rows)
    found = []
    for row in rows:
        if row["time"] == _TWIN or math.isnan(row["next"]):
            continue
        mean = fresh[_config(row)]
        made = {**row, "ratio": row["next"] / mean if mean >= _MEANING else math.nan, "fresh": mean}
        made["ahead"] = row.get("ahead", math.nan) / mean if mean >= _MEANING else math.nan
        for (kind, name), twin in twins[_probe_key(row)].items():
            value = row.get(name, math.nan)
            made[f"probe/{name}/{kind}"] = value / twin if twin >= 0.05 else math.nan
        found.append(made)
    _look_ahead(found)
    return found


def _look_ahead(rows: Sequence[Row]) -> None:
    """Add `later`: the lowest ratio of a network from each look on, in all that was recorded of it.

    With the mean of its last tasks where a stream was trained on (`ahead`).
    """
    networks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        networks[row["key"]].append(row)
    for looks in networks.values():
        lowest = math.inf
        for row in sorted(looks, key=lambda row: -row["tasks"]):
            lowest = min([lowest, *(x for x in (row["ratio"], row["ahead"]) if not math.isnan(x))])
            row["later"] = lowest


def _config(row: Row) -> tuple[Any, ...]:
    kind = "shift" if row["history"] in ("one", "finetune", "warm") else row["history"]
    return row["family"], row["recipe"], row["lr"], kind


def _fresh(rows: Iterable[Row]) -> dict[tuple[Any, ...], float]:
    """What fresh networks learn of a task by family, recipe and kind of task: references, first tasks."""
    sums: dict[tuple[Any, ...], dict[Any, float]] = defaultdict(dict)
    for row in rows:
        values = sums[_config(row)]
        for index in range(int(row["fresh_count"])):
            values[(round(row["fresh"], 4), index)] = row["fresh"]  # references are shared by networks
        if row["time"] in _START and not math.isnan(row["next"]):
            values[row["key"]] = row["next"]
    return {key: sum(values.values()) / len(values) for key, values in sums.items()}


def _probe_key(row: Row) -> tuple[str, float]:
    return row["family"], row["lr"] if row["recipe"].startswith("adam") else 1e-3


def _twins(rows: Iterable[Row]) -> dict[tuple[str, float], dict[tuple[str, str], float]]:
    """Mean probe scores of fresh networks and of trained twins, by family and rate of the probe's Adam."""
    sums: dict[Any, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kind = "fresh" if row["time"] in _START else "trained" if row["time"] == _TWIN else ""
        if kind:
            for name, value in row.items():
                if ("/learned" in name or "/score" in name) and math.isfinite(value):
                    sums[_probe_key(row)][(kind, name)].append(value)
    return defaultdict(dict) | {
        key: {name: sum(values) / len(values) for name, values in of.items()} for key, of in sums.items()
    }


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as compressed CSV, four digits a number; the same bytes for the same rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in sorted(rows, key=lambda row: (row["key"], row["time"] == _TWIN, row.get("tasks", 0))):
        writer.writerow([_cell(row.get(name)) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def load(path: Path) -> list[Row]:
    """The table that `write` wrote; empty where there is none."""
    if not path.exists():
        return []
    lines = csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))
    return [
        {
            name: value if name in _TEXTS or name.endswith("_list") else float(value or "nan")
            for name, value in line.items()
        }
        for line in lines
    ]


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The rows of both tables; of a network in both the new ones."""
    fresh = {row["key"] for row in new}
    return [row for row in old if row["key"] not in fresh] + list(new)
