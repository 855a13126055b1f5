"""What a study would do: its runs, what they are expected to cost, and how long isometry has to act."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from isoplast._core.errors import IsoplastError, reason_of
from isoplast.data import NotHere, offline
from isoplast.streams import OpenProblem, TaskSequence
from isoplast.study._spec import Run
from isoplast.study._study import Study
from isoplast.study.run._execute import check_threads, module_path, open_problem, start_learner
from isoplast.study.run._learner import Learner
from isoplast.study.run._networks import check_network
from isoplast.study.run._random import reproducible
from isoplast.study.store._directory import RunDirectory, State, Status

_LEAST = 0.5  # seconds of training that are timed, at least one unit of a learner's progress
_PATIENCE = 20.0  # seconds in which a learner must have done its first optimizer step

CostSource = Literal["runs", "method", "measured", "nothing"]


@dataclasses.dataclass(frozen=True)
class IsometryTime:
    """How long the isometry step of a method takes, and how long it has.

    Args:
        shortest, longest: 1 / (8 lr lambda) in optimizer steps, over the matrices under isometry.
        steps: optimizer steps of a run with it.
    """

    shortest: float
    longest: float
    steps: int

    @property
    def elapsed(self) -> float:
        """8 lr lambda x steps: how often the shortest time passes in a run."""
        return self.steps / self.shortest


@dataclasses.dataclass(frozen=True)
class PlannedMethod:
    """A method with its settings on one problem: the runs that differ in their seeds alone.

    Args:
        runs: one for each seed.
        states: how far each of them is.
        steps: optimizer steps of one whole run, taken to have tasks as long as the first; None if unknown.
        isometry: one for each method in force that has the isometry step.
        task_seconds: what a task is expected to take one process; None if unknown.
        start_seconds: what a run is expected to take before its first task, where that is not counted above.
        source: where that comes from: finished tasks of these "runs", finished tasks of the same "method"
            with other settings, "measured" on a few steps just now, "nothing".
        note: why something is unknown, in one line.
    """

    runs: tuple[Run, ...]
    states: tuple[Status, ...]
    steps: int | None = None
    isometry: tuple[IsometryTime, ...] = ()
    task_seconds: float | None = None
    start_seconds: float = 0.0
    source: CostSource = "nothing"
    note: str = ""

    @property
    def tasks_left(self) -> int:
        """Tasks that are not finished, of all these runs."""
        pairs = zip(self.runs, self.states, strict=True)
        return sum(run.tasks - state.tasks for run, state in pairs if state.state != "done")

    @property
    def seconds_left(self) -> float | None:
        """What they are expected to take one process."""
        if not self.tasks_left:
            return 0.0
        if self.task_seconds is None:
            return None
        fresh = sum(not state.tasks for state in self.states)
        return self.tasks_left * self.task_seconds + fresh * self.start_seconds

    def seeds(self, *states: State) -> list[int]:
        """The seeds of the runs in one of these states."""
        return [run.seed for run, one in zip(self.runs, self.states, strict=True) if one.state in states]


def plan_study(
    study: Study,
    out: Path | str,
    *,
    threads: int = 1,
    measure: bool = True,
    listener: Callable[[Run], None] = lambda run: None,
) -> list[PlannedMethod]:
    """What `run_study` would do in a directory. Nothing is written, downloaded or started.

    The cost of a task is the mean over the finished tasks of the same runs; where there are none, over those
    of the same method with other settings; where there are none either, what a few optimizer steps and one
    set of measurements of one run take in this process, with what it takes to read its data. The start of a
    process is left out.

    Args:
        study: what would be run.
        out: directory of the results; need not exist.
        threads: threads of each run, >= 1.
        measure: whether steps may be measured, which takes a second or more for each method.
        listener: called before the steps of a run are measured.

    Returns:
        The methods in the study's order.

    Raises:
        IsoplastError: as `run_study` before it starts anything.

    Example:
        >>> (one,) = plan_study(Study("one", [Run(seed=seed) for seed in (0, 1)]), "nowhere", measure=False)
        >>> one.seeds("waiting"), one.steps, one.isometry[0].shortest
        ([0, 1], 13800, 12500.0)
    """
    check_threads(threads)
    out = Path(out)
    study.check_directory(out)
    groups: dict[Run, list[Run]] = {}
    for run in study.runs:
        groups.setdefault(dataclasses.replace(run, seed=0), []).append(run)
    planned = [
        PlannedMethod(tuple(runs), tuple(RunDirectory(out / run.id).status() for run in runs))
        for runs in groups.values()
    ]
    known = _known_costs(planned)
    with reproducible(threads), offline():
        problems = _Problems()
        looked = []
        for one in planned:
            with study.naming(one.runs[0]):
                looked.append(_looked_at(one, problems))
        return list(_with_costs(study, looked, known, problems, listener if measure else None))


class _Problems:
    """The tasks of runs, opened when they are needed; those of one data set are kept at a time."""

    def __init__(self) -> None:
        self._kept: tuple[object, OpenProblem] | None = None
        self._seconds: dict[object, float] = {}

    def open(self, run: Run) -> OpenProblem:
        """The tasks of a run."""
        key = self._key(run)
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            begin = time.perf_counter()
            self._kept = (key, open_problem(run))
            self._seconds.setdefault(key, time.perf_counter() - begin)
        return self._kept[1]

    def seconds(self, run: Run) -> float:
        """What it took to open them for the first time, as a process of its own would."""
        return self._seconds[self._key(run)]

    @staticmethod
    def _key(run: Run) -> object:
        return run.stream, run.data, run.seed, run.path


def _looked_at(one: PlannedMethod, problems: _Problems) -> PlannedMethod:
    """A method with its steps and its isometry times, as far as its data are here."""
    run = one.runs[0]
    with module_path(run.path):
        try:
            problem = problems.open(run)
        except NotHere as error:
            return dataclasses.replace(one, note=str(error))
        if isinstance(problem, TaskSequence):
            check_network(run, problem)
        parts = [(0, run.tasks)]
        if run.switch is not None:
            parts = [(0, run.switch.task), (run.switch.task, run.tasks)]
        steps, times = 0, []
        for first, end in parts:
            # From the task after it on, a learner is made as the switch leaves it.
            learner = start_learner(run, problem, first and first + 1)
            length = learner.steps_per_task * (end - first)
            steps += length
            found = learner.isometry()
            if found.kept:
                times.append(IsometryTime(*found.time_constants, length))
    return dataclasses.replace(one, steps=steps, isometry=tuple(times))


def _known_costs(planned: Sequence[PlannedMethod]) -> dict[object, float]:
    """Seconds of a task by runs (the first of them) and by kind, over all finished tasks."""
    sums: dict[object, tuple[float, int]] = {}
    for one in planned:
        for key in (one.runs[0], _kind(one.runs[0])):
            seconds, tasks = sums.get(key, (0.0, 0))
            begun = [status for status in one.states if status.tasks]
            seconds += sum(status.seconds for status in begun)
            sums[key] = seconds, tasks + sum(status.tasks for status in begun)
    return {key: seconds / tasks for key, (seconds, tasks) in sums.items() if tasks}


def _kind(run: Run) -> object:
    """What runs share that are expected to cost the same: all but the numbers that a method is set by."""
    switched = None if run.switch is None else (run.switch.task, run.switch.method.name)
    problem = (run.stream, run.data, run.net, run.learner)
    return (*problem, run.method.name, switched, run.device, run.instruments, run.instruments_every, run.path)


def _with_costs(
    study: Study,
    planned: Sequence[PlannedMethod],
    known: Mapping[object, float],
    problems: _Problems,
    listener: Callable[[Run], None] | None,
) -> Iterator[PlannedMethod]:
    """The methods with what a task of them costs; None for a listener if nothing may be measured."""
    measured: dict[object, dict[str, Any]] = {}
    for one in planned:
        run = one.runs[0]
        kind = _kind(run)
        if run in known or not one.tasks_left:
            yield dataclasses.replace(one, task_seconds=known.get(run), source="runs")
        elif kind in known:
            yield dataclasses.replace(one, task_seconds=known[kind], source="method")
        elif one.note or listener is None:
            yield one
        else:
            if kind not in measured:
                listener(run)
                with study.naming(run):
                    measured[kind] = _measured(run, problems)
            yield dataclasses.replace(one, **measured[kind])


def _measured(run: Run, problems: _Problems) -> dict[str, Any]:
    """What a run and a task of it take, from a few steps; or why nobody can tell."""
    with module_path(run.path):
        problem = problems.open(run)
        try:
            task, measuring = _time_task(start_learner(run, problem, 0), problem.task(0))
            seldom = measuring
            if run.instruments_every > 1:
                untrained = start_learner(run, problem, 0)
                begin = time.perf_counter()
                untrained.measure(untrained.shortened(problem.task(0))[0])
                measuring = max(seldom, time.perf_counter() - begin)
                seldom += (measuring - seldom) / run.instruments_every
        except IsoplastError:
            raise
        except Exception as error:  # whatever training raises: the run itself would fail with it
            return {"note": reason_of(error)}
    # Before its first task a run reads its data, and measures the untrained network.
    start = problems.seconds(run) + measuring
    return {"task_seconds": task + seldom, "start_seconds": start, "source": "measured"}


def _time_task(learner: Learner, whole: Any) -> tuple[float, float]:
    """Seconds of training on a task, taken from a shortened one, and of measuring it."""
    task, share = learner.shortened(whole)
    learner.begin(task)
    begin = time.perf_counter()
    while not learner.steps:  # the first steps make what later ones find there
        learner.advance()
        if time.perf_counter() - begin > _PATIENCE:
            raise TimeoutError(f"no optimizer step within {_PATIENCE:.0f} s")
    units, begin = 0, time.perf_counter()
    while not units or time.perf_counter() - begin < _LEAST:
        learner.advance()
        units += 1
    unit_seconds = (time.perf_counter() - begin) / units
    begin = time.perf_counter()
    learner.measure(task)
    return unit_seconds / share * learner.units, time.perf_counter() - begin
