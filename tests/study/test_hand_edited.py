"""Files of a run that somebody has edited, or a later version has written: read, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.report import write_report
from isoplast.study import Run, execute, load_runs, load_study
from isoplast.study import _yaml as yaml


@pytest.fixture
def done(tiny: Callable[..., Run], tmp_path: Path) -> Path:
    return execute(tiny(tasks=1, epochs=1), tmp_path).path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    is_json = path.suffix == ".json"
    found = json.loads(path.read_text()) if is_json else yaml.parse_yaml(path.read_text(), str(path))
    change(found)
    path.write_text(json.dumps(found))  # JSON is YAML too


def refused(directory: Path, *read: Callable[[Path], object]) -> None:
    for function in read:
        with pytest.raises(IsoplastError, match="is damaged") as error:
            function(directory)
        assert str(error.value).isprintable()


STATUS = {
    "tasks": (1 << 70, -1, 1.5, True, None),
    "seconds": ("a", -1.0, None, True),
    "reason": (None, 3),
    "state": ("queued", None, []),
    "provenance": (
        [],
        {"versions": 3},
        {"versions": {"torch": 2}},
        {"versions": {}, "threads": "1"},
        {"versions": {}, "threads": 1, "data": {}},
        {"versions": {}, "threads": 1, "git": {"commit": 3, "changed": False}},
    ),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in STATUS for value in STATUS[key]])
def test_a_status_of_another_kind_is_damaged(done: Path, key: str, value: object) -> None:
    edit(done / "status.json", lambda found: found.update({key: value}))
    refused(done, load_runs, write_report)


SPEC = {
    "stream": ("random-labels", [], {}, {"name": 3}, None),
    "data": ([], {"name": None}),
    "method": ({"isometry": 1}, 3),
    "switch": ({}, {"task": 1}, {"task": "a", "method": {"name": "adam"}}, {"task": 1, "method": "adam"}),
    "lr": ("a", None, -1.0, True, [0.1], {"a": 1}),
    "seed": (1 << 70, "0", True, None, 0.5),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in SPEC for value in SPEC[key]])
def test_a_specification_of_another_kind_is_damaged(done: Path, key: str, value: object) -> None:
    edit(done / "spec.yaml", lambda found: found.update({key: value}))
    refused(done, load_study, load_runs, write_report)


@pytest.mark.parametrize("value", ["strong", [0.1], -1, {"a": 1}, True, None])
@pytest.mark.parametrize("name", ["isometry", "isometry_time"])
def test_a_setting_called_isometry_may_be_anything(done: Path, name: str, value: object) -> None:
    """Methods of other people have settings of their own."""
    edit(done / "spec.yaml", lambda found: found.update(method={"name": "their:Method", name: value}))
    assert "their:Method" in write_report(done).read_text(encoding="utf-8")


def test_what_a_later_version_adds_is_read(done: Path) -> None:
    edit(done / "status.json", lambda found: found.update(queue="a"))
    edit(done / "status.json", lambda found: found["provenance"].update(kernel=[1]))
    edit(done / "spec.yaml", lambda found: found.update(future={"a": 1}))
    assert len(load_runs(done)) == 1
    assert len(load_study(done)) == 2
    write_report(done)


def test_a_stream_whose_number_of_tasks_is_no_setting_has_a_report(done: Path) -> None:
    edit(done / "spec.yaml", lambda found: found["stream"].pop("tasks"))
    assert "1 run" in write_report(done).read_text(encoding="utf-8")
