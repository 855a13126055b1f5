"""Studies on clusters, for real: a Ray cluster of two nodes, and submitit's executor without Slurm."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from same_bits import assert_same_bits

from isoplast._core.errors import IsoplastError
from isoplast.study import Job, Progress, Run, RunDirectory, Study, execute, make_executor, run_study
from isoplast.study.executors import _cluster, _slurm
from isoplast.study.executors._cluster import ClusterExecutor, Ended, do_run

# 6 tasks of about half a second.
RUN = "{samples: 128, tasks: 6, epochs: 60, lr: 3e-3, net: {name: mlp, width: 16}, instruments: false}"
# The same for five seconds, to be hit in the middle.
LONG = f"{{name: long, run: {RUN.replace('epochs: 60', 'epochs: 400')}, methods: [adamo]}}"
TWO = f"{{name: two, run: {RUN}, methods: [adam, adamo]}}"
HOPELESS = (
    "{name: hopeless, run: {samples: 64, tasks: 1, epochs: 1, net: {name: mlp, width: 8}},"
    " methods: [{label: bad, method: adam, lr: 1e30}, {label: good, method: adam}]}"
)


class Recorder:
    """A display that remembers."""

    def __init__(self, on_progress: Callable[[], None] = lambda: None) -> None:
        self.events: list[str] = []
        self.on_progress = on_progress

    def started(self, run: Run) -> None:
        self.events.append(f"started {run.label}")

    def progressed(self, run: Run, progress: Progress) -> None:
        self.events.append(f"progressed {run.label}")
        self.on_progress()

    def ended(self, outcome: Any) -> None:
        self.events.append(f"ended {outcome.run.label}")


def in_order(events: Sequence[str], label: str) -> bool:
    """Whether a run started once, then made progress, then ended once."""
    own = [event.partition(" ")[0] for event in events if event.endswith(f" {label}")]
    return own[0] == "started" and own[-1] == "ended" and set(own[1:-1]) <= {"progressed"}


class FakeCluster(ClusterExecutor):
    """A scheduler whose machines go away as told; what it does not lose is done here at once."""

    name: ClassVar[str] = "fake"
    retries = 2

    def __init__(self, losses: Sequence[Callable[[Job], Ended | None]]) -> None:
        object.__setattr__(self, "losses", list(losses))
        object.__setattr__(self, "cancelled", [])
        object.__setattr__(self, "most", [])

    @contextlib.contextmanager
    def connected(self, jobs: Sequence[Job]) -> Iterator[None]:
        yield

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        self.most.append(len(jobs))  # type: ignore[attr-defined]
        return [FakeTicket(self, job) for job in jobs]


class FakeTicket:
    def __init__(self, cluster: Any, job: Job) -> None:
        self.cluster, self.job = cluster, job

    def ended(self) -> Ended | None:
        if self.cluster.losses:
            return self.cluster.losses.pop(0)(self.job)
        return Ended(*do_run(str(self.job.directory.path), self.job.threads, self.job.sink_words()))

    def cancel(self) -> None:
        self.cluster.cancelled.append(self.job.run.label)


def lose(job: Job) -> Ended:
    return Ended("the machine is gone", lost=True)


def one_more_task(job: Job) -> Ended:
    """A machine that finishes a task and is gone."""
    done = job.directory.status().tasks

    def stop(progress: Progress) -> None:
        if progress.task > done:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        execute(job.run, job.directory.path.parent, on_progress=stop)
    assert job.directory.status().tasks == done + 1
    return lose(job)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cluster, "_POLL", 0.01)


SMALL = (
    "{name: small, run: {samples: 64, tasks: 4, epochs: 2, net: {name: mlp, width: 8}, instruments: false}}"
)


def test_a_lost_run_is_tried_again_and_then_has_failed(tmp_path: Path) -> None:
    study = Study.parse(SMALL)
    (outcome,) = run_study(study, tmp_path / "two", executor=FakeCluster([lose, lose]))
    assert outcome.failure is None
    (outcome,) = run_study(study, tmp_path / "three", executor=FakeCluster([lose, lose, lose]))
    assert outcome.failure == "the machine is gone"
    status = outcome.directory.status()
    assert (status.state, status.reason) == ("failed", "lost 3 times: the machine is gone")
    (outcome,) = run_study(study, tmp_path / "three", executor="inline")
    assert outcome.failure is None


def test_an_end_that_the_run_could_not_write_down_is_written_down(tmp_path: Path) -> None:
    """As when the scheduler ends what takes more memory than it asked for."""
    cluster = FakeCluster([lambda job: Ended("out of memory: the scheduler ended it")])
    (outcome,) = run_study(Study.parse(SMALL), tmp_path, executor=cluster)
    status = outcome.directory.status()
    assert outcome.failure == status.reason == "out of memory: the scheduler ended it"
    assert status.state == "failed"


class FakeJob:
    """A job of submitit that ended without a result."""

    job_id = "7"

    def __init__(self, state: str) -> None:
        self.state = state

    def done(self) -> bool:
        return True

    def result(self) -> None:
        import submitit

        raise submitit.core.utils.UncompletedJobError("no result\n")


@pytest.mark.parametrize(
    ("state", "lost", "said"),
    [
        ("NODE_FAIL", True, "ended in state NODE_FAIL without a result"),
        ("CANCELLED by 1000", False, "ended in state CANCELLED without a result"),
        ("OUT_OF_MEMORY", False, "out of memory"),
    ],
)
def test_what_the_states_of_slurm_mean(state: str, lost: bool, said: str) -> None:
    pytest.importorskip("submitit")
    ended = _slurm._SlurmTicket(FakeJob(state)).ended()
    assert ended is not None
    assert ended.lost is lost
    assert said in str(ended.failure)


def test_losses_count_anew_after_a_finished_task(tmp_path: Path) -> None:
    losses = [lose, lose, one_more_task, lose, one_more_task, lose]
    (outcome,) = run_study(Study.parse(SMALL), tmp_path, executor=FakeCluster(losses))
    assert outcome.failure is None
    (whole,) = run_study(Study.parse(SMALL), tmp_path / "whole", executor="inline")
    assert_same_bits(outcome.directory.path, whole.directory.path)


def test_no_more_run_at_once_than_allowed_and_none_is_left(tmp_path: Path) -> None:
    study = Study.parse(SMALL.replace("small}", "small").replace("false}}", "false}, seeds: [0, 1, 2]}"))
    cluster = FakeCluster([lambda job: None] * 4)
    assert not [one for one in run_study(study, tmp_path, jobs=2, executor=cluster) if one.failure]
    assert max(cluster.most) <= 2  # type: ignore[attr-defined]

    def interrupt(job: Job) -> Ended | None:
        raise KeyboardInterrupt

    cluster = FakeCluster([interrupt])
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "again", executor=cluster)
    assert len(cluster.cancelled) == 3  # type: ignore[attr-defined]


def test_a_directory_that_a_machine_does_not_see_is_named(tmp_path: Path) -> None:
    failure, score = do_run(str(tmp_path / "nowhere"), 1)
    assert failure is not None
    assert "nowhere is not there on" in failure
    assert "--out" in failure
    assert score is None


def test_settings_of_an_executor_are_checked() -> None:
    made = make_executor("slurm", {"partition": "gpu", "minutes": 30, "memory": 4})
    assert (made.partition, made.minutes, made.memory) == ("gpu", 30, 4.0)  # type: ignore[attr-defined]
    with pytest.raises(IsoplastError, match=r"unknown setting of executor slurm 'partitoin': did you mean"):
        make_executor("slurm", {"partitoin": "gpu"})
    with pytest.raises(IsoplastError, match="minutes of executor slurm"):
        make_executor("slurm", {"minutes": "long"})
    with pytest.raises(IsoplastError, match="executor local has no settings: leave 'gpus' out"):
        make_executor("local", {"gpus": 1})
    with pytest.raises(IsoplastError, match="unknown executor 'slrum': did you mean 'slurm'"):
        make_executor("slrum")


@pytest.mark.parametrize(
    ("name", "setting", "value", "words"),
    [
        ("ray", "gpus", -1, "gpus of executor ray is -1: it must be above 0"),
        ("ray", "gpus", 0, "gpus of executor ray is 0: it must be above 0"),
        ("ray", "gpus", 1.5, "gpus of executor ray is 1.5: above 1 it must be a whole number"),
        ("ray", "memory", -3, "memory of executor ray is -3"),
        ("ray", "retries", -1, "retries of executor ray is -1: it must be a whole number >= 0"),
        ("slurm", "minutes", 0, "minutes of executor slurm is 0: it must be a whole number >= 1"),
        ("slurm", "gpus", 0, "gpus of executor slurm is 0"),
        ("slurm", "memory", 0.0, "memory of executor slurm is 0"),
        ("slurm", "retries", -1, "retries of executor slurm is -1"),
        ("slurm", "options", "bad", "options of executor slurm is 'bad': write account=vision"),
        (
            "slurm",
            "cluster",
            "nosuch",
            "cluster of executor slurm is 'nosuch': it must be 'slurm' or 'local'",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_when_the_executor_is_made(
    name: str, setting: str, value: object, words: str
) -> None:
    with pytest.raises(IsoplastError) as found:
        make_executor(name, {setting: value})
    assert words in str(found.value)


class TestSubmitit:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("submitit")

    def test_slurm_that_is_not_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(IsoplastError, match="Slurm is not there"):
            run_study(Study.parse(SMALL), tmp_path, executor="slurm")

    @pytest.mark.skipif(os.name == "nt", reason="a command here is a script of sh")
    def test_jobs_that_slurm_refuses_are_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = "sbatch: error: invalid partition specified: nosuch"
        for name, text in (("srun", "exit 0"), ("sbatch", f"echo '{said}' >&2; exit 1")):
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        where = make_executor("slurm", {"partition": "nosuch"})
        with pytest.raises(IsoplastError, match=f"Slurm refused the jobs: {said}"):
            run_study(Study.parse(SMALL), tmp_path / "out", executor=where)

    @pytest.mark.slow
    def test_it_gives_the_bits_of_a_local_study(self, tmp_path: Path) -> None:
        seen = Recorder()
        where = make_executor("slurm", {"cluster": "local"})
        outcomes = run_study(Study.parse(TWO), tmp_path / "slurm", executor=where, display=seen)
        for outcome in outcomes:
            assert outcome.failure is None
            assert in_order(seen.events, outcome.run.label)
            whole = execute(outcome.run, tmp_path / "here")
            assert_same_bits(outcome.directory.path, whole.path)

    @pytest.mark.slow
    def test_a_run_that_fails_is_no_lost_one(self, tmp_path: Path) -> None:
        where = make_executor("slurm", {"cluster": "local"})
        bad, good = run_study(Study.parse(HOPELESS), tmp_path, executor=where)
        assert "loss" in str(bad.failure)
        assert bad.directory.status().attempts == 1
        assert good.failure is None

    @pytest.mark.slow
    def test_a_killed_job_goes_on_from_its_checkpoint(self, tmp_path: Path) -> None:
        killed: list[int] = []

        def kill() -> None:
            for words in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    said = words.read_text()
                    if "submitit.core._submit" in said and str(tmp_path) in said and not killed:
                        killed.append(int(words.parent.name))
                        os.kill(killed[0], signal.SIGKILL)

        study = Study.parse(LONG)
        where = make_executor("slurm", {"cluster": "local"})
        (outcome,) = run_study(study, tmp_path / "slurm", executor=where, display=Recorder(kill))
        assert killed
        assert outcome.failure is None
        assert outcome.directory.status().attempts == 2
        assert_same_bits(outcome.directory.path, execute(outcome.run, tmp_path / "here").path)


@pytest.mark.slow
class TestRay:
    @pytest.fixture
    def cluster(self) -> Iterator[Any]:
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            yield nodes
        finally:
            nodes.shutdown()

    def test_a_run_goes_on_on_another_node(self, cluster: Any, tmp_path: Path) -> None:
        first = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        killed: list[float] = []

        def kill() -> None:
            if not killed:
                killed.append(time.monotonic())
                cluster.remove_node(first, allow_graceful=False)
                cluster.add_node(num_cpus=1)

        study = Study.parse(LONG)
        where = make_executor("ray", {"address": cluster.address})
        seen = Recorder(kill)
        (outcome,) = run_study(study, tmp_path / "ray", executor=where, display=seen)
        assert killed
        assert outcome.failure is None
        assert outcome.directory.status().attempts == 2
        assert in_order(seen.events, outcome.run.label)
        assert_same_bits(outcome.directory.path, execute(outcome.run, tmp_path / "here").path)

    def test_failures_and_impossible_demands(self, cluster: Any, tmp_path: Path) -> None:
        cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        where = make_executor("ray", {"address": cluster.address})
        bad, good = run_study(Study.parse(HOPELESS), tmp_path, executor=where)
        assert "loss" in str(bad.failure)
        assert bad.directory.status().attempts == 1
        assert good.failure is None
        with pytest.raises(IsoplastError, match="no machine of the Ray cluster has 64 CPU"):
            run_study(Study.parse(SMALL), tmp_path / "many", threads=64, executor=where)
        assert RunDirectory(tmp_path / "many" / Study.parse(SMALL).runs[0].id).status().attempts == 0
