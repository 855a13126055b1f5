"""Studies in processes of their own, killed, interrupted, locked and starved, for real."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from same_bits import assert_same_bits

from isoplast._core.errors import IsoplastError
from isoplast.study import (
    Job,
    Outcome,
    Progress,
    Run,
    RunDirectory,
    RunLocked,
    Study,
    _run_study,
    execute,
    run_study,
)
from isoplast.study.executors import _local, _memory
from isoplast.study.executors._cores import usable_cores
from isoplast.study.store import _files
from isoplast.study.store._lock import DirectoryLock, is_locked

linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")

# 8 tasks of 80 steps, a tenth of a second each: long enough to be hit in the middle.
RUN = "{samples: 128, tasks: 8, epochs: 40, lr: 3e-3, net: {name: mlp, width: 16}}"
TWO = f"{{name: two, run: {RUN}, methods: [adam, adamo]}}"


class Recorder:
    """A display that remembers, and calls back after each epoch."""

    def __init__(self, on_progress: Callable[[Run], None] = lambda run: None) -> None:
        self.events: list[str] = []
        self.most_at_once = self.now = 0
        self.on_progress = on_progress

    def started(self, run: Run) -> None:
        self.events.append(f"started {run.label}")
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)

    def progressed(self, run: Run, progress: Progress) -> None:
        self.on_progress(run)

    def ended(self, outcome: Outcome) -> None:
        self.events.append(f"ended {outcome.run.label}: {outcome.failure}")
        self.now -= 1


def processes_at(directory: Path) -> list[int]:
    """The processes whose command line names a path below the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(str(directory).encode()) for word in words):
                    found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def rows(directory: Path) -> int:
    return len(_files.read_rows(directory / "metrics.jsonl"))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts `isoplast study` on TWO with the given results directory."""
    file = tmp_path / "two.yaml"
    file.write_text(TWO)
    started = []

    def start(out: Path) -> subprocess.Popen[str]:
        script = "import sys; from isoplast.cli import main; sys.exit(main())"
        words = ["study", str(file), "--out", str(out), "--jobs", "2"]
        process = subprocess.Popen(
            [sys.executable, "-c", script, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of TWO, done in this process without an interruption."""
    out = tmp_path_factory.mktemp("expected")
    for run in Study.parse(TWO).runs:
        execute(run, out)
    return out


def assert_as_expected(out: Path, expected: Path) -> None:
    for run in Study.parse(TWO).runs:
        assert_same_bits(out / run.id, expected / run.id)


@pytest.mark.slow
def test_a_study_is_done_once_with_no_more_processes_than_asked_for(tmp_path: Path, expected: Path) -> None:
    study = Study.parse(TWO)
    recorder = Recorder()
    outcomes = run_study(study, tmp_path, jobs=1, display=recorder)
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert recorder.most_at_once == 1
    assert recorder.events == ["started Adam", "ended Adam: None", "started AdamO", "ended AdamO: None"]
    assert_as_expected(tmp_path, expected)
    again = Recorder()
    assert [outcome.failure for outcome in run_study(study, tmp_path, display=again)] == [None, None]
    assert again.events == []


@pytest.mark.slow
@linux
def test_a_worker_that_dies_takes_its_own_run_with_it_and_is_tried_again(
    tmp_path: Path, expected: Path
) -> None:
    study = Study.parse(TWO)
    victim = tmp_path / study.runs[0].id

    def kill_first(run: Run) -> None:
        if run == study.runs[0]:
            for process in processes_at(victim):
                os.kill(process, signal.SIGSEGV)

    outcomes = run_study(study, tmp_path, jobs=2, display=Recorder(kill_first))
    assert [outcome.failure for outcome in outcomes] == ["killed by SIGSEGV", None]
    status = RunDirectory(victim).status()
    assert (status.state, status.reason) == ("failed", "killed by SIGSEGV")
    assert_same_bits(tmp_path / study.runs[1].id, expected / study.runs[1].id)
    assert [outcome.failure for outcome in run_study(study, tmp_path)] == [None, None]
    assert_as_expected(tmp_path, expected)


@pytest.mark.slow
def test_killed_at_random_instants_a_run_ends_with_the_same_bits(tmp_path: Path, expected: Path) -> None:
    run = Study.parse(TWO).runs[1]
    directory = RunDirectory.create(tmp_path, run).path
    chance = random.Random(0)
    killed = 0
    while RunDirectory(directory).status().state != "done":
        before = rows(directory)
        worker = subprocess.Popen(
            Job(run, RunDirectory(directory)).command(sys.executable),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        if killed < 3:
            wait_until(lambda before=before: rows(directory) > before, "the next row")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.1))
            worker.kill()
        killed += worker.wait() == -signal.SIGKILL
        assert worker.stdin is not None
        worker.stdin.close()
    assert killed == 3
    assert RunDirectory(directory).status().attempts == 4
    assert_same_bits(directory, expected / run.id)


