"""Following runs while they are done, by the files of their directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from isoplast.study.store._directory import RunDirectory, Status
from isoplast.study.store._files import read_new_rows
from isoplast.study.store._find import run_directories
from isoplast.study.store._lock import is_locked


@dataclasses.dataclass
class FollowedRun:
    """A run as it was when it was last looked at.

    Args:
        directory: where it lies.
        spec: its specification as it was written.
        status: how far it is.
        primary: the metric that counts; "" before the first row.
        scores: that metric after each finished task.
    """

    directory: RunDirectory
    spec: dict[str, Any]
    status: Status = dataclasses.field(default_factory=Status)
    primary: str = ""
    scores: list[float] = dataclasses.field(default_factory=list)
    _offset: int = 0
    _rows: int = 0

    @property
    def label(self) -> str:
        """What its method is called."""
        return str(self.spec.get("label", ""))

    @property
    def tasks(self) -> int | None:
        """How many tasks it has; None if its specification does not say."""
        found = self.spec["stream"].get("tasks")
        return found if isinstance(found, int) else None

    def read(self, owned: bool) -> None:
        """Look again.

        Args:
            owned: whether a process is at work on all runs of the study, so that one that says "running" is.
        """
        self.status = self.directory.written_status() if owned else self.directory.status()
        path = self.directory.metrics
        size = path.stat().st_size if path.exists() else 0
        if size < self._offset:  # begun anew
            self.scores, self._offset, self._rows = [], 0, 0
        if size > self._offset:
            rows, self._offset = read_new_rows(path, self._offset, self._rows)
            self._rows += len(rows)
            for row in rows:
                self.primary = str(row.get("primary", ""))
                if row["task"] >= 0:
                    self.scores.append(float(row.get(self.primary, "nan")))


class Follower:
    """The runs of a directory, looked at again and again; what does not change is read once.

    Args:
        path: the directory of a study, or of a run.

    Attributes:
        runs: those of the last look, in the study's order.
        active: whether a process was at work on them then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[FollowedRun] = []
        self.active = False
        self._known: dict[Path, FollowedRun] = {}

    def look(self) -> None:
        """Read what is new.

        Raises:
            IsoplastError: there are no results, or a file is damaged.
        """
        owned = is_locked(self.path)
        self.runs = []
        for directory in run_directories(self.path):
            if directory.path not in self._known:
                self._known[directory.path] = FollowedRun(directory, directory.read_settings())
            run = self._known[directory.path]
            run.read(owned)
            self.runs.append(run)
        self.active = owned or any(run.status.state == "running" for run in self.runs)
