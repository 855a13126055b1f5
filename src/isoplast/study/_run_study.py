"""Doing the runs of a study that are not done yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isoplast.streams import OpenProblem, TaskSequence
from isoplast.study._spec import Run, whole
from isoplast.study._study import Study
from isoplast.study.executors._base import Display, Executor, Job, Outcome, Silent, make_executor
from isoplast.study.run._execute import check_threads, execute, module_path, open_problem
from isoplast.study.run._networks import check_network
from isoplast.study.sinks._sending import opened
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._lock import DirectoryLock


def run_study(
    study: Study,
    out: Path | str,
    *,
    jobs: int | None = None,
    threads: int = 1,
    display: Display | None = None,
    executor: str | Executor = "local",
) -> list[Outcome]:
    """Do the runs of a study that are not done yet.

    Started again after any interruption it goes on where it stopped. A worker that dies takes its own run
    with it, which is then marked as failed; a failed run is tried again when the study is started again.

    Args:
        study: what to run.
        out: directory of the results, made if need be.
        jobs: number of runs at the same time, >= 1; None: as many as the executor has room for.
        threads: threads of each run, >= 1; the bits of a result depend on it.
        display: is told how it goes.
        executor: where: "local" (processes on this machine), "inline" (one after the other in this
            process), "ray", "slurm", the name of another one, or an `Executor`.

    Returns:
        How each run ended, in the study's order.

    Raises:
        RunLocked: another process runs a study in this directory.
        IsoplastError: the directory holds another study or a damaged file, data or the package of a sink
            cannot be had, data, stream and network of a run do not go together, or jobs or threads are out of
            range. No run has been started then, and a new one has no directory.
    """
    if jobs is not None:
        whole("jobs", jobs, 1)
    check_threads(threads)
    chosen = executor if isinstance(executor, Executor) else make_executor(executor)
    with module_path(tuple(dict.fromkeys(folder for run in study.runs for folder in run.path))):
        opened(study.sinks)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with DirectoryLock(out) as lock:
        study.check_directory(out)
        undone = [run for run in study.runs if RunDirectory(out / run.id).status().state != "done"]
        _check_tasks(study, undone)
        study.describe(out)
        directories = {run: RunDirectory.create(out, run) for run in study.runs}
        outcomes = {run: Outcome(run, directory) for run, directory in directories.items()}
        missing = _missing(directories)
        _send_missing(study, directories, missing)
        todo = [Job(run, directories[run], threads, tuple(study.sinks)) for run in missing]
        for outcome in chosen.execute(todo, jobs, display or Silent()):
            outcomes[outcome.run] = outcome
            lock.check()
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


def _send_missing(study: Study, directories: Mapping[Run, RunDirectory], missing: list[Run]) -> None:
    """Send the rows of finished runs to the sinks that have not had all of them."""
    for run, directory in directories.items():
        if run not in missing and {*study.sink_names} - {*directory.status().sinks}:
            execute(run, directory.path.parent, sinks=study.sinks)


def _check_tasks(study: Study, runs: list[Run]) -> None:
    """Open every problem once: a download is made by no worker, bad data stop nothing half-way.

    Of streams of data the networks are tried too: one that cannot take the inputs stops nothing half-way.
    """
    opened: dict[object, OpenProblem] = {}
    for run in {(run.stream, run.data, run.net, run.path): run for run in runs}.values():
        key = (run.stream, run.data, run.path)
        with study.naming(run), module_path(run.path):
            if key not in opened:
                opened = {key: open_problem(run)}  # of one data set at a time
            problem = opened[key]
            if isinstance(problem, TaskSequence):
                check_network(run, problem)
