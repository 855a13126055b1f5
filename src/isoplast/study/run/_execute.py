"""Running one run in this process, from wherever it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isoplast import streams
from isoplast._core.errors import IsoplastError
from isoplast.study._spec import Run, whole
from isoplast.study.run._instruments import Instruments
from isoplast.study.run._provenance import changes, peak_memory, provenance
from isoplast.study.run._random import random_state, reproducible, restore_random_state, seed_everything
from isoplast.study.run._train import Diverged, Trainer
from isoplast.study.store._directory import RunDirectory, State

FORMAT = 2  # of checkpoint.pt


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is right now.

    Args:
        task: index of the task that is being trained on.
        epoch: epochs done in it.
        accuracy: accuracy after the task before, None in the first.
    """

    task: int
    epoch: int
    accuracy: float | None


class RunFailed(Exception):
    """A run that cannot go on; the message is the reason, in one line."""


def execute(
    run: Run,
    parent: Path,
    *,
    threads: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
) -> RunDirectory:
    """Run a run to its end, going on after the last finished task if it was started before.

    The same run gives the same weights and the same metrics (except for the seconds) on the same machine, in
    one go or resumed after any interruption, to the bit on a CPU.

    Args:
        run: what to run.
        parent: the run's directory is parent / run.id.
        threads: threads of torch, >= 1; the bits depend on it.
        on_progress: called after every epoch.
        say: called with lines a user should read.

    Returns:
        The directory with the results; `status()` is done.

    Raises:
        RunFailed: the loss became non-finite, or a file could not be written; `status()` holds the reason.
        RunLocked: another process is at this run.
        IsoplastError: the data or a file of the directory is missing or damaged, the device is not there, or
            a setting is out of range.
    """
    whole("threads", threads, 1)
    _prepare_device(run.device)
    directory = RunDirectory.create(parent, run)
    with directory.owned(patience=5.0):
        if directory.status().state == "done":
            directory.check_complete(run.tasks)
            return directory
        with reproducible(threads):
            _Attempt(run, directory, threads, on_progress, say).execute()
    return directory


def _prepare_device(name: str) -> None:
    device = torch.device(name)
    if device.type == "cuda":  # cuBLAS is deterministic with this alone, and reads it once, when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    available = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
    if (device.index or 0) >= available:
        raise IsoplastError(f"device {name!r} is not there: torch sees {available} of that kind; use 'cpu'")


