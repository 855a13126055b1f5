"""What executors on many machines share: they follow jobs by their directories and repeat lost ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from isoplast._core.errors import IsoplastError
from isoplast._core.settings import check_fields
from isoplast.study._spec import whole
from isoplast.study.executors._base import Display, Executor, Job, Outcome, Silent
from isoplast.study.executors._local import LocalExecutor
from isoplast.study.run._execute import Progress, module_path
from isoplast.study.sinks._sending import as_parts
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._lock import is_locked

_PATIENCE = 60.0  # seconds in which a worker that lost its machine lets go of its directory
_POLL = 0.5  # seconds between two looks at the jobs; more where there are hundreds


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the attempt at a job ended on its machine.

    Args:
        failure: why the run failed, in one line; None if it is done.
        score: see `Outcome`.
        lost: whether the machine or its worker went away, so that the run can go on elsewhere.
    """

    failure: str | None = None
    score: float | None = None
    lost: bool = False


def check_settings(executor: Executor, *, positive: Sequence[str], counts: Mapping[str, int]) -> None:
    """Convert the settings of an executor in place and check their ranges; for its `__post_init__`.

    Args:
        executor: a frozen dataclass.
        positive: settings that are above 0, or None.
        counts: settings that are whole numbers, and the least that each can be.

    Raises:
        IsoplastError: a value is of another type or out of range.
    """
    owner = f"executor {executor.name}"
    check_fields(executor, owner)
    for name in positive:
        value = getattr(executor, name)
        if value is not None and value <= 0:
            raise IsoplastError(f"{name} of {owner} is {value:g}: it must be above 0")
    for name, low in counts.items():
        whole(f"{name} of {owner}", getattr(executor, name), low)


class Ticket(Protocol):
    """One attempt at a job, somewhere."""

    def ended(self) -> Ended | None:
        """How it ended; None as long as it has not."""

    def cancel(self) -> None:
        """End it, with its process."""


class ClusterExecutor(Executor):
    """Hands jobs to a scheduler, follows them by the files of their directories, and repeats lost ones.

    The directories must lie where all machines see them. A lost run goes on from its checkpoint; it has
    failed when it was lost `retries` + 1 times without finishing a task in between.
    """

    retries: int

    @abstractmethod
    def connected(self, jobs: Sequence[Job]) -> contextlib.AbstractContextManager[None]:
        """The time in which jobs can be submitted.

        Raises:
            IsoplastError: the scheduler cannot be had, or has no machine for these jobs.
        """

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> list[Ticket]:
        """Hand jobs to the scheduler, which calls `do_run` for each."""

    def execute(self, jobs: Sequence[Job], at_once: int | None, display: Display) -> Iterator[Outcome]:
        """Do all jobs, as many at a time as the scheduler has room for, at most `at_once`."""
        if not jobs:
            return
        with self.connected(jobs):
            waiting = deque(_Followed(job, display) for job in jobs)
            working: list[_Followed] = []
            try:
                while waiting or working:
                    room = len(waiting) if at_once is None else min(len(waiting), at_once - len(working))
                    new = [waiting.popleft() for _ in range(room)]
                    for one, ticket in zip(new, self.submit([one.job for one in new]), strict=True):
                        one.ticket = ticket
                    working += new
                    for one in [one for one in working if one.look(self.retries)]:
                        working.remove(one)
                        if one.outcome is None:
                            waiting.append(one)
                        else:
                            display.ended(one.outcome)
                            yield one.outcome
                    if working:
                        time.sleep(max(_POLL, len(working) / 200))
            finally:
                for one in working:
                    one.cancel()


class _Followed:
    """A job through all its attempts."""

    def __init__(self, job: Job, display: Display) -> None:
        self.job, self.display = job, display
        self.ticket: Ticket | None = None
        self.outcome: Outcome | None = None
        self.attempts = job.directory.status().attempts
        self.started = False
        self.tasks = self.tasks_when_lost = job.directory.status().tasks
        self.losses = 0

    def look(self, retries: int) -> bool:
        """Tell the display what is new; returns whether this attempt has ended."""
        assert self.ticket is not None
        ended = self.ticket.ended()
        self._follow()
        if ended is None:
            return False
        run, directory = self.job.run, self.job.directory
        if ended.lost:
            self.losses = self.losses + 1 if self.tasks == self.tasks_when_lost else 1
            self.tasks_when_lost = self.tasks
            if self.losses <= retries:
                return True
            directory.mark_failed(f"lost {self.losses} times: {ended.failure}")
        elif ended.failure:
            directory.mark_failed(ended.failure)
        self.outcome = Outcome(run, directory, ended.failure, ended.score)
        self._start()
        return True

    def cancel(self) -> None:
        """End the attempt."""
        assert self.ticket is not None
        with contextlib.suppress(Exception):  # the scheduler may be gone: the others are still to be ended
            self.ticket.cancel()

    def _start(self) -> None:
        if not self.started:
            self.started = True
            self.display.started(self.job.run)

    def _follow(self) -> None:
        try:
            status = self.job.directory.status()
        except IsoplastError:  # a network's filesystem may show a file that is being replaced
            return
        if status.attempts > self.attempts:
            self._start()
        if status.tasks != self.tasks:
            self._start()
            self.tasks = status.tasks
            self.display.progressed(self.job.run, Progress(max(status.tasks - 1, 0), 1.0, None))


def do_run(
    folder: str, threads: int, sinks: str = "[]", patience: float = _PATIENCE
) -> tuple[str | None, float | None]:
    """Do the run of a directory on this machine, in a process of its own.

    Args:
        folder: the run's directory.
        threads: threads of the run, >= 1.
        sinks: see `Job.sink_words`.
        patience: seconds to wait for a process of an earlier attempt to let go of the directory.

    Returns:
        Why the run failed, None if it is done; and its last score.
    """
    path = Path(folder)
    directory = RunDirectory(path)
    if not directory.spec.exists():
        return (
            f"{folder} is not there on {platform.node()}: choose an --out that all machines see",
            None,
        )
    until = time.monotonic() + patience
    while is_locked(path) and time.monotonic() < until:
        time.sleep(0.2)
    with module_path(tuple(directory.read_settings().get("path", ()))):
        run = directory.read_spec()
        job = Job(run, directory, threads, as_parts(json.loads(sinks)))
    (outcome,) = LocalExecutor().execute([job], 1, Silent())
    return outcome.failure, outcome.score
