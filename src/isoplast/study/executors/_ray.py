"""Runs on a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from isoplast._core.errors import IsoplastError
from isoplast.study.executors._base import EXECUTORS, Job
from isoplast.study.executors._cluster import ClusterExecutor, Ended, Ticket, check_settings, do_run


@EXECUTORS.register
@dataclasses.dataclass(frozen=True)
class RayExecutor(ClusterExecutor):
    """Runs as tasks of a Ray cluster; one whose machine dies goes on on another from its checkpoint.

    Args:
        address: of the cluster: "auto", "host:port" or "ray://host:port"; None starts one on this machine,
            unless the variable RAY_ADDRESS names one.
        gpus: that a run on CUDA takes, > 0; two runs share one at 0.5. Above 1 a whole number.
        memory: GiB that Ray sets aside for a run, > 0; None: none.
        retries: how often a run is tried again after its machine was lost, >= 0.

    Raises:
        IsoplastError: a setting is out of range; on execution: Ray is not installed, the cluster does not
            answer, or none of its machines has as many processors, GPUs or as much memory as a run asks for.

    Example:
        `isoplast study demo --executor ray executor.address=auto`

    Reference:
        https://docs.ray.io/en/latest/ray-core/tasks.html
    """

    name: ClassVar[str] = "ray"

    address: str | None = None
    gpus: float = 1.0
    memory: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        check_settings(self, positive=("gpus", "memory"), counts={"retries": 0})
        if self.gpus > 1 and not self.gpus.is_integer():
            raise IsoplastError(f"gpus of executor ray is {self.gpus:g}: above 1 it must be a whole number")

    @contextlib.contextmanager
    def connected(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Connect to the cluster, or start one; leave it afterwards."""
        ray = _ray()
        if ray.is_initialized():
            self._check(jobs)
            yield
            return
        try:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error).strip().partition("\n")[0]
            raise IsoplastError(f"the Ray cluster at {self.address!r} does not answer: {said}") from None
        try:
            self._check(jobs)
            yield
        finally:
            ray.shutdown()

    def submit(self, jobs: Sequence[Job]) -> list[Ticket]:
        """Make a task of every job."""
        return [_RayTicket(self._task(job)) for job in jobs]

    def _resources(self, job: Job) -> dict[str, float]:
        wanted: dict[str, float] = {"CPU": job.threads}
        if job.run.device.startswith("cuda"):
            wanted["GPU"] = self.gpus
        if self.memory is not None:
            wanted["memory"] = self.memory * 2**30
        return wanted

    def _task(self, job: Job) -> Any:
        wanted = self._resources(job)
        # Ray's own retries would not go on where a run has stopped twice, nor end where memory runs out.
        remote = _ray().remote(
            num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0), memory=wanted.get("memory"), max_retries=0
        )(do_run)
        return remote.remote(str(job.directory.path.resolve()), job.threads, job.sink_words())

    def _check(self, jobs: Sequence[Job]) -> None:
        machines = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        for wanted in {tuple(self._resources(job).items()): None for job in jobs}:
            if not any(all(machine.get(kind, 0) >= n for kind, n in wanted) for machine in machines):
                said = ", ".join(f"{n:g} {kind}" for kind, n in wanted)
                raise IsoplastError(
                    f"no machine of the Ray cluster has {said}: give fewer --threads, or less executor.gpus "
                    "or executor.memory"
                )


@dataclasses.dataclass
class _RayTicket:
    reference: Any

    def ended(self) -> Ended | None:
        ray = _ray()
        done, _ = ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return Ended(*ray.get(self.reference))
        except ray.exceptions.OutOfMemoryError:
            return Ended("out of memory: Ray ended it because its machine had none left")
        except (ray.exceptions.RayTaskError, ray.exceptions.TaskUnschedulableError) as error:
            return Ended(str(error).strip().rpartition("\n")[2])
        except ray.exceptions.RayError as error:  # of a worker, a node, an object that is gone with one
            return Ended(f"{type(error).__name__} (its machine or worker is gone)", lost=True)

    def cancel(self) -> None:
        _ray().cancel(self.reference, force=True)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise IsoplastError('executor ray needs Ray: pip install "isoplast[ray]"') from None
    return ray
