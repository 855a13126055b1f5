"""What exactly was run, on what, and how to run it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from isoplast._core.amounts import duration
from isoplast.report.data._method_runs import MethodRuns
from isoplast.report.data._source import RunRecord, Source
from isoplast.report.html._document import NONE, Table
from isoplast.study import SettingPath, flat_settings, git_words, varying


def configuration(source: Source, results: Sequence[MethodRuns]) -> dict[str, Any]:
    """What differs between the methods, what is common, and every specification in full: for the template."""
    records = [source.records[result.runs[0]] for result in results]
    settings = [flat_settings(record.spec) for record in records]
    paths = varying(settings)
    columns = list(dict.fromkeys(path[0] for path in paths))
    rows = [
        [result.label, *(_cell(column, paths, one) for column in columns)]
        for result, one in zip(results, settings, strict=True)
    ]
    return {
        "differing": Table("What differs between the methods", ["Method", *columns], rows) if paths else None,
        "common": [(_words(path), _shown(value)) for path, value in settings[0].items() if path not in paths],
        "specifications": [_full(result, record) for result, record in zip(results, records, strict=True)],
    }


def _cell(column: str, differing: Sequence[SettingPath], settings: Mapping[SettingPath, Any]) -> str:
    """What a method has below a setting, in one line: "adamo, isometry 0.01, weight_decay 0"."""
    said = []
    for path, value in settings.items():
        if path[0] == column and path in differing:
            said.append(f"{path[-1]} {_shown(value)}" if path[1:] else _shown(value))
    return ", ".join(said) or NONE


def _words(path: SettingPath) -> str:
    return ": ".join(path)


def _full(result: MethodRuns, record: RunRecord) -> tuple[str, str]:
    seeds = ", ".join(map(str, result.seeds))
    text = f"# run with seeds {seeds}; this is seed {record.seed}\n{record.text}"
    return f"Full specification: {result.label}", text


def _shown(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def provenance(source: Source) -> dict[str, Any]:
    """Where the results come from, what they cost, and how to make them again: for the template."""
    records = list(source.records.values())
    commands = [source.command] if source.document else [_run_command(record) for record in records]
    return {"commands": "\n".join(commands), "provenance": [*_origin(records), *_cost(records)]}


def _run_command(record: RunRecord) -> str:
    """The command line of a single run; a change of method can only be written in a study."""
    spec = dict(record.spec)
    if "switch" in spec:
        return f"# {record.label}, seed {record.seed}: put its specification below into a study's methods"
    words = ["isoplast", "run"]
    for key, value in spec.items():
        if isinstance(value, Mapping) and "name" in value:
            inner = [
                ("", value["name"]),
                *((f".{name}", one) for name, one in value.items() if name != "name"),
            ]
            words += [f"{key}{name}={_as_yaml(one)}" for name, one in inner]
        elif key == "device":
            words += ["--device", str(value)]
        elif key != "label":
            words.append(f"{key}={_as_yaml(value)}")
    if record.provenance:
        words += ["--threads", str(record.provenance["threads"])]
    return shlex.join(words)


def _as_yaml(value: Any) -> str:
    """A setting as YAML reads it back, in one word."""
    return value if isinstance(value, str) else json.dumps(value)


def _origin(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    origins = [record.provenance for record in records if record.provenance]
    versions = [one["versions"] for one in origins]
    data = [one["data"] for one in origins]
    names = dict.fromkeys(name for one in versions for name in one)
    return [
        ("versions", "; ".join(f"{name} {_distinct(versions, name)}" for name in names)),
        ("isoplast source", ", ".join(dict.fromkeys(git_words(one["git"]) for one in origins))),
        ("data", _distinct(data, "note")),
        ("data fingerprint (sha256)", ", ".join(dict.fromkeys(one["fingerprint"][:16] for one in data))),
        ("processor", _distinct(origins, "processor")),
        ("cores; threads of a run", f"{_distinct(origins, 'cores')}; {_distinct(origins, 'threads')}"),
        ("device", _distinct(origins, "device")),
        ("system", _distinct(origins, "system")),
    ]


def _cost(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    return [
        ("optimizer steps, all runs", f"{sum(record.steps for record in records):,}"),
        ("wall time, all runs", duration(sum(record.seconds for record in records))),
        ("wall time, longest run", duration(max(record.seconds for record in records))),
        ("peak memory of a run", f"{max(record.peak_memory for record in records) / 2**20:,.0f} MiB"),
    ]


def _distinct(origins: Sequence[Mapping[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(_shown(one.get(name)) for one in origins))
