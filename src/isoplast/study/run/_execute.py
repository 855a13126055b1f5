"""Running one run in this process, from wherever it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from isoplast import data
from isoplast._core.errors import IsoplastError, reason_of
from isoplast._core.text import escaped, one_line
from isoplast.streams import OpenProblem, Stream, TaskSequence
from isoplast.study._metrics import metric
from isoplast.study._parts import make
from isoplast.study._spec import Run, whole
from isoplast.study.run._learner import Diverged, Learner, Recipe
from isoplast.study.run._networks import check_network
from isoplast.study.run._provenance import changes, peak_memory, provenance
from isoplast.study.run._random import random_state, reproducible, restore_random_state, seed_everything
from isoplast.study.sinks._base import SentRun, Sink
from isoplast.study.sinks._sending import Sending, as_parts, opened
from isoplast.study.store._directory import RunDirectory, State
from isoplast.study.store._files import read_rows
from isoplast.study.store._index import read_index

FORMAT = 2  # of checkpoint.pt
_MOST_THREADS = 1024  # many more than that end the process


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is right now.

    Args:
        task: index of the task that is being trained on.
        done: share of it that is done, in [0, 1].
        score: the primary metric after the task before, None in the first.
        primary: name of that metric.
    """

    task: int
    done: float
    score: float | None
    primary: str = ""


class RunFailed(Exception):
    """A run that cannot go on; the message is the reason, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def execute(
    run: Run,
    parent: Path,
    *,
    threads: int = 1,
    sinks: Sequence[Any] = (),
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
        sinks: where its rows go besides its directory, as in `isoplast.study.Study`; one that fails is left
            out, and has all rows once the run is started again. A run that is done sends what is missing.
        on_progress: called after every unit of progress of the learner.
        say: called with lines a user should read.

    Returns:
        The directory with the results; `status()` is done.

    Raises:
        RunFailed: the loss became non-finite, a file could not be written, or anything else went wrong in
            training; `status()` holds the reason, the log the traceback.
        RunLocked: another process is at this run.
        IsoplastError: the data or a file of the directory is missing or damaged, data, stream and network do
            not go together, the device or the package of a sink is not there, or a setting is out of range.
            A run that has no directory yet gets none then.
    """
    check_threads(threads)
    _prepare_device(run.device)
    with module_path(run.path):
        found = opened(as_parts(sinks))
        fresh = not RunDirectory(parent / run.id).spec.exists()
        problem = checked_problem(run) if fresh else None  # what cannot run gets no directory
        directory = RunDirectory.create(parent, run)
        with directory.owned(patience=5.0):
            attempt = _Attempt(run, directory, problem, threads, found, on_progress, say)
            if directory.status().state == "done":
                directory.check_complete(run.tasks)
                attempt.send_missing()
                return directory
            with reproducible(threads):
                attempt.execute()
    return directory


def check_threads(threads: object) -> int:
    """The number of threads if a process can have so many."""
    if whole("threads", threads, 1) > _MOST_THREADS:
        raise IsoplastError(f"threads is {threads}: no process has more than {_MOST_THREADS} of them")
    return whole("threads", threads, 1)


def open_problem(run: Run) -> OpenProblem:
    """The tasks of a run, with their data.

    Raises:
        IsoplastError: the data cannot be had, or do not suit.
    """
    loaded = None if run.data is None else load_part(run)
    return run.problem().open(loaded, run.seed)


def checked_problem(run: Run) -> OpenProblem:
    """The tasks of a run, which its network can learn where they are made of data.

    Raises:
        IsoplastError: as `open_problem` and `check_network`.
    """
    problem = open_problem(run)
    if isinstance(problem, TaskSequence):
        check_network(run, problem)
    return problem


def load_part(run: Run) -> data.Dataset:
    """The data set of a run."""
    assert run.data is not None
    spec: data.DataSpec = make("data", run.data)
    problem = run.problem()
    return spec.load_with_test() if isinstance(problem, Stream) and problem.holds_out else spec.load()