class _Attempt:
    """One start of a run."""

    def __init__(
        self,
        run: Run,
        directory: RunDirectory,
        threads: int,
        on_progress: Callable[[Progress], None],
        say: Callable[[str], None],
    ) -> None:
        self.run = run
        self.directory = directory
        self.device = torch.device(run.device)
        self.threads = threads
        self.on_progress = on_progress
        self.listener = say
        self.begin = time.perf_counter()
        self.earlier = directory.status()
        self.status = self.earlier

    def execute(self) -> None:
        try:
            self._note("running", attempts=self.earlier.attempts + 1, reason="")
            self._train()
            self._note("done")
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                self._note("interrupted")
            raise
        except (Diverged, OSError) as error:
            reason = str(error) if isinstance(error, Diverged) else _one_line(error)
            self._fail(reason)
            raise RunFailed(reason) from error
        except Exception as error:
            self._fail(str(error) if isinstance(error, IsoplastError) else _one_line(error))
            raise

    def _train(self) -> None:
        run = self.run
        data = streams.load_data(run.data, samples=run.samples)
        stream = streams.stream(run.stream, data, tasks=run.tasks, seed=run.seed)
        self._record_origin(data)
        seed_everything(run.seed)
        saved = self.directory.load_checkpoint()
        first = 0 if saved is None else self._first_task(saved, data)
        trainer = Trainer(run, stream.input_shape, stream.classes, task=first)
        count = sum(parameter.numel() for parameter in trainer.model.parameters())
        steps = -(-len(data.targets) // run.batch_size) * run.epochs
        total = steps * run.tasks
        self.say(f"{run.label}: {run.tasks} tasks of {data.note}, {count:,} parameters, {total:,} steps")
        self._say_method(trainer, total - steps * first)
        if saved is None:
            self._start(trainer, stream, data)
        else:
            self.say(f"going on at task {first} of {run.tasks}")
            trainer.restore(saved["trainer"])
            restore_random_state(saved["random"], self.device)
            self.directory.rewind(saved["metrics_size"])
        accuracy = None
        for index in range(first, run.tasks):
            task = stream.task(index)
            if trainer.begin(task):
                self.say(f"task {index}: {trainer.method.info.title} takes over")
                self._say_method(trainer, total - steps * index)
            accuracy = self._train_on(trainer, task, accuracy, data).accuracy
        self.say(f"done: {run.tasks} tasks in {self._seconds():.1f} s")

    def _record_origin(self, data: streams.Dataset) -> None:
        """Write down where the result comes from; say so if an earlier attempt ran on other code."""
        origin = provenance(self.device, self.threads)
        if self.earlier.provenance:
            for change in changes(self.earlier.provenance, origin):
                self.say(f"warning: since the interruption, {change}")
        origin["data"] = {"note": data.note, "fingerprint": data.fingerprint}
        self._note("running", provenance=origin)

    def _first_task(self, saved: dict[str, Any], data: streams.Dataset) -> int:
        if saved["format"] != FORMAT:
            raise IsoplastError(
                f"{self.directory.checkpoint} is of another version: delete its directory and run again"
            )
        if saved["data"] != data.fingerprint:
            raise IsoplastError(
                f"{self.directory.path} was begun on other images under the name {self.run.data!r}: "
                "delete it, or give back the data it was begun on"
            )
        return int(saved["next_task"])

    def _say_method(self, trainer: Trainer, steps: int) -> None:
        for line in trainer.training.report(steps):
            self.say(line)

    def _start(self, trainer: Trainer, stream: streams.Stream, data: streams.Dataset) -> None:
        """Begin from nothing: what an attempt without a checkpoint left behind is dropped."""
        self.directory.metrics.touch()
        self.directory.rewind(0)
        found = trainer.measure(stream.task(0))
        self._keep(trainer, _row(-1, trainer.method.name, 0, 0.0, stream.classes, found), data)

    def _train_on(
        self, trainer: Trainer, task: streams.Task, accuracy: float | None, data: streams.Dataset
    ) -> Instruments:
        before = trainer.steps
        start = time.perf_counter()
        for epoch in range(self.run.epochs):
            trainer.train(epoch)
            self.on_progress(Progress(task.index, epoch + 1, accuracy))
        seconds = time.perf_counter() - start
        found = trainer.measure(task)
        steps = trainer.steps - before
        self._keep(trainer, _row(task.index, trainer.method.name, steps, seconds, task.classes, found), data)
        self.say(f"task {task.index}: accuracy {found.accuracy:.4f}, loss {found.loss:.4f}, {seconds:.1f} s")
        return found

    def _keep(self, trainer: Trainer, row: dict[str, Any], data: streams.Dataset) -> None:
        """Make a finished task last: first its row, then the checkpoint that counts it."""
        size = self.directory.append([row])
        self.directory.save_checkpoint(
            {
                "format": FORMAT,
                "run": self.run.id,
                "data": data.fingerprint,
                "next_task": row["task"] + 1,
                "metrics_size": size,
                "trainer": trainer.state(),
                "random": random_state(self.device),
            }
        )
        self._note("running", tasks=row["task"] + 1, steps=trainer.steps)

    def say(self, line: str) -> None:
        """Tell the user, and the log."""
        self.listener(line)
        self._log(line)

    def _log(self, line: str) -> None:
        with self.directory.log.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _fail(self, reason: str) -> None:
        with contextlib.suppress(OSError):  # a full disk may refuse these files as well
            self._note("failed", reason=reason)
            self._log(f"failed: {reason}")

    def _note(self, state: State, **changes: Any) -> None:
        memory = max(self.earlier.peak_memory, peak_memory(self.device))
        self.status = dataclasses.replace(
            self.status, state=state, seconds=self._seconds(), peak_memory=memory, **changes
        )
        self.directory.write_status(self.status)

    def _seconds(self) -> float:
        return self.earlier.seconds + time.perf_counter() - self.begin


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _row(
    task: int, method: str, steps: int, seconds: float, classes: int, found: Instruments
) -> dict[str, Any]:
    return {
        "task": task,
        "method_active": method,
        "steps": steps,
        "seconds": seconds,
        "chance": 1 / classes,
        **dataclasses.asdict(found),
    }
