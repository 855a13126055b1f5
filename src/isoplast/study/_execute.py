"""Running one run in this process, from wherever it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isoplast import streams
from isoplast._errors import IsoplastError
from isoplast.study import _files
from isoplast.study._directory import RunDirectory
from isoplast.study._instruments import Instruments
from isoplast.study._provenance import peak_memory, provenance
from isoplast.study._random import random_state, reproducible, restore_random_state, seed_everything
from isoplast.study._spec import Run
from isoplast.study._train import Diverged, Trainer

FORMAT = 1  # of checkpoint.pt


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


class Failed(Exception):
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
        threads: threads of torch; the bits depend on it.
        on_progress: called after every epoch.
        say: called with lines a user should read.

    Returns:
        The directory with the results; `status()` is done.

    Raises:
        Failed: the loss became non-finite, or a file could not be written; `status()` holds the reason.
        Busy: another process is at this run.
        IsoplastError: the data is missing or damaged, or the device is not there.
    """
    _require_device(run.device)
    directory = RunDirectory.create(parent, run)
    with _files.locked(directory.path, patience=5.0):
        if directory.status().state == "done":
            return directory
        with reproducible(threads):
            _Attempt(run, directory, threads, on_progress, say).execute()
    return directory


def _require_device(name: str) -> None:
    device = torch.device(name)
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
        except KeyboardInterrupt:
            self._note("interrupted")
            raise
        except (Diverged, OSError) as error:
            reason = str(error) if isinstance(error, Diverged) else _one_line(error)
            self._fail(reason)
            raise Failed(reason) from error
        except Exception as error:
            self._fail(str(error) if isinstance(error, IsoplastError) else _one_line(error))
            raise
        self._note("done")
        self.say(f"done: {self.status.tasks} tasks in {self.status.seconds:.1f} s")

    def _train(self) -> None:
        run = self.run
        data = streams.load_data(run.data, samples=run.samples)
        stream = streams.stream(run.stream, data, tasks=run.tasks, seed=run.seed)
        origin = {
            **provenance(self.device, self.threads),
            "data": {"note": data.note, "fingerprint": data.fingerprint},
        }
        self._compare(origin)
        self._note("running", provenance=origin)
        seed_everything(run.seed)
        saved = self.directory.load_checkpoint()
        first = 0 if saved is None else self._first_task(saved, data.fingerprint)
        trainer = Trainer(run, stream.input_shape, stream.classes, task=first)
        accuracy = None
        self._introduce(trainer, data.note, first, -(-len(data.targets) // run.batch_size))
        if saved is None:
            self._restart(trainer, stream.task(0), data.fingerprint, stream.classes)
        else:
            trainer.restore(saved["trainer"])
            restore_random_state(saved["random"], self.device)
            self.directory.rewind(saved["metrics_size"])
        for index in range(first, run.tasks):
            task = stream.task(index)
            before = trainer.steps

            def on_epoch(epoch: int, index: int = index, accuracy: float | None = accuracy) -> None:
                self.on_progress(Progress(index, epoch, accuracy))

            seconds = trainer.train(task, on_epoch)
            found = trainer.measure(task)
            row = _row(index, trainer.method.name, trainer.steps - before, seconds, stream.classes, found)
            self._keep(trainer, row, index + 1, data.fingerprint)
            accuracy = found.accuracy
            self.say(f"task {index}: accuracy {accuracy:.4f}, loss {found.loss:.4f}, {seconds:.1f} s")

    def _compare(self, origin: dict[str, Any]) -> None:
        """Say so if this attempt goes on with other code than the one before: the bits may differ."""
        for what in ("versions", "git", "threads"):
            before = self.earlier.provenance.get(what)
            if self.earlier.provenance and before != origin[what]:
                self.say(f"warning: {what} was {before} before this interruption and is {origin[what]} now")

    def _first_task(self, saved: dict[str, Any], fingerprint: str) -> int:
        if saved["format"] != FORMAT:
            raise IsoplastError(
                f"{self.directory.checkpoint} is of another version: delete its directory and run again"
            )
        if saved["data"] != fingerprint:
            raise IsoplastError(
                f"{self.directory.path} was begun on other images under the name {self.run.data!r}: "
                "delete it, or give back the data it was begun on"
            )
        return int(saved["next_task"])

    def _introduce(self, trainer: Trainer, note: str, first: int, steps_per_epoch: int) -> None:
        run = self.run
        steps = steps_per_epoch * run.epochs * run.tasks
        count = sum(parameter.numel() for parameter in trainer.model.parameters())
        self.say(f"{run.label}: {run.tasks} tasks of {note}, {count:,} parameters, {steps:,} steps")
        for line in trainer.method.report(trainer.optimizer, steps):
            self.say(line)
        if first:
            self.say(f"going on at task {first} of {run.tasks}")

    def _restart(self, trainer: Trainer, task: streams.Task, fingerprint: str, classes: int) -> None:
        """Begin from nothing: what an attempt without a finished task left behind is dropped."""
        self.directory.metrics.touch()
        self.directory.rewind(0)
        row = _row(-1, trainer.method.name, 0, 0.0, classes, trainer.measure(task))
        self._keep(trainer, row, 0, fingerprint)

    def _keep(self, trainer: Trainer, row: dict[str, Any], next_task: int, fingerprint: str) -> None:
        """Make a finished task last: first its row, then the checkpoint that counts it."""
        size = self.directory.append([row])
        self.directory.save_checkpoint(
            {
                "format": FORMAT,
                "run": self.run.id,
                "data": fingerprint,
                "next_task": next_task,
                "metrics_size": size,
                "trainer": trainer.state(),
                "random": random_state(self.device),
            }
        )
        self._note("running", tasks=next_task, steps=trainer.steps)

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
            self.say(f"failed: {reason}")

    def _note(self, state: Any, **changes: Any) -> None:
        seconds = self.earlier.seconds + time.perf_counter() - self.begin
        memory = max(self.earlier.peak_memory, peak_memory(self.device))
        self.status = dataclasses.replace(
            self.status, state=state, seconds=seconds, peak_memory=memory, **changes
        )
        self.directory.write_status(self.status)


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
