"""Following runs by their files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.study import Follower, Run, RunDirectory, Status, Study
from isoplast.study.store._lock import DirectoryLock

MakeRun = Callable[..., Run]


def row(task: int, accuracy: float) -> dict[str, Any]:
    return {"task": task, "primary": "accuracy", "accuracy": accuracy}


@pytest.fixture
def started(tiny: MakeRun, tmp_path: Path) -> RunDirectory:
    """A run that says it is running, with one finished task; nobody is working on it."""
    run = tiny()
    Study("one", [run]).describe(tmp_path)
    directory = RunDirectory.create(tmp_path, run)
    directory.append([row(-1, 0.1), row(0, 0.9)])
    directory.write_status(Status(state="running", tasks=1, seconds=2.0, attempts=1))
    return directory


def test_a_look_reads_what_is_new(started: RunDirectory) -> None:
    follower = Follower(started.path.parent)
    follower.look()
    (run,) = follower.runs
    assert (run.label, run.tasks, run.primary, run.scores) == ("AdamO", 3, "accuracy", [0.9])
    with started.metrics.open("ab") as file:
        file.write(b'{"task": 1, "primary": "accura')  # a row that is being written
    follower.look()
    assert run.scores == [0.9]
    started.rewind(started.metrics.read_bytes().rindex(b"\n") + 1)
    started.append([row(1, 0.8), row(2, float("inf"))])
    follower.look()
    assert run.scores == [0.9, 0.8, float("inf")]
    assert follower.runs == [run]


def test_a_run_that_began_anew_is_read_anew(started: RunDirectory) -> None:
    follower = Follower(started.path.parent)
    follower.look()
    started.rewind(0)
    started.append([row(-1, 0.1)])
    follower.look()
    assert follower.runs[0].scores == []
    started.append([row(0, 0.7)])
    follower.look()
    assert follower.runs[0].scores == [0.7]


def test_a_study_is_active_while_somebody_owns_it(started: RunDirectory) -> None:
    study = started.path.parent
    follower = Follower(study)
    follower.look()
    assert (follower.active, follower.runs[0].status.state) == (False, "interrupted")
    with DirectoryLock(study):
        follower.look()
        assert (follower.active, follower.runs[0].status.state) == (True, "running")
    with started.owned():
        follower.look()
        assert (follower.active, follower.runs[0].status.state) == (True, "running")


def test_damage_is_told_with_its_line(started: RunDirectory) -> None:
    follower = Follower(started.path.parent)
    follower.look()
    with started.metrics.open("ab") as file:
        file.write(b'{"task": 1}\n')
    with pytest.raises(IsoplastError, match=r"metrics.jsonl line 3 is damaged"):
        follower.look()


def test_runs_that_come_later_are_seen(started: RunDirectory, tiny: MakeRun) -> None:
    study, first = started.path.parent, started.read_spec()
    follower = Follower(study)
    follower.look()
    second = dataclasses.replace(first, seed=1)
    Study("one", [first, second]).describe(study)
    RunDirectory.create(study, second)
    follower.look()
    assert [run.spec["seed"] for run in follower.runs] == [0, 1]
    assert follower.runs[1].status.state == "waiting"
