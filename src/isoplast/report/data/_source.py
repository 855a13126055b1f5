"""What a study's directory holds beside the metrics: what it is, and each run's specification and state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoplast.study import RunDirectory, builtin_studies, load_runs, read_index


@dataclass(frozen=True)
class RunRecord:
    """One run as its directory describes it: its row of `load_runs`, its specification as text and values."""

    id: str
    label: str
    seed: int
    state: str
    reason: str
    tasks: int
    steps: int
    seconds: float
    peak_memory: int
    provenance: dict[str, Any]
    text: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A study or a single run: name, what it is for, runs in order, and its YAML document ("" for none)."""

    name: str
    about: str
    records: dict[str, RunRecord]
    document: str

    @property
    def scope(self) -> str:
        """What was run, in one line."""
        specs = [record.spec for record in self.records.values()]
        nets = [_named(spec["net"]) for spec in specs]
        tasks = [str(spec["stream"]["tasks"]) for spec in specs if "tasks" in spec["stream"]]
        words = [_few([_named(spec[key]) for spec in specs if key in spec], "") for key in ("stream", "data")]
        words += [
            _few(nets, ""),
            *([_few(tasks, " tasks")] if tasks else ()),
            f"{len(specs)} run" + "s" * (len(specs) != 1),
        ]
        return " · ".join(word for word in words if word)

    @property
    def command(self) -> str:
        """The command that makes the results again; its file, where it needs one, is `document`."""
        known = builtin_studies().get(self.name)
        ready_made = known is not None and known.read_text(encoding="utf-8") == self.document
        threads = {record.provenance["threads"] for record in self.records.values() if record.provenance}
        option = f" --threads {threads.pop()}" if len(threads) == 1 and threads != {1} else ""
        return f"isoplast study {self.name}{'' if ready_made else '.yaml'}{option}"


def read_source(study_dir: Path) -> Source:
    """Read what describes a study, or a single run.

    Raises:
        IsoplastError: there are no runs at that path, or a file is damaged.
    """
    index = read_index(study_dir)
    name, about = (index.name, index.about) if index else (study_dir.resolve().name, "")
    document = study_dir / "study.yaml"
    single = (study_dir / "spec.yaml").exists()
    records = {}
    for row in load_runs(study_dir).iter_rows(named=True):
        folder = study_dir if single else study_dir / row["run_id"]
        records[row["run_id"]] = _record(row, RunDirectory(folder))
    text = document.read_text(encoding="utf-8") if document.exists() else ""
    return Source(name, about, records, text)


def _record(row: dict[str, Any], directory: RunDirectory) -> RunRecord:
    return RunRecord(
        id=row["run_id"],
        **{
            key: row[key]
            for key in ("label", "seed", "state", "reason", "tasks", "steps", "seconds", "peak_memory")
        },
        provenance=json.loads(row["provenance"]),
        text=directory.spec.read_text(encoding="utf-8"),
        spec=directory.read_settings(),
    )


def _named(value: Any) -> str:
    return str(value["name"] if isinstance(value, dict) else value)


def _few(values: Sequence[str], noun: str) -> str:
    """The distinct values in order."""
    return ", ".join(dict.fromkeys(values)) + noun
