"""Running many runs on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from isoplast import streams
from isoplast.study._spec import Run, whole
from isoplast.study._study import Study
from isoplast.study.executors._cores import usable_cores
from isoplast.study.run._execute import Progress
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._files import RunLocked, locked

DONE, FAILED, BUSY, ORPHANED = 0, 1, 75, 76  # exit status of a worker


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        run: which one.
        directory: where its results are.
        failure: why it failed, in one line; None if it is done.
        accuracy: accuracy after its last finished task, where that is known.
    """

    run: Run
    directory: RunDirectory
    failure: str | None = None
    accuracy: float | None = None


class Display(Protocol):
    """Somebody who wants to know how a study is going."""

    def started(self, run: Run) -> None:
        """A worker begins with a run."""

    def progressed(self, run: Run, progress: Progress) -> None:
        """A worker has finished an epoch."""

    def ended(self, outcome: Outcome) -> None:
        """A worker has ended."""


class Silent:
    """A display that shows nothing."""

    def started(self, run: Run) -> None:
        """Show nothing."""

    def progressed(self, run: Run, progress: Progress) -> None:
        """Show nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Show nothing."""


def run_study(
    study: Study, out: Path, *, jobs: int | None = None, threads: int = 1, display: Display | None = None
) -> list[Outcome]:
    """Do the runs of a study that are not done yet, in parallel processes.

    Started again after any interruption it goes on where it stopped. A worker that dies takes its own run
    with it, which is then marked as failed; a failed run is tried again when the study is started again.

    Args:
        study: what to run.
        out: directory of the results, made if need be.
        jobs: number of processes, >= 1; None: as many as there are usable cores for.
        threads: threads of each process, >= 1; the bits of a result depend on it.
        display: is told how it goes.

    Returns:
        How each run ended, in the study's order.

    Raises:
        RunLocked: another process runs a study in this directory.
        IsoplastError: the directory holds another study or a damaged file, data cannot be had, or jobs or
            threads are out of range. No run has been started then.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None:
            whole(name, value, 1)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        study.describe(out)
        directories = {run: RunDirectory.create(out, run) for run in study.runs}
        outcomes = {run: Outcome(run, directory) for run, directory in directories.items()}
        missing = _missing(directories)
        # Here, once: a download is seen and not made by every worker, a bad file stops nothing half-way.
        for data, samples in dict.fromkeys((run.data, run.samples) for run in missing):
            streams.load_data(data, samples=samples)
        pool = _Pool(jobs or max(1, usable_cores() // threads), threads, display or Silent())
        for outcome in pool.work_through(Outcome(run, directories[run]) for run in missing):
            outcomes[outcome.run] = outcome
    return [outcomes[run] for run in study.runs]


def _missing(directories: Mapping[Run, RunDirectory]) -> list[Run]:
    """The runs that are not done; those that are must be complete."""
    missing = []
    for run, directory in directories.items():
        if directory.status().state == "done":
            directory.check_complete(run.tasks)
        else:
            missing.append(run)
    return missing


class _Worker:
    """A process at one run, and the events it has sent so far."""

    def __init__(self, task: Outcome, threads: int) -> None:
        self.run, self.directory = task.run, task.directory
        self.failure: str | None = None
        self.accuracy: float | None = None
        self._torn = b""
        count = str(threads)
        with self.directory.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "isoplast.study.executors.worker",
                    str(self.directory.path),
                    "--threads",
                    count,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
                start_new_session=True,  # Ctrl-C reaches the executor alone, which then ends its workers
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def read(self, display: Display) -> bool:
        """Take in what the worker has sent; False when there will be nothing more."""
        chunk = os.read(self.output.fileno(), 65536)
        *lines, self._torn = (self._torn + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if "failed" in event:
                self.failure = event["failed"]
            else:
                progress = Progress(**event)
                self.accuracy = progress.accuracy if progress.accuracy is not None else self.accuracy
                display.progressed(self.run, progress)
        return bool(chunk)

    def stop(self) -> None:
        """End the process now; what it has finished stays."""
        self.process.kill()
        self._close()

    def _close(self) -> int:
        assert self.process.stdin is not None
        code = self.process.wait()
        self.process.stdin.close()
        self.output.close()
        return code

    def outcome(self) -> Outcome:
        """How the process ended; a failure that it could not write down itself is written down here."""
        code = self._close()
        if code == DONE:
            return Outcome(self.run, self.directory, accuracy=self.accuracy)
        if code == BUSY:
            return Outcome(self.run, self.directory, "another process is at this run")
        failure = self.failure or self._last_words(code)
        if self.directory.status().state != "failed":
            self._mark(failure)
        return Outcome(self.run, self.directory, failure, self.accuracy)

    def _mark(self, failure: str) -> None:
        # On a full disk this may fail as well; the run then reads as interrupted.
        with contextlib.suppress(RunLocked, OSError), self.directory.owned(patience=1.0):
            status = dataclasses.replace(self.directory.status(), state="failed", reason=failure)
            self.directory.write_status(status)

    def _last_words(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        lines = self.directory.log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else f"exit status {code}"


class _Pool:
    """At most so many workers at a time."""

    def __init__(self, jobs: int, threads: int, display: Display) -> None:
        self.jobs, self.threads, self.display = jobs, threads, display

    def work_through(self, tasks: Iterable[Outcome]) -> list[Outcome]:
        waiting = deque(tasks)
        ended: list[Outcome] = []
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or selector.get_map():
                    while waiting and len(selector.get_map()) < self.jobs:
                        self._start(waiting.popleft(), selector)
                    for key, _ in selector.select():
                        if not key.data.read(self.display):
                            selector.unregister(key.fileobj)
                            ended.append(key.data.outcome())
                            self.display.ended(ended[-1])
            finally:  # nobody is left behind, whatever went wrong
                for key in list(selector.get_map().values()):
                    key.data.stop()
        return ended

    def _start(self, task: Outcome, selector: selectors.BaseSelector) -> None:
        started = _Worker(task, self.threads)
        selector.register(started.output, selectors.EVENT_READ, started)
        self.display.started(task.run)
