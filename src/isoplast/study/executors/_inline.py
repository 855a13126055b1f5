"""Runs one after the other in this very process: for notebooks, debuggers and objects nobody can import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from isoplast._core.errors import IsoplastError
from isoplast.study.executors._base import EXECUTORS, Display, Executor, Job, Outcome
from isoplast.study.run._execute import Progress, RunFailed, execute


@EXECUTORS.register
class InlineExecutor(Executor):
    """One run after the other, here. A crash of one ends them all."""

    name: ClassVar[str] = "inline"
    isolated: ClassVar[bool] = False

    def execute(self, jobs: Sequence[Job], at_once: int | None, display: Display) -> Iterator[Outcome]:
        """Do all jobs in order; `at_once` has no meaning here."""
        for job in jobs:
            scores: list[float | None] = [None]

            def progressed(progress: Progress, job: Job = job, scores: list[float | None] = scores) -> None:
                scores.append(progress.score)
                display.progressed(job.run, progress)

            display.started(job.run)
            failure = None
            try:
                execute(
                    job.run,
                    job.directory.path.parent,
                    threads=job.threads,
                    sinks=job.sinks,
                    on_progress=progressed,
                )
            except (RunFailed, IsoplastError) as error:
                failure = str(error)
            outcome = Outcome(job.run, job.directory, failure, scores[-1])
            display.ended(outcome)
            yield outcome
