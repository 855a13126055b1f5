"""Runs as jobs of Slurm, by submitit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from isoplast._core.errors import IsoplastError
from isoplast.study.executors._base import EXECUTORS, Job
from isoplast.study.executors._cluster import ClusterExecutor, Ended, Ticket, check_settings, do_run

_OUT_OF_MEMORY = ("OUT_OF_ME", "OUT_OF_MEMORY")  # sacct may cut the word


@EXECUTORS.register
@dataclasses.dataclass(frozen=True)
class SlurmExecutor(ClusterExecutor):
    """Runs as jobs of Slurm: one array, of which jobs that reach their time limit are queued again.

    The process that submits stays and follows the jobs; when it ends they are cancelled, and the same
    command goes on from their checkpoints.

    Args:
        partition: of the cluster; None: its default one.
        minutes: time limit of one attempt, >= 1.
        memory: GiB for a run, > 0; None: the cluster's default.
        gpus: GPUs for a run on CUDA, >= 1.
        options: further options of sbatch by their long names: "account=vision,qos=high".
        cluster: "slurm", "local" (processes on this machine) or None: Slurm where it is there.
        retries: how often a run is tried again after its machine was lost, >= 0.

    Raises:
        IsoplastError: a setting is out of range; on execution: submitit is not installed, Slurm is not there,
            or it refuses the jobs.

    Example:
        `isoplast study demo --executor slurm executor.partition=gpu executor.minutes=240`

    Reference:
        https://github.com/facebookincubator/submitit
    """

    name: ClassVar[str] = "slurm"

    partition: str | None = None
    minutes: int = 24 * 60
    memory: float | None = None
    gpus: int = 1
    options: str = ""
    cluster: Literal["slurm", "local"] | None = "slurm"
    retries: int = 3

    def __post_init__(self) -> None:
        check_settings(self, positive=("memory",), counts={"minutes": 1, "gpus": 1, "retries": 0})
        _pairs(self.options)

    @contextlib.contextmanager
    def connected(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Look whether Slurm is there."""
        self._executor(jobs[0])
        yield

    def submit(self, jobs: Sequence[Job]) -> list[Ticket]:
        """Submit jobs that ask for the same as one array."""
        tickets: dict[int, Ticket] = {}
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for place, job in enumerate(jobs):
            kinds.setdefault((job.threads, job.run.device), []).append(place)
        for places in kinds.values():
            executor = self._executor(jobs[places[0]])
            utils = _submitit().core.utils
            try:
                with executor.batch():
                    submitted = [executor.submit(_Attempt(), *_arguments(jobs[place])) for place in places]
            except (utils.FailedJobError, utils.FailedSubmissionError) as error:
                for ticket in tickets.values():
                    ticket.cancel()
                raise IsoplastError(f"Slurm refused the jobs: {str(error).strip()}") from None
            tickets |= {place: _SlurmTicket(job) for place, job in zip(places, submitted, strict=True)}
        return [tickets[place] for place in range(len(jobs))]

    def _executor(self, job: Job) -> Any:
        submitit = _submitit()
        folder = job.directory.path.parent / "slurm" / "%j"
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        except RuntimeError as error:
            raise IsoplastError(f"Slurm is not there: {str(error).strip().partition(chr(10))[0]}") from None
        settings: dict[str, Any] = {
            "name": "isoplast",
            "cpus_per_task": job.threads,
            "timeout_min": self.minutes,
            "slurm_partition": self.partition,
            "mem_gb": self.memory,
            "gpus_per_node": self.gpus if job.run.device.startswith("cuda") else None,
            "slurm_additional_parameters": _pairs(self.options) or None,
        }
        executor.update_parameters(**{key: value for key, value in settings.items() if value is not None})
        return executor


class _Attempt:
    """What a job does; at its time limit it is queued again, and the run goes on from its checkpoint."""

    def __call__(self, folder: str, threads: int, sinks: str) -> tuple[str | None, float | None]:
        return do_run(folder, threads, sinks)

    def checkpoint(self, folder: str, threads: int, sinks: str) -> Any:
        """Called before the time limit."""
        return _submitit().helpers.DelayedSubmission(self, folder, threads, sinks)


def _pairs(options: str) -> dict[str, str]:
    pairs = [one.partition("=") for one in options.split(",") if one]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise IsoplastError(f"options of executor slurm is {options!r}: write account=vision,qos=high")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _arguments(job: Job) -> tuple[str, int, str]:
    return str(job.directory.path.resolve()), job.threads, job.sink_words()


@dataclasses.dataclass
class _SlurmTicket:
    job: Any

    def ended(self) -> Ended | None:
        if not self.job.done():
            return None
        state = str(self.job.state).partition(" ")[0]
        if state in _OUT_OF_MEMORY:
            return Ended("out of memory: Slurm ended it; give more executor.memory")
        try:
            return Ended(*self.job.result())
        except _submitit().core.utils.UncompletedJobError:  # it left no result, as when its machine is gone
            said = f"Slurm's job {self.job.job_id} ended in state {state} without a result"
            return Ended(said, lost=not state.startswith("CANCELLED"))
        except Exception as error:  # what it raised
            return Ended(f"Slurm's job {self.job.job_id}: {str(error).strip().rpartition(chr(10))[2]}")

    def cancel(self) -> None:
        self.job.cancel()


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise IsoplastError('executor slurm needs submitit: pip install "isoplast[slurm]"') from None
    return submitit
