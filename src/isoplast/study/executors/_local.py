"""Many runs on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from isoplast._core.text import one_line
from isoplast.study.executors._base import EXECUTORS, Display, Executor, Job, Outcome
from isoplast.study.executors._cores import usable_cores
from isoplast.study.executors._memory import too_large
from isoplast.study.executors._worker import DONE, LOCKED
from isoplast.study.run._execute import Progress

_LOOK = 1.0  # seconds between two looks at the memory


@EXECUTORS.register
class LocalExecutor(Executor):
    """A process for every run, so many at a time."""

    name: ClassVar[str] = "local"

    def execute(self, jobs: Sequence[Job], at_once: int | None, display: Display) -> Iterator[Outcome]:
        """Do all jobs, `at_once` processes at a time; None: as many as there are usable cores for."""
        if not jobs:
            return
        at_once = at_once or max(1, usable_cores() // jobs[0].threads)
        waiting = deque(jobs)
        working: list[_Worker] = []
        looked = time.monotonic()
        events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        try:
            while waiting or working:
                while waiting and len(working) < at_once:
                    worker = _Worker(waiting.popleft(), events)
                    working.append(worker)
                    display.started(worker.job.run)
                if time.monotonic() - looked > _LOOK:
                    _watch_memory(working)
                    looked = time.monotonic()
                try:  # a wait without an end would keep Ctrl-C waiting on Windows
                    worker, event = events.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if event is not None:
                    worker.take(event, display)
                    continue
                working.remove(worker)
                outcome = worker.outcome()
                display.ended(outcome)
                yield outcome
        finally:  # nobody is left behind, whatever went wrong
            for worker in working:
                worker.stop()


def _watch_memory(working: Sequence[_Worker]) -> None:
    """End the largest worker before memory runs out: the system would pick any process."""
    found = too_large([worker.process.pid for worker in working])
    if found is not None:
        number, reason = found
        (worker,) = [worker for worker in working if worker.process.pid == number]
        worker.failure = reason
        worker.process.kill()


class _Worker:
    """A process at one job; a thread reads its events into a queue, and None when there are no more."""

    def __init__(self, job: Job, events: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        self.job = job
        self.failure: str | None = None
        self.score: float | None = None
        with job.directory.log.open("ab") as log:
            self.process = subprocess.Popen(
                job.command(sys.executable),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **job.environment()},
                **_apart(),
            )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = _parsed(line)
            if event is not None:
                events.put((self, event))
        events.put((self, None))

    def take(self, event: dict[str, Any], display: Display) -> None:
        """Take in what the worker has sent."""
        if "failed" in event:
            self.failure = str(event["failed"])
            return
        progress = Progress(**event)
        self.score = progress.score if progress.score is not None else self.score
        display.progressed(self.job.run, progress)

    def stop(self) -> None:
        """End the process now; what it has finished stays."""
        self.process.kill()
        self._close()

    def _close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        code = self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        return code

    def outcome(self) -> Outcome:
        """How the process ended; a failure that it could not write down itself is written down here."""
        code = self._close()
        run, directory = self.job.run, self.job.directory
        if code == DONE:
            return Outcome(run, directory, score=self.score)
        if code == LOCKED:
            return Outcome(run, directory, "another process is at this run")
        failure = self.failure or self._last_words(code)
        directory.mark_failed(failure)
        return Outcome(run, directory, failure, self.score)

    def _last_words(self, code: int) -> str:
        if code < 0:
            known = {item.value: item.name for item in signal.Signals}
            name = known.get(-code, f"signal {-code}")
            return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        said: list[str] = []
        with contextlib.suppress(OSError):  # the directory may be gone
            lines = _end(self.job.directory.log).split("\n")
            said = [line.strip() for line in lines if line.strip()]
        return one_line(said[-1]) if said else f"exit status {code}"


def _end(log: Path, size: int = 1 << 16) -> str:
    """The end of a log, which may be of gigabytes."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", errors="replace")


def _apart() -> dict[str, Any]:
    """Ctrl-C reaches the executor alone, which then ends its workers."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An event; None for anything else that some library may have printed."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    fields = {field.name for field in dataclasses.fields(Progress)}
    known = isinstance(event, dict) and (event.keys() == fields or event.keys() == {"failed"})
    return event if known else None
