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
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from isoplast._core.archives import check_zip
from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast.study import _yaml
from isoplast.study._spec import Run
from isoplast.study.run._provenance import is_provenance
from isoplast.study.store import _files
from isoplast.study.store._lock import DirectoryLock, is_locked

_PARTS = ("stream", "net", "method", "learner")  # of every run
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
        peak_memory: bytes, of the attempt that used most; 0 where that is not known.
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
        self._lock: DirectoryLock | None = None

    @classmethod
    def create(cls, parent: Path, run: Run) -> RunDirectory:
        """The directory of a run below a parent directory, made and described if need be.

        Raises:
            IsoplastError: it holds another run, or a damaged specification.
            RunLocked: it must be described, and another process owns it.
        """
        directory = cls(parent / run.id)
        directory.path.mkdir(parents=True, exist_ok=True)
        if not directory._describes(run):
            with directory.owned(patience=5.0):
                write_whole(directory.spec, run.to_yaml().encode())
        return directory

    def _describes(self, run: Run) -> bool:
        if not self.spec.exists():
            return False
        found = self.read_spec()
        if found != run:
            raise IsoplastError(f"{self.path} holds another run: choose another directory")
        return found.to_yaml() == run.to_yaml()

    @contextmanager
    def owned(self, patience: float = 0.0) -> Iterator[None]:
        """Own the directory while the block runs; what killed owners left half-written is removed.

        Raises:
            RunLocked: after so many seconds another process still owns it, or, at a write in the block, the
                directory is not the one that is owned any more.
        """
        with DirectoryLock(self.path, patience) as self._lock:
            try:
                for file in (self.spec, self.checkpoint, self._status):
                    _files.drop_aside(file)
                yield
            finally:
                self._lock = None

    def check_owned(self) -> None:
        """Raise RunLocked if the directory was taken away since it was owned."""
        if self._lock is not None:
            self._lock.check()

    def read_spec(self) -> Run:
        """The run that this directory belongs to."""
        if not self.spec.exists():
            raise IsoplastError(f"{self.path} is not the directory of a run: it has no spec.yaml")
        try:
            return Run.from_mapping(self.read_settings())
        except IsoplastError as error:
            prefix = "" if str(self.spec) in str(error) else f"{self.spec}: "
            raise IsoplastError(f"{prefix}{error}") from None

    def read_settings(self) -> dict[str, Any]:
        """The specification as it was written, whether or not this version knows all it names.

        Raises:
            IsoplastError: it is damaged, or of a version that wrote it in another way.
        """
        try:
            settings = _yaml.parse_yaml(self.spec.read_text(encoding="utf-8"), str(self.spec))
        except ValueError:  # what is no text, and what is no YAML
            settings = None
        if not _readable(settings):
            raise IsoplastError(
                f"{self.spec} is damaged or of an older version: delete {self.path} and run again"
            )
        found: dict[str, Any] = settings
        return found

    def status(self) -> Status:
        """How far the run is; "interrupted" if it says "running" but no process owns the directory.

        Raises:
            IsoplastError: status.json is damaged.
        """
        status = self.written_status()
        if status.state == "running" and not is_locked(self.path):
            return dataclasses.replace(status, state="interrupted")
        return status

    def written_status(self) -> Status:
        """How far the run is as its last process wrote it down, whether or not that is still there.

        Raises:
            IsoplastError: status.json is damaged.
        """
        if not self._status.exists():
            return Status()
        remedy = "delete it, and the run goes on from its checkpoint when it is started again"
        found = _files.read_mapping(self._status, remedy)
        # A later version may write more.
        known = {field.name: found[field.name] for field in dataclasses.fields(Status) if field.name in found}
        status = Status(**known)
        right = all(_same_kind(value, getattr(Status(), name)) for name, value in known.items())
        right = right and status.state in get_args(State) and is_provenance(status.provenance)
        if not right:
            raise IsoplastError(f"{self._status} is damaged: {remedy}")
        return status

    def write_status(self, status: Status) -> None:
        """Replace the status."""
        self.check_owned()
        write_whole(self._status, json.dumps(dataclasses.asdict(status), indent=1).encode())

    def mark_failed(self, reason: str) -> None:
        """Write down that the run failed, for a worker that could not; a run that says so itself is left.

        On a full disk this may fail as well: the run then reads as interrupted. A damaged status stays as it
        is: whoever reads it is told.
        """
        with suppress(IsoplastError, OSError):
            status = self.status()
            if status.state != "failed":
                with self.owned(patience=1.0):
                    self.write_status(dataclasses.replace(status, state="failed", reason=reason))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append rows of metrics; returns the size of the file."""
        self.check_owned()
        return _files.append_rows(self.metrics, rows)

    def save_checkpoint(self, contents: dict[str, Any]) -> None:
        """Replace the checkpoint.

        It is put together in memory first: torch's own writer turns a full disk into an error about
        positions.
        """
        buffer = io.BytesIO()
        torch.save(contents, buffer)
        self.check_owned()
        write_whole(self.checkpoint, buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint, or None if no task has been finished.

        Raises:
            IsoplastError: it is damaged, or belongs to another run.
        """
        if not self.checkpoint.exists():
            return None
        contents = _unpickled(self.checkpoint)
        if not isinstance(contents, dict) or "format" not in contents:
            raise IsoplastError(f"{self.checkpoint} is damaged: delete {self.path} and run again")
        if contents.get("run") != self.path.name:
            raise IsoplastError(
                f"{self.checkpoint} belongs to run {contents.get('run')}: delete {self.path} and run again"
            )
        return contents

    def check_complete(self, tasks: int) -> None:
        """Make sure that the metrics of a finished run are all there.

        Raises:
            IsoplastError: some are gone.
        """
        count = len(_files.read_rows(self.metrics))
        if count != tasks + 1:
            raise IsoplastError(
                f"{self.metrics} holds {count} of {tasks + 1} rows although the run is done: "
                f"delete {self.path} and run again"
            )

    def rewind(self, size: int) -> None:
        """Drop all metrics after the first `size` bytes: they belong to tasks that are trained again."""
        self.check_owned()
        _files.truncate(self.metrics, size)


def _same_kind(value: object, like: object) -> bool:
    """Whether a value of status.json is of its kind; a number is one that a frame can hold."""
    if isinstance(like, int | float):
        kinds = (int,) if isinstance(like, int) else (int, float)
        return type(value) in kinds and 0 <= value < 1 << 63  # type: ignore[operator]
    return type(value) is type(like)


def _readable(settings: object) -> bool:
    """Whether a specification has what every reader relies on, of its kind."""
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        return False
    parts = [settings.get(name) for name in _PARTS]
    if settings.get("data") is not None:
        parts.append(settings["data"])
    if (switch := settings.get("switch")) is not None:
        if not isinstance(switch, dict) or not isinstance(switch.get("task"), int):
            return False
        parts.append(switch.get("method"))
    seed, lr = settings.get("seed"), settings.get("lr")
    right = isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < 1 << 63
    right = right and isinstance(lr, int | float) and not isinstance(lr, bool) and 0 < lr < math.inf
    return right and all(map(_is_part, parts))


def _is_part(value: object) -> bool:
    """A name with settings, as a run writes its parts."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return all(isinstance(key, str) for key in value)


def _unpickled(path: Path) -> Any:
    try:
        check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # of a disk or of permissions, which are no reason to delete a run
        raise
    except Exception:  # damaged bytes let an unpickler raise nearly anything
        return None