@pytest.mark.slow
@linux
def test_when_the_executor_is_killed_its_workers_end_and_the_study_goes_on(
    command: Callable[[Path], subprocess.Popen[str]], tmp_path: Path, expected: Path
) -> None:
    out = tmp_path / "out"
    first, second = (out / run.id for run in Study.parse(TWO).runs)
    executor = command(out)
    wait_until(lambda: rows(first) > 1 or rows(second) > 1, "a run to be at work")
    assert len(processes_at(first)) + len(processes_at(second)) > 0
    executor.send_signal(signal.SIGKILL)
    executor.wait()
    wait_until(lambda: not processes_at(first) and not processes_at(second), "the workers to end")
    assert not is_locked(out)
    assert [outcome.failure for outcome in run_study(Study.parse(TWO), out)] == [None, None]
    assert_as_expected(out, expected)


@pytest.mark.slow
@linux
def test_ctrl_c_stops_at_once_and_the_same_command_goes_on(
    command: Callable[[Path], subprocess.Popen[str]], tmp_path: Path, expected: Path
) -> None:
    out = tmp_path / "out"
    places = [out / run.id for run in Study.parse(TWO).runs]
    interrupted = command(out)
    wait_until(lambda: any(rows(place) > 1 for place in places), "a run to be at work")
    interrupted.send_signal(signal.SIGINT)
    said, complaint = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130
    assert re.search(r"interrupted: [01] of 2 runs are complete; the same command goes on from here", said)
    assert complaint == ""
    assert not any(processes_at(place) for place in places)
    assert "interrupted" in [RunDirectory(place).status().state for place in places]
    again = command(out)
    said, complaint = again.communicate(timeout=120)
    assert (again.returncode, complaint) == (0, "")
    assert re.search(r"[12] of 2 runs to do", said)
    assert_as_expected(out, expected)


@pytest.mark.slow
def test_a_second_study_in_the_same_directory_leaves_at_once(
    command: Callable[[Path], subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with DirectoryLock(out):
        second = command(out)
        _, complaint = second.communicate(timeout=60)
    assert second.returncode == 2
    assert complaint == f"isoplast: {out} is in use by another isoplast process: wait for it or stop it\n"
    assert {path.name for path in out.iterdir()} <= {".lock", ".owner"}


@pytest.mark.slow
def test_a_file_that_may_not_grow_fails_the_run_and_loses_nothing(tmp_path: Path, expected: Path) -> None:
    run = Study.parse(TWO).runs[0]
    directory = RunDirectory.create(tmp_path, run)
    size = (expected / run.id / "checkpoint.pt").stat().st_size
    process = subprocess.Popen(
        Job(run, directory).command(sys.executable),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, size - 1000)),
    )
    assert process.stdout is not None
    events = [json.loads(line) for line in process.stdout]
    assert process.wait() == 1
    process.communicate()
    assert events[-1] == {"failed": "OSError: [Errno 27] File too large"}
    status = directory.status()
    assert (status.state, status.reason) == ("failed", "OSError: [Errno 27] File too large")
    assert not list(directory.path.glob("*.tmp"))
    execute(run, tmp_path)
    assert_same_bits(directory.path, expected / run.id)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_fails_the_run_with_the_reason_and_loses_nothing(
    small_disk: Path, expected: Path
) -> None:
    study = Study.parse(f"{{name: one, run: {RUN}, methods: [adam]}}")
    place = small_disk / "out" / study.runs[0].id
    filler = small_disk / "filler"

    def fill_up(run: Run) -> None:
        if rows(place) > 2:
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

    (outcome,) = run_study(study, small_disk / "out", display=Recorder(fill_up))
    assert outcome.failure is not None
    assert outcome.failure.startswith("OSError: [Errno 28] No space left on device")
    assert rows(place) > 2
    assert not list(place.glob("*.tmp"))
    filler.unlink()
    (outcome,) = run_study(study, small_disk / "out")
    assert outcome.failure is None
    assert_same_bits(place, expected / study.runs[0].id)


@pytest.mark.parametrize(("jobs", "threads"), [(0, 1), (-1, 1), (1, 0)])
def test_no_workers_or_threads_are_refused(tmp_path: Path, jobs: int, threads: int) -> None:
    with pytest.raises(IsoplastError, match="it must be a whole number >= 1"):
        run_study(Study.parse(TWO), tmp_path, jobs=jobs, threads=threads)
    assert not list(tmp_path.iterdir())