def start_learner(run: Run, problem: OpenProblem, task: int) -> Learner:
    """The learner of a run before its task number `task`, seeded as in the run, not yet restored."""
    seed_everything(run.seed)
    recipe = Recipe(
        net=make("net", run.net),
        make_method=run.make_method,
        switch=None if run.switch is None else run.switch.task,
        lr=run.lr,
        seed=run.seed,
        device=torch.device(run.device),
        instruments=run.instruments,
        every=run.instruments_every,
    )
    found: Learner = make("learner", run.learner).start(problem, recipe, task)
    return found


@contextlib.contextmanager
def module_path(folders: tuple[str, ...]) -> Any:
    """Let modules be found in these folders while the block runs."""
    added = [str(Path(folder).resolve()) for folder in folders]
    for folder in added:
        if not Path(folder).is_dir():
            raise IsoplastError(f"path names {folder}, which is no folder")
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


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
        problem: OpenProblem | None,
        threads: int,
        sinks: Sequence[Sink],
        on_progress: Callable[[Progress], None],
        say: Callable[[str], None],
    ) -> None:
        self.run = run
        self.directory = directory
        self.problem = problem
        self.device = torch.device(run.device)
        self.threads = threads
        self.sinks = sinks
        self.on_progress = on_progress
        self.listener = say
        self.begin = time.perf_counter()
        self.earlier = directory.status()
        self.status = self.earlier
        self._unmeasured: set[str] = set()

    def execute(self) -> None:
        try:
            self._note("running", attempts=self.earlier.attempts + 1, reason="", sinks=[])
            self._train()
            self._note("done", sinks=self._sending.complete)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError, IsoplastError):
                self._note("interrupted")
            raise
        except IsoplastError as error:
            self._fail(str(error))
            raise
        except (Diverged, OSError) as error:
            reason = one_line(str(error)) if isinstance(error, Diverged) else reason_of(error)
            self._fail(reason)
            raise RunFailed(reason) from error
        except Exception as error:  # whatever training raises: the run has failed, and says why
            reason = reason_of(error)
            self._fail(reason, traceback.format_exc())
            raise RunFailed(f"{reason}; the traceback is in {self.directory.log}") from error

    def _train(self) -> None:
        run = self.run
        problem = self.problem or checked_problem(run)
        self._record_origin(problem)
        saved = self.directory.load_checkpoint()
        first = 0 if saved is None else self._first_task(saved, problem)
        learner = start_learner(run, problem, first)
        count = sum(parameter.numel() for parameter in learner.network.parameters())
        total = learner.steps_per_task * run.tasks
        self.say(f"{run.label}: {run.tasks} tasks of {problem.note}, {count:,} parameters, {total:,} steps")
        self._say_method(learner, first)
        if saved is None:  # what an attempt without a checkpoint left behind is dropped
            self.directory.metrics.touch()
            self.directory.rewind(0)
        else:
            self.say(f"going on at task {first} of {run.tasks}")
            learner.restore(saved["learner"])
            restore_random_state(saved["random"], self.device)
            self.directory.rewind(saved["metrics_size"])
        with self._send(self.sinks):
            if saved is None:
                found = self._measure(learner, problem.task(0))
                self._keep(learner, problem, self._row(learner, -1, 0, 0.0, found))
            score = None
            for index in range(first, run.tasks):
                task = problem.task(index)
                if learner.begin(task):
                    self.say(f"task {index}: {learner.method.info.title} takes over")
                    self._say_method(learner, index)
                score = self._train_on(learner, problem, task, index, score)
        self.say(f"done: {run.tasks} tasks in {self._seconds():.1f} s")

    def send_missing(self) -> None:
        """Of a run that is done: give its rows to the sinks that do not have all of them."""
        missing = [sink for sink in self.sinks if sink.name not in self.status.sinks]
        if missing:
            with self._send(missing) as sending:
                pass
            status = dataclasses.replace(self.status, sinks=[*self.status.sinks, *sending.complete])
            self.directory.write_status(status)

    def _send(self, sinks: Sequence[Sink]) -> Sending:
        run, path, study, rows = self.run, self.directory.path, "", []
        if sinks:
            index = read_index(path.parent)
            study = index.name if index else path.resolve().parent.name
            rows = read_rows(self.directory.metrics)
        source = SentRun(run.id, study, run.label, run.seed, run.to_mapping())
        self._sending = Sending(sinks, source, path, rows, self.say)
        return self._sending

    def _record_origin(self, problem: OpenProblem) -> None:
        """Write down where the result comes from; say so if an earlier attempt ran on other code."""
        run = self.run
        parts = [one.name for one in (run.stream, run.data, run.net, run.method, run.learner) if one]
        origin = provenance(self.device, self.threads, parts)
        if self.earlier.provenance:
            for change in changes(self.earlier.provenance, origin):
                self.say(f"warning: since the interruption, {change}")
        origin["data"] = {"note": problem.note, "fingerprint": problem.fingerprint}
        self._note("running", provenance=origin)

    def _first_task(self, saved: dict[str, Any], problem: OpenProblem) -> int:
        if saved["format"] != FORMAT:
            raise IsoplastError(
                f"{self.directory.checkpoint} is of another version: delete its directory and run again"
            )
        if saved["data"] != problem.fingerprint:
            name = self.run.data.name if self.run.data else self.run.stream.name
            raise IsoplastError(
                f"{self.directory.path} was begun on other data under the name {name!r}: "
                "delete it, or give back the data it was begun on"
            )
        return int(saved["next_task"])

    def _say_method(self, learner: Learner, task: int) -> None:
        for line in learner.report(learner.steps_per_task * (self.run.tasks - task)):
            self.say(line)

    def _train_on(
        self, learner: Learner, problem: OpenProblem, task: Any, index: int, score: float | None
    ) -> float | None:
        before = learner.steps
        start = time.perf_counter()
        for unit in range(learner.units):
            learner.advance()
            self.on_progress(Progress(index, (unit + 1) / learner.units, score, problem.primary))
        seconds = time.perf_counter() - start
        found = self._measure(learner, task)
        self._keep(learner, problem, self._row(learner, index, learner.steps - before, seconds, found))
        names = [problem.primary, *({"loss", "online_loss"} & found.keys())]
        said = [f"{metric(name).label} {found[name]:.4f}" for name in names if name in found]
        self.say(f"task {index}: {', '.join([*said, f'{seconds:.1f} s'])}")
        return found.get(problem.primary)

    def _measure(self, learner: Learner, task: Any) -> dict[str, Any]:
        """The metrics of a task; what cannot be measured of this network is said once."""
        found = learner.measure(task)
        for instrument, reason in learner.unmeasured.items():
            if instrument not in self._unmeasured:
                self._unmeasured.add(instrument)
                self.say(f"warning: {instrument} is left out of the rows: {reason}")
        return found

    @staticmethod
    def _row(
        learner: Learner, task: int, steps: int, seconds: float, found: dict[str, Any]
    ) -> dict[str, Any]:
        head = {"task": task, "method_active": learner.method.name, "steps": steps, "seconds": seconds}
        return head | found

    def _keep(self, learner: Learner, problem: OpenProblem, row: dict[str, Any]) -> None:
        """Make a finished task last: first its row, then the checkpoint that counts it."""
        size = self.directory.append([row])
        self.directory.save_checkpoint(
            {
                "format": FORMAT,
                "run": self.run.id,
                "data": problem.fingerprint,
                "next_task": row["task"] + 1,
                "metrics_size": size,
                "learner": learner.state(),
                "random": random_state(self.device),
            }
        )
        self._note("running", tasks=row["task"] + 1, steps=learner.steps)
        self._sending.send(row)

    def say(self, line: str) -> None:
        """Tell the user, and the log: a label may hold what a terminal obeys."""
        line = escaped(line)
        self.listener(line)
        self._log(line)

    def _log(self, line: str) -> None:
        with self.directory.log.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _fail(self, reason: str, details: str = "") -> None:
        # A full disk may refuse these files as well, and a directory that was taken away gets none.
        with contextlib.suppress(OSError, IsoplastError):
            self._note("failed", reason=reason)
            self._log(f"failed: {reason}\n{details}".rstrip())

    def _note(self, state: State, **changes: Any) -> None:
        memory = max(self.earlier.peak_memory, peak_memory(self.device))
        self.status = dataclasses.replace(
            self.status, state=state, seconds=self._seconds(), peak_memory=memory, **changes
        )
        self.directory.write_status(self.status)

    def _seconds(self) -> float:
        return self.earlier.seconds + time.perf_counter() - self.begin
