"""What an executor is: something that does runs, somewhere, and tells how it goes."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from isoplast._core.registry import Registry
from isoplast._core.settings import converted
from isoplast.study._parts import Part
from isoplast.study._spec import Run
from isoplast.study.run._execute import Progress
from isoplast.study.store._directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to do, and where. Its directory describes it, wherever that can be seen.

    Args:
        run: what to run.
        directory: where its results go; spec.yaml is there already.
        threads: of the process that does it.
        sinks: where its rows go besides its directory.
    """

    run: Run
    directory: RunDirectory
    threads: int = 1
    sinks: tuple[Part, ...] = ()

    def command(self, python: str) -> list[str]:
        """The command line that does the run, wherever the directory can be seen.

        Modules of the current directory are not found by the process it starts: an empty entry on the path
        is removed before anything is imported. What modules print while they are imported goes to standard
        error; standard output carries one JSON object per line.

        Args:
            python: the interpreter, `sys.executable` for this machine's.
        """
        start = (
            "import sys; sys.path[:] = [p for p in sys.path if p]; "
            "import os; events = os.dup(1); os.dup2(2, 1); "
            "from isoplast.study import worker; sys.exit(worker(events))"
        )
        folder = str(self.directory.path.resolve())
        return [python, "-c", start, folder, str(self.threads), self.sink_words()]

    def sink_words(self) -> str:
        """The sinks as JSON, for another process."""
        return json.dumps([one.to_mapping() for one in self.sinks])

    def environment(self) -> dict[str, str]:
        """Variables that the process must be started with."""
        return {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        run: which one.
        directory: where its results are.
        failure: why it failed, in one line; None if it is done.
        score: the primary metric after its last finished task, where that is known.
    """

    run: Run
    directory: RunDirectory
    failure: str | None = None
    score: float | None = None


class Display(Protocol):
    """Somebody who wants to know how a study is going."""

    def started(self, run: Run) -> None:
        """A worker begins with a run."""

    def progressed(self, run: Run, progress: Progress) -> None:
        """A worker has made some progress."""

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


@dataclasses.dataclass(frozen=True)
class Executor(ABC):
    """Does jobs; its fields are its settings. It is left with no worker behind, however that happens.

    A new one (a cluster's, say) starts `job.command(...)` somewhere, follows the worker's events or the
    `status()` of the job's directory, and yields an outcome for every job. A worker that dies takes its own
    job with it and no other; the same job can be started again anywhere and goes on from its checkpoint.

    Attributes:
        name: what the command line calls it.
        isolated: whether jobs run in processes of their own, which must be able to import all parts.
    """

    name: ClassVar[str]
    isolated: ClassVar[bool] = True

    @abstractmethod
    def execute(self, jobs: Sequence[Job], at_once: int | None, display: Display) -> Iterator[Outcome]:
        """Do all jobs, in any order; yields how each ended, as it ends.

        Args:
            jobs: what to do.
            at_once: how many may run at the same time, >= 1; None: as many as there is room for.
            display: told how it goes, from the thread that iterates.
        """


EXECUTORS: Registry[Executor] = Registry("executor", Executor, "isoplast.executors")


def make_executor(name: str, settings: Mapping[str, Any] | None = None) -> Executor:
    """An executor by its name.

    Args:
        name: one of `EXECUTORS`.
        settings: some of its settings; the others keep their defaults.

    Raises:
        IsoplastError: there is no such executor, or no such setting, or a value is of another type or out of
            range.

    Example:
        >>> make_executor("local")
        LocalExecutor()
    """
    kind = EXECUTORS.find(name)
    return kind(**converted(kind, f"executor {name}", settings or {}))
