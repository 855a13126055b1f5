"""The directory of a run: what lies in it, and in which order it is written.

    spec.yaml        what was run
    metrics.jsonl    one line per finished task, and one for the untrained network (task -1)
    checkpoint.pt    everything needed to go on after the last finished task
    status.json      running, done, failed (why) or interrupted; where the result comes from; what it cost
    log.txt          what the workers said

After a task its row is appended and forced to disk, then the checkpoint, which knows the size of
metrics.jsonl, is renamed into place. A process killed in between leaves a row that the checkpoint does not
know: resuming cuts it off and trains that task again, to the same bits.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from isoplast._errors import IsoplastError
from isoplast.study import _files
from isoplast.study._spec import Run

State = Literal["waiting", "running", "done", "failed", "interrupted"]


@dataclasses.dataclass(frozen=True)
class Status:
    """How far a run is, and what it took.

    Args:
        state: "waiting" before the first start; "interrupted" when it was stopped, or its process is gone.
        reason: why it failed, in one line.
        tasks: number of finished tasks.
        steps: optimizer steps so far.
        seconds: wall time so far, all attempts together.
        peak_memory: bytes, of the attempt that used most.
        attempts: how often it was started.
        provenance: versions, source state, data and machine of the last attempt.
    """

    state: State = "waiting"
    reason: str = ""
    tasks: int = 0
    steps: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    attempts: int = 0
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)


class RunDirectory:
    """Reads and writes the directory of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.log = path / "log.txt"
        self._status = path / "status.json"

    @classmethod
    def create(cls, parent: Path, run: Run) -> RunDirectory:
        """The directory of a run below a parent directory, made and described if need be.

        Raises:
            IsoplastError: it holds another run.
        """
        directory = cls(parent / run.id)
        directory.path.mkdir(parents=True, exist_ok=True)
        text = run.to_yaml()
        if directory.spec.exists() and directory.read_spec() != run:
            raise IsoplastError(f"{directory.path} holds another run: choose another directory")
        if not directory.spec.exists() or directory.spec.read_text() != text:
            _files.write_whole(directory.spec, text.encode())
        return directory

    def read_spec(self) -> Run:
        """The run that this directory belongs to."""
        if not self.spec.exists():
            raise IsoplastError(f"{self.path} is not the directory of a run: it has no spec.yaml")
        return Run.from_yaml(self.spec.read_text(), str(self.spec))

    def status(self) -> Status:
        """How far the run is; "interrupted" if it says "running" but no process owns the directory."""
        if not self._status.exists():
            return Status()
        status = Status(**json.loads(self._status.read_text()))
        if status.state == "running" and not _files.is_locked(self.path):
            return dataclasses.replace(status, state="interrupted")
        return status

    def write_status(self, status: Status) -> None:
        """Replace the status."""
        _files.write_whole(self._status, json.dumps(dataclasses.asdict(status), indent=1).encode())

    def append(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append rows of metrics; returns the size of the file."""
        return _files.append_rows(self.metrics, rows)

    def save_checkpoint(self, contents: dict[str, Any]) -> None:
        """Replace the checkpoint.

        It is put together in memory first: torch's own writer turns a full disk into an error about
        positions.
        """
        buffer = io.BytesIO()
        torch.save(contents, buffer)
        _files.write_whole(self.checkpoint, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint, or None if no task has been finished.

        Raises:
            IsoplastError: it is damaged.
        """
        if not self.checkpoint.exists():
            return None
        try:
            contents: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise IsoplastError(
                f"{self.checkpoint} is damaged ({reason}): delete {self.path} and run again"
            ) from None
        return contents

    def rewind(self, size: int) -> None:
        """Drop all metrics after the first `size` bytes: they belong to tasks that are trained again."""
        _files.truncate(self.metrics, size)
