"""One run in this process: the same bits every time, whatever happened on the way."""

from __future__ import annotations

import dataclasses
import errno
import functools
import io
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from same_bits import assert_same_bits, rows_without_seconds
from torch import Tensor, nn

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import MethodInfo, StepContext, TaskContext
from isoplast.study import Run, RunDirectory, RunFailed, RunLocked, Status, Switch, execute
from isoplast.study.run import _instruments, _supervised
from isoplast.study.run._random import random_state, restore_random_state, seed_everything
from isoplast.study.store import _directory, _files
from isoplast.study.store._lock import DirectoryLock

MakeRun = Callable[..., Run]


def crash_in_child(run: Run, parent: Path, before: Callable[[], None]) -> int:
    """Execute a run in a forked process, after `before()` in that process; returns how it ended."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            before()
            execute(run, parent)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_call(number: int, module: Any, name: str) -> Callable[[], None]:
    """Lets a process die by SIGKILL at the n-th call of a function."""

    def install() -> None:
        original, calls = getattr(module, name), iter(range(number))

        def dying(*arguments: Any, **named: Any) -> Any:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        setattr(module, name, dying)

    return install


def test_the_same_run_gives_the_same_bits(rescue: Run, tmp_path: Path) -> None:
    one = execute(rescue, tmp_path / "one")
    torch.rand(7), np.random.rand(7), random.random()  # noqa: NPY002 -- nobody's draws may matter
    other = execute(rescue, tmp_path / "other")
    assert_same_bits(one.path, other.path)


def test_another_seed_gives_other_tasks_weights_and_order(tiny: MakeRun, tmp_path: Path) -> None:
    rows = [rows_without_seconds(execute(tiny(seed=seed), tmp_path)) for seed in (0, 1)]
    assert rows[0][0]["loss"] != rows[1][0]["loss"]
    assert rows[0][-1]["loss"] != rows[1][-1]["loss"]


def test_rows_of_a_run(rescue: Run, tmp_path: Path) -> None:
    directory = execute(rescue, tmp_path)
    rows = _files.read_rows(directory.metrics)
    assert [row["task"] for row in rows] == [-1, 0, 1, 2]
    assert [row["steps"] for row in rows] == [0, 4, 4, 4]
    assert [row["method_active"] for row in rows] == ["adam", "adam", "adamo", "adamo"]
    assert all(row["chance"] == 0.1 for row in rows)
    assert rows[0]["layers"] == ["layers.0", "layers.1", "head"]
    assert rows[0]["units"] == ["activations.0", "activations.1"]
    assert rows[0]["sigma_min"] == pytest.approx(
        [1, 1, 1], abs=1e-5
    )  # orthogonal in float32: 1e-7 x 64 terms


def test_a_finished_run_is_not_done_again(tiny: MakeRun, tmp_path: Path) -> None:
    directory = execute(tiny(), tmp_path)
    results = [path for path in directory.path.iterdir() if not path.name.startswith(".")]
    before = {path.name: path.stat().st_mtime_ns for path in results}
    execute(tiny(), tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in results} == before


def test_the_callers_settings_and_random_numbers_are_left_alone(tiny: MakeRun, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    execute(tiny(), tmp_path, threads=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[1:]


# Every write of a run of 3 tasks passes through one of these two; the numbers cover all of its calls, from
# before the first row to after the last checkpoint, and the last ones are never reached.
@pytest.mark.parametrize("call", range(0, 34, 3))
def test_killed_before_any_fsync_it_goes_on_to_the_same_bits(
    rescue: Run, whole_rescue: Path, tmp_path: Path, call: int
) -> None:
    code = crash_in_child(rescue, tmp_path / "killed", kill_at_call(call, os, "fsync"))
    assert code in (-signal.SIGKILL, 0)
    resumed = execute(rescue, tmp_path / "killed")
    assert_same_bits(resumed.path, whole_rescue)
    assert not list(resumed.path.glob("*.tmp"))


@pytest.mark.parametrize("call", range(12))
def test_killed_before_any_rename_it_goes_on_to_the_same_bits(
    rescue: Run, whole_rescue: Path, tmp_path: Path, call: int
) -> None:
    code = crash_in_child(rescue, tmp_path / "killed", kill_at_call(call, Path, "replace"))
    assert code == -signal.SIGKILL
    resumed = execute(rescue, tmp_path / "killed")
    assert_same_bits(resumed.path, whole_rescue)


def test_killed_again_and_again_it_still_ends_with_the_same_bits(
    rescue: Run, whole_rescue: Path, tmp_path: Path
) -> None:
    kills = 0
    while crash_in_child(rescue, tmp_path / "killed", kill_at_call(8, os, "fsync")):
        kills += 1
        assert kills < 20
    assert kills > 1
    assert_same_bits(tmp_path / "killed" / rescue.id, whole_rescue)


def test_a_killed_run_reads_as_interrupted(tiny: MakeRun, tmp_path: Path) -> None:
    crash_in_child(tiny(), tmp_path, kill_at_call(12, os, "fsync"))
    assert RunDirectory(tmp_path / tiny().id).status().state == "interrupted"


def test_a_torn_line_is_cut_off_before_going_on(rescue: Run, whole_rescue: Path, tmp_path: Path) -> None:
    crash_in_child(rescue, tmp_path / "torn", kill_at_call(14, os, "fsync"))
    metrics = tmp_path / "torn" / rescue.id / "metrics.jsonl"
    with metrics.open("ab") as file:
        file.write(b'{"task": 9, "accu')
    assert_same_bits(execute(rescue, tmp_path / "torn").path, whole_rescue)


@pytest.mark.slow
def test_released_together_they_make_one_directory(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny()
    for attempt in range(10):
        gate, opener = os.pipe()
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                status = 99
                try:
                    os.close(opener)
                    os.read(gate, 1)  # ends when the parent opens the gate
                    RunDirectory.create(tmp_path / str(attempt), run)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        os.close(gate)
        os.close(opener)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
        assert RunDirectory(tmp_path / str(attempt) / run.id).read_spec() == run


@pytest.mark.parametrize("call", [2, 5, 9, 14])
def test_a_full_disk_fails_the_run_and_loses_nothing(
    rescue: Run, whole_rescue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    original, calls = os.fsync, iter(range(call))

    def full(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFailed, match="No space left on device"):
            execute(rescue, tmp_path / "full")
    directory = RunDirectory(tmp_path / "full" / rescue.id)
    assert not list(directory.path.glob("*.tmp"))
    assert [row["task"] for row in _files.read_rows(directory.metrics)] == list(
        range(-1, len(_files.read_rows(directory.metrics)) - 1)
    )
    assert_same_bits(execute(rescue, tmp_path / "full").path, whole_rescue)


def test_a_disk_that_is_full_for_a_moment_is_written_down(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _directory.write_whole

    def full(path: Path, contents: bytes) -> None:
        if path.name == "checkpoint.pt" and b"accuracy" in (path.parent / "metrics.jsonl").read_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, contents)

    monkeypatch.setattr(_directory, "write_whole", full)
    with pytest.raises(RunFailed):
        execute(tiny(), tmp_path)
    status = RunDirectory(tmp_path / tiny().id).status()
    assert (status.state, status.reason) == ("failed", "OSError: [Errno 28] No space left on device")


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny(method="adam", lr=1e30, tasks=2, epochs=5)
    with pytest.raises(RunFailed, match=r"the loss is (nan|inf) at task 0, epoch \d, step \d+ \(lr 1e\+30\)"):
        execute(run, tmp_path)
    directory = RunDirectory(tmp_path / run.id)
    status = directory.status()
    assert status.state == "failed"
    assert "at task 0" in status.reason
    assert [row["task"] for row in _files.read_rows(directory.metrics)] == [-1]
    assert "failed: the loss is" in directory.log.read_text()


def test_two_processes_do_not_work_on_one_run(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory.create(tmp_path, tiny())
    monkeypatch.setattr(RunDirectory, "owned", functools.partialmethod(RunDirectory.owned, patience=0))
    with DirectoryLock(directory.path), pytest.raises(RunLocked, match="in use"):
        execute(tiny(), tmp_path)


def test_checkpoints_hold_no_code(rescue: Run, tmp_path: Path) -> None:
    directory = execute(rescue, tmp_path)
    contents = torch.load(directory.checkpoint, weights_only=True)  # refuses whatever is not plain data
    assert contents["next_task"] == rescue.tasks
    assert set(contents["learner"]) == {"training", "steps"}


def test_a_damaged_checkpoint_is_refused(tiny: MakeRun, tmp_path: Path) -> None:
    crash_in_child(tiny(), tmp_path, kill_at_call(14, os, "fsync"))
    checkpoint = tmp_path / tiny().id / "checkpoint.pt"
    other = io.BytesIO()
    torch.save([1, 2], other)
    for contents in (checkpoint.read_bytes()[:1000], b"", b"garbage", b"\x80\x02}q\x00.", other.getvalue()):
        checkpoint.write_bytes(contents)
        with pytest.raises(IsoplastError, match=r"checkpoint.pt is damaged: delete \S+ and run again$"):
            execute(tiny(), tmp_path)


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"state": 3}'])
def test_a_damaged_status_is_refused(tiny: MakeRun, tmp_path: Path, contents: str) -> None:
    directory = RunDirectory.create(tmp_path, tiny())
    (directory.path / "status.json").write_text(contents)
    with pytest.raises(IsoplastError, match=r"status.json is damaged: delete it, and the run goes on"):
        execute(tiny(), tmp_path)


def test_a_status_of_a_later_version_is_read(tiny: MakeRun, tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny())
    (directory.path / "status.json").write_text('{"state": "failed", "tasks": 2, "energy": 3.5}')
    assert directory.status() == Status(state="failed", tasks=2)


@pytest.mark.parametrize("contents", [b"", b"[1]", b"{a: ", b"\xff\xfe", b"{a: 1}"])
def test_a_damaged_specification_is_refused(tiny: MakeRun, tmp_path: Path, contents: bytes) -> None:
    directory = RunDirectory.create(tmp_path, tiny())
    directory.spec.write_bytes(contents)
    with pytest.raises(IsoplastError, match=r"spec.yaml is damaged or of an older version: del"):
        execute(tiny(), tmp_path)


def test_a_specification_that_this_version_does_not_know_is_named(tiny: MakeRun, tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny())
    directory.spec.write_text(directory.spec.read_text() + "speed: 3\n")
    with pytest.raises(IsoplastError, match=r"spec.yaml: unknown setting of a run 'speed'"):
        execute(tiny(), tmp_path)


def test_a_finished_run_without_its_metrics_is_refused(tiny: MakeRun, tmp_path: Path) -> None:
    directory = execute(tiny(), tmp_path)
    directory.metrics.unlink()
    with pytest.raises(IsoplastError, match=r"metrics.jsonl holds 0 of 4 rows although the run is done: del"):
        execute(tiny(), tmp_path)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused_before_anything_is_written(
    tiny: MakeRun, tmp_path: Path, threads: int
) -> None:
    with pytest.raises(IsoplastError, match=f"threads is {threads}: it must be a whole number >= 1"):
        execute(tiny(), tmp_path, threads=threads)
    assert not list(tmp_path.iterdir())


def test_what_only_the_optimizer_refuses_is_one_line(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise ValueError("Invalid eps value\nsecond line")

    monkeypatch.setattr(torch.optim, "Adam", refuse)
    with pytest.raises(IsoplastError, match=r"method adam with lr 0.003: Invalid eps value$"):
        execute(tiny(method="adam"), tmp_path)


def test_an_untrained_network_without_a_finite_loss_is_said_to_be_untrained(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _supervised.score

    def broken(*arguments: Any) -> Any:
        return {**original(*arguments), "loss": float("nan")}

    monkeypatch.setattr(_supervised, "score", broken)
    with pytest.raises(RunFailed, match=r"the loss is nan on all of task 0 before any training"):
        execute(tiny(), tmp_path)


def test_other_data_under_the_same_name_is_refused(tiny: MakeRun, tmp_path: Path) -> None:
    crash_in_child(tiny(), tmp_path, kill_at_call(14, os, "fsync"))
    directory = RunDirectory(tmp_path / tiny().id)
    contents = directory.load_checkpoint()
    assert contents is not None
    directory.save_checkpoint({**contents, "data": "0" * 64})
    with pytest.raises(IsoplastError, match="was begun on other data under the name 'digits'"):
        execute(tiny(), tmp_path)


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tiny: MakeRun, tmp_path: Path
) -> None:
    with pytest.raises(IsoplastError, match="device 'cuda:7' is not there"):
        execute(tiny(device="cuda:7"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_a_run_that_goes_on(rescue: Run, whole_rescue: Path, tmp_path: Path) -> None:
    def interrupt(progress: Any) -> None:
        if (progress.task, progress.done) == (1, 0.5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(rescue, tmp_path / "stopped", on_progress=interrupt)
    directory = RunDirectory(tmp_path / "stopped" / rescue.id)
    assert directory.status().state == "interrupted"
    assert [row["task"] for row in _files.read_rows(directory.metrics)] == [-1, 0]
    assert_same_bits(execute(rescue, tmp_path / "stopped").path, whole_rescue)


def test_a_run_records_where_it_comes_from(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny()
    status = execute(run, tmp_path).status()
    assert (status.state, status.tasks, status.steps, status.attempts) == ("done", 3, 12, 1)
    assert status.seconds > 0
    assert status.peak_memory > 10_000_000
    origin = status.provenance
    assert (
        origin["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in origin["versions"]["torch"]
    )
    assert {"git", "machine", "processor", "threads", "data"} <= set(origin)
    assert len(origin["data"]["fingerprint"]) == 64


def test_attempts_and_seconds_add_up(tiny: MakeRun, tmp_path: Path) -> None:
    crash_in_child(tiny(), tmp_path, kill_at_call(14, os, "fsync"))
    directory = RunDirectory(tmp_path / tiny().id)
    before = directory.status()
    after = execute(tiny(), tmp_path).status()
    assert after.attempts == 2
    assert after.seconds > before.seconds


def test_a_long_enough_run_is_not_warned_a_short_one_is(tiny: MakeRun, tmp_path: Path) -> None:
    said: dict[float, list[str]] = {}
    for isometry in (1e-3, 100.0):
        lines = said.setdefault(isometry, [])
        execute(tiny(method={"name": "adamo", "isometry": isometry}), tmp_path, say=lines.append)
    assert any("time constant" in line for line in said[100.0])
    assert not any(line.startswith("warning") for line in said[100.0])
    assert any(line.startswith("warning: 12 steps are fewer") for line in said[1e-3])


def test_the_method_that_takes_over_introduces_itself(rescue: Run, tmp_path: Path) -> None:
    said: list[str] = []
    execute(rescue, tmp_path, say=said.append)
    place = said.index("task 1: AdamO takes over")
    assert said[place + 1].startswith("3 matrices, ")
    assert said[place + 2].startswith("warning: 8 steps are fewer than")  # those that are left for it


def test_the_switch_keeps_the_network_and_drops_the_optimizer_state(tiny: MakeRun, tmp_path: Path) -> None:
    changed = tiny(method="adam", tasks=2, switch=Switch(1, "adam"))
    plain = tiny(method="adam", tasks=2)
    one, other = (rows_without_seconds(execute(run, tmp_path)) for run in (changed, plain))
    assert one[:2] == other[:2]  # up to the switch the two are the same run
    assert one[2]["loss"] != other[2]["loss"]
    fresh = RunDirectory(tmp_path / changed.id).load_checkpoint()
    assert fresh is not None
    assert fresh["learner"]["steps"] == 8
    training = fresh["learner"]["training"]
    assert training["steps"] == 4  # of the second method
    assert {int(state["step"]) for state in training["optimizer"]["state"].values()} == {4}


def test_random_states_are_restored_for_all_generators() -> None:
    seed_everything(5)
    random.gauss(0, 1), np.random.normal()  # noqa: NPY002 -- both keep a second value for the next call
    state = random_state(torch.device("cpu"))
    first = torch.rand(3).tolist(), np.random.normal(size=3).tolist(), random.gauss(0, 1)  # noqa: NPY002
    restore_random_state(state, torch.device("cpu"))
    assert (torch.rand(3).tolist(), np.random.normal(size=3).tolist(), random.gauss(0, 1)) == first  # noqa: NPY002


@dataclasses.dataclass(frozen=True)
class Probe(methods.Adam):
    """Adam with noise, a penalty and a memory: a method that uses every hook there is."""

    name: ClassVar[str] = "probe"
    info: ClassVar[MethodInfo] = MethodInfo("Probe", "-", "-", needs_task_boundaries=True)
    seen: ClassVar[list[str]] = []

    def prepare(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(model, nn.Dropout(0.1))

    def penalty(self, model: nn.Module, inputs: Tensor) -> Tensor | None:
        return 1e-3 * sum(parameter.square().sum() for parameter in model.parameters())

    def after_step(self, step: StepContext) -> None:
        self.state["mean"] = 0.9 * self.state.get("mean", torch.zeros(())) + step.loss
        self.seen.append(f"step {step.step} {tuple(step.inputs.shape)}")
        with torch.no_grad():
            for parameter in step.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-4 * float(self.state["mean"]))

    def on_task(self, task: TaskContext) -> None:
        self.seen.append(f"task {task.index} {len(task.inputs)}")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> type[Probe]:
    monkeypatch.setitem(methods.METHODS._known, "probe", Probe)
    monkeypatch.setattr(Probe, "seen", [])
    return Probe


def test_the_loop_calls_every_hook(tiny: MakeRun, tmp_path: Path, probe: type[Probe]) -> None:
    execute(tiny(method="probe", tasks=2, batch_size=100), tmp_path)
    steps = [f"({size}, 1, 8, 8)" for size in (100, 28) * 4]
    first = [f"step {number + 1} {steps[number]}" for number in range(4)]
    second = [f"step {number + 5} {steps[number]}" for number in range(4)]
    assert probe.seen == ["task 0 128", *first, "task 1 128", *second]


def test_a_method_with_noise_and_memory_resumes_to_the_same_bits(
    tiny: MakeRun, tmp_path: Path, probe: type[Probe]
) -> None:
    run = tiny(method="probe")
    crash_in_child(run, tmp_path / "killed", kill_at_call(14, os, "fsync"))
    rows = _files.read_rows(tmp_path / "killed" / run.id / "metrics.jsonl")
    assert 0 < len(rows) < 4
    assert_same_bits(execute(run, tmp_path / "killed").path, execute(run, tmp_path / "whole").path)


def test_the_spec_in_the_directory_follows_a_new_label_and_refuses_another_run(
    tiny: MakeRun, tmp_path: Path
) -> None:
    directory = RunDirectory.create(tmp_path, tiny(label="old"))
    assert RunDirectory.create(tmp_path, tiny(label="new")).read_spec().label == "new"
    directory.spec.write_text(tiny(seed=1).to_yaml())
    with pytest.raises(IsoplastError, match="holds another run"):
        RunDirectory.create(tmp_path, tiny())


def test_status_is_plain_json(tiny: MakeRun, tmp_path: Path) -> None:
    directory = execute(tiny(), tmp_path)
    assert json.loads((directory.path / "status.json").read_text())["state"] == "done"


def test_going_on_with_other_code_is_said(tiny: MakeRun, tmp_path: Path) -> None:
    crash_in_child(tiny(), tmp_path, kill_at_call(14, os, "fsync"))
    directory = RunDirectory(tmp_path / tiny().id)
    status = directory.status()
    versions = {**status.provenance["versions"], "torch": "1.0"}
    git = {"commit": "0123456789abcdef", "changed": True}
    before = {**status.provenance, "versions": versions, "git": git}
    directory.write_status(dataclasses.replace(status, provenance=before))
    said: list[str] = []
    execute(tiny(), tmp_path, say=said.append)
    torch_line, source_line = [line for line in said if line.startswith("warning: since")]
    now = status.provenance["versions"]["torch"]
    assert torch_line == f"warning: since the interruption, torch was 1.0 and is {now}"
    known = "the source of isoplast was commit 0123456789ab with changed files and is "
    assert source_line.startswith(f"warning: since the interruption, {known}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_trains_on_a_gpu_and_goes_on_after_an_interruption(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny(device="cuda")

    def interrupt(progress: Any) -> None:
        if progress.task == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path, on_progress=interrupt)
    directory = execute(run, tmp_path)
    assert directory.status().provenance["device"] == torch.cuda.get_device_name()
    assert [row["task"] for row in _files.read_rows(directory.metrics)] == [-1, 0, 1, 2]


def test_an_instrument_that_fails_is_left_out_and_said_once(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise IsoplastError("this network has no kernel")

    monkeypatch.setitem(_instruments._MEASURES, "ntk", fail)
    said: list[str] = []
    run = tiny(tasks=3, instruments=("weights", "ntk"))
    directory = execute(run, tmp_path, say=said.append)
    about = [line for line in said if "no kernel" in line]
    assert about == ["warning: ntk is left out of the rows: this network has no kernel"]
    assert about[0] in directory.log.read_text(encoding="utf-8")
    rows = rows_without_seconds(directory)
    assert len(rows) == 4
    for row in rows:
        assert row["sigma_max"]
        assert not [name for name in row if name.startswith("ntk")]


@pytest.mark.parametrize("words", ["\x1b]0;owned\x07\x1b[2J", "x" * 100_000, "first\nsecond", "\r\n", ""])
def test_the_reason_of_a_failure_is_one_plain_line(
    tiny: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("isoplast.study.run._execute.start_learner", fail)
    run = tiny()
    with pytest.raises(RunFailed, match="RuntimeError") as error:
        execute(run, tmp_path)
    status = RunDirectory(tmp_path / run.id).status()
    assert status.state == "failed"
    for said in (str(error.value), status.reason):
        assert said.isprintable()
        assert len(said) <= 400
    assert "Traceback" in RunDirectory(tmp_path / run.id).log.read_text()


def test_a_last_batch_that_batchnorm_cannot_take_fails_the_run_with_the_reason(
    tiny: Callable[..., Run], tmp_path: Path
) -> None:
    run = tiny(method="batchnorm", batch_size=127)  # 128 samples: one is left for the second batch
    with pytest.raises(RunFailed, match="more than 1 value per channel"):
        execute(run, tmp_path)
    assert RunDirectory(tmp_path / run.id).status().state == "failed"


def test_a_label_says_nothing_to_a_terminal(tiny: Callable[..., Run], tmp_path: Path) -> None:
    said: list[str] = []
    directory = execute(tiny(tasks=1, label="a\x1b[2J\nb"), tmp_path, say=said.append)
    assert all(line.isprintable() for line in said)
    assert directory.log.read_text().replace("\n", "").isprintable()