def test_each_data_set_is_read_once_before_any_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(run: Run) -> None:
        asked.append(run.data.name if run.data else "")
        assert is_locked(tmp_path)
        if asked[-1] == "mnist":
            raise IsoplastError("mnist is damaged")

    monkeypatch.setattr(_run_study, "open_problem", opened)
    recorder = Recorder()
    study = Study.parse("{name: a, streams: [{samples: 100}, {data: mnist}], methods: [adam, adamo]}")
    with pytest.raises(IsoplastError, match="mnist is damaged"):
        run_study(study, tmp_path, display=recorder)
    assert asked == ["digits", "mnist"]
    assert recorder.events == []


def test_a_directory_in_use_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path), pytest.raises(RunLocked):
        run_study(Study.parse(TWO), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", ".owner"}


def test_cores_respect_the_quota_of_a_container(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("max 100000\n")
    free = usable_cores(quota)
    assert free == usable_cores(tmp_path / "missing") >= 1
    quota.write_text("50000 100000\n")
    assert usable_cores(quota) == 1
    quota.write_text("100000000 100000\n")
    assert usable_cores(quota) == free


def test_the_largest_worker_ends_before_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs are at work, and the process that was started last holds most: it alone ends."""
    ended: list[int] = []

    def once(processes: Sequence[int]) -> tuple[int, str] | None:
        found = None if ended or len(processes) < 2 else _memory.too_large(processes)
        ended.extend([] if found is None else [found[0]])
        return found

    monkeypatch.setattr(_local, "_LOOK", 0.05)
    monkeypatch.setattr(_local, "too_large", once)
    monkeypatch.setattr(_memory, "held", lambda process: process * 2**30)
    monkeypatch.setattr(_memory, "memory_left", lambda: (2**28, 2**34))
    outcomes = run_study(Study.parse(TWO), tmp_path, jobs=2)
    (failed,) = [outcome for outcome in outcomes if outcome.failure]
    assert len(ended) == 1
    assert re.fullmatch(
        r"out of memory: it held .* when 0.25 GiB of 16.00 GiB were left; give fewer --jobs, .*",
        str(failed.failure),
    )
    status = failed.directory.status()
    assert (status.state, status.reason) == ("failed", failed.failure)
    assert not [one.failure for one in run_study(Study.parse(TWO), tmp_path) if one.failure]


def test_memory_that_others_fill_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "memory_left", lambda: (2**20, 2**34))
    monkeypatch.setattr(_memory, "held", lambda process: 2**28)
    assert _memory.too_large([1, 2]) is None
    monkeypatch.setattr(_memory, "held", lambda process: process * 2**30)
    found = _memory.too_large([1, 2])
    assert found is not None
    assert found[0] == 2


def test_memory_of_a_container_counts(tmp_path: Path) -> None:
    machine_left, machine_total = _memory.memory_left(tmp_path)
    assert 0 < machine_left <= machine_total
    (tmp_path / "memory.max").write_text("max\n")
    assert _memory.memory_left(tmp_path)[1] == machine_total
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 200000\n")
    assert _memory.memory_left(tmp_path) == (300000, 1000000)


def test_memory_of_children_is_counted() -> None:
    command = [
        sys.executable,
        "-c",
        "x = bytearray(100 * 2**20); import time; print(1, flush=True); time.sleep(60)",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alone = _memory.held(child.pid)
        assert 100 * 2**20 < alone < 200 * 2**20
        assert _memory.held(os.getpid()) > 100 * 2**20 + 10 * 2**20
        child.kill()
    assert _memory.held(child.pid) == 0


def test_the_last_words_of_a_worker_are_one_plain_line(tmp_path: Path) -> None:
    worker = object.__new__(_local._Worker)
    worker.job = Job(Run(), RunDirectory(tmp_path))
    assert worker._last_words(3) == "exit status 3"  # no log: somebody deleted the directory
    assert worker._last_words(-40) == "killed by signal 40"
    (tmp_path / "log.txt").write_bytes(b"y" * (1 << 20) + b"\nx\x1b[2J" + b"\xff" * 5000 + b"\n\n")
    said = worker._last_words(1)
    assert said.startswith("x\\x1b[2J")
    assert said.isprintable()
    assert len(said) <= 400


def test_a_status_that_is_damaged_meanwhile_ends_no_study(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{")
    RunDirectory(tmp_path).mark_failed("killed")
    assert (tmp_path / "status.json").read_text() == "{"
