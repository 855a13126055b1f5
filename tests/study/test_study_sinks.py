"""Sinks of studies: what TensorBoard's files and offline runs of Weights & Biases hold, read back."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import types
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from same_bits import assert_same_bits

from isoplast._core.errors import IsoplastError
from isoplast.cli import main
from isoplast.study import (
    SINKS,
    Job,
    Run,
    RunDirectory,
    RunFailed,
    SentRun,
    Sink,
    Study,
    TensorBoard,
    execute,
    read_rows,
    run_study,
)
from isoplast.study.executors._cluster import do_run
from isoplast.study.sinks._base import numbers
from isoplast.study.sinks._sending import as_parts

MakeRun = Callable[..., Run]
BOTH = ("tensorboard", "wandb")


def tensorboard_values(directory: Path) -> dict[tuple[str, int], list[float]]:
    """Every scalar in every file of events, with nothing dropped: (name, step) -> all values."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[tuple[str, int], list[float]] = {}
    for file in sorted((directory / "tensorboard").glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name != "text":
                    found.setdefault((value.tag, event.step), []).append(value.tensor.float_val[0])
    return found


def wandb_records(directory: Path) -> list[Any]:
    """All records of the one offline run that ended.

    `finish` tells the process that writes the file to close it, and waits for no answer: a reader has to.
    """
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    give_up = time.monotonic() + 60
    while True:
        found = complete_records(file.read_bytes())
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < give_up, f"no end of the run among {len(found)} records of {file}"
        time.sleep(0.02)


def complete_records(data: bytes) -> list[Any]:
    """The whole records of a log of LevelDB's form: blocks of 32 KiB of checked pieces."""
    from wandb.proto import wandb_internal_pb2

    if not data:
        return []
    assert data[:4] == b":W&B"
    found, whole, place = [], b"", 7
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + 7 : place + 7 + size]
        if len(piece) < size:
            break
        assert zlib.crc32(bytes([kind]) + piece) == checksum
        place += 7 + size
        whole = piece if kind in (1, 2) else whole + piece  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(whole))
    return found


def wandb_history(directory: Path) -> list[dict[str, float]]:
    history = [record.history for record in wandb_records(directory) if record.HasField("history")]
    return [
        {item.nested_key[0]: float(json.loads(item.value_json)) for item in one.item}
        for one in history
        if any(item.nested_key for item in one.item)
    ]


def expected(directory: Path) -> list[Mapping[str, float]]:
    return [numbers(row) for row in read_rows(directory / "metrics.jsonl")]


def assert_holds_every_row_once(directory: Path) -> None:
    rows = expected(directory)
    values = tensorboard_values(directory)
    assert Counter((name, step) for step, row in enumerate(rows) for name in row) == Counter(
        {key: len(found) for key, found in values.items()}
    )
    for step, row in enumerate(rows):
        for name, value in row.items():  # TensorBoard keeps float32
            np.testing.assert_equal(values[name, step][0], float(np.float32(value)))
    history = wandb_history(directory)
    assert [row["run/tasks"] for row in history] == list(range(len(rows)))
    for row, sent in zip(rows, history, strict=True):
        np.testing.assert_equal({key: sent[key] for key in row}, dict(row))


@dataclasses.dataclass(frozen=True)
class Memory(Sink):
    """Keeps what it is sent, draws random numbers, and fails as told."""

    name: ClassVar[str] = "memory"
    sent: ClassVar[list[tuple[int, dict[str, float]]]] = []
    left: ClassVar[list[BaseException | None]] = []
    fail_at: int | None = None
    fail_at_end: bool = False

    @contextlib.contextmanager
    def open(self, source: SentRun, folder: Path) -> Iterator[Any]:
        assert list(folder.iterdir()) == []
        self.sent.clear()

        def send(step: int, record: Mapping[str, float]) -> None:
            torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
            (folder / "rows").open("a").write(f"{step}\n")
            if step == self.fail_at:
                raise ConnectionError("no route to host")
            self.sent.append((step, dict(record)))

        try:
            yield send
            self.left.append(None)
        except BaseException as error:
            self.left.append(error)
            raise
        if self.fail_at_end:
            raise OSError("cannot be closed")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    Memory.sent.clear()
    Memory.left.clear()


@pytest.fixture(scope="module")
def sent(rescue: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was sent to both."""
    return execute(rescue, tmp_path_factory.mktemp("sent"), sinks=BOTH).path


def test_both_hold_every_number_of_the_rows_once(sent: Path) -> None:
    assert_holds_every_row_once(sent)
    rows = expected(sent)
    assert {"score/accuracy", "run/seconds", "sigma_max/layers.0", "dead/activations.1"} <= rows[1].keys()
    assert RunDirectory(sent).status().sinks == list(BOTH)


def test_a_board_reads_the_scalars_by_steps(sent: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(sent / "tensorboard")).Reload()
    rows = read_rows(sent / "metrics.jsonl")
    found = [(event.step, event.value) for event in board.Scalars("score/accuracy")]
    assert found == [(row["task"] + 1, pytest.approx(row["accuracy"])) for row in rows]
    settings = board.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "seed: 0" in settings


def test_an_offline_run_says_what_it_is(rescue: Run, sent: Path) -> None:
    records = wandb_records(sent)
    (run,) = (record.run for record in records if record.HasField("run"))
    assert (run.run_id, run.project) == (rescue.id, sent.parent.name)
    assert (run.display_name, run.run_group) == (f"{rescue.label}, seed 0", rescue.label)
    config = {(*item.nested_key, item.key)[0]: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in rescue.to_mapping()} == rescue.to_mapping()
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]
    axes = {record.metric.step_metric for record in records if record.HasField("metric")}
    assert axes - {""} == {"run/tasks"}


def test_sinks_change_no_bit_of_a_run(sent: Path, rescue: Run, whole_rescue: Path, tmp_path: Path) -> None:
    assert_same_bits(sent, whole_rescue)
    assert_same_bits(execute(rescue, tmp_path, sinks=[Memory()]).path, whole_rescue)
    assert [step for step, _ in Memory.sent] == [0, 1, 2, 3]


def test_after_an_interruption_nothing_is_there_twice(
    rescue: Run, whole_rescue: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Any) -> None:
        if progress.task == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(rescue, tmp_path, sinks=BOTH, on_progress=interrupt)
    directory = tmp_path / rescue.id
    assert [row["run/tasks"] for row in wandb_history(directory)] == [0, 1, 2]
    exits = [record.exit.exit_code for record in wandb_records(directory) if record.HasField("exit")]
    assert exits == [1]
    execute(rescue, tmp_path, sinks=BOTH)
    assert_holds_every_row_once(directory)
    assert_same_bits(directory, whole_rescue)


@pytest.mark.slow
def test_killed_between_a_row_and_its_sinks_nothing_is_there_twice(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny(tasks=6, epochs=30)
    directory = RunDirectory.create(tmp_path, run)
    job = Job(run, directory, sinks=as_parts(BOTH))
    kills = 0
    while directory.status().state != "done":
        rows = len(read_rows(directory.metrics))
        worker = subprocess.Popen(
            job.command(sys.executable), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert worker.stdin is not None
        while kills < 2 and worker.poll() is None and len(read_rows(directory.metrics)) <= rows + 1:
            pass
        if kills < 2:
            worker.kill()
        kills += worker.wait() == -signal.SIGKILL
        worker.stdin.close()
    assert kills == 2
    assert_holds_every_row_once(directory.path)


def test_a_finished_run_is_sent_to_sinks_that_it_did_not_have(rescue: Run, tmp_path: Path) -> None:
    directory = execute(rescue, tmp_path, sinks=["tensorboard"])
    before = {
        path: path.stat().st_mtime_ns for path in directory.path.rglob("*") if path.name != "status.json"
    }
    study = Study("later", [rescue], sinks=["tensorboard", {"name": "wandb", "project": "mine"}])
    (outcome,) = run_study(study, tmp_path, executor="inline")
    assert outcome.failure is None
    for path, changed in before.items():
        if not path.name.startswith(".") and path.is_file():
            assert path.stat().st_mtime_ns == changed, path
    assert_holds_every_row_once(directory.path)
    (run,) = (record.run for record in wandb_records(directory.path) if record.HasField("run"))
    assert run.project == "mine"
    assert directory.status().sinks == ["tensorboard", "wandb"]
    assert directory.status().attempts == 1


@pytest.mark.parametrize("failing", [{"fail_at": 0}, {"fail_at": 2}, {"fail_at_end": True}])
def test_a_sink_that_fails_ends_no_run_and_is_said_once(
    rescue: Run, whole_rescue: Path, tmp_path: Path, failing: dict[str, Any]
) -> None:
    said: list[str] = []
    directory = execute(rescue, tmp_path, sinks=[Memory(**failing), "tensorboard"], say=said.append)
    reason = "OSError: cannot be closed" if "fail_at_end" in failing else "ConnectionError: no route to host"
    warning = f"warning: sink memory is left out from here on: {reason}"
    assert [line for line in said if "sink" in line] == [warning]
    assert directory.log.read_text().count(warning) == 1
    assert_same_bits(directory.path, whole_rescue)
    assert directory.status().sinks == ["tensorboard"]
    assert len(Memory.left) == 1
    execute(rescue, tmp_path, sinks=[Memory(), "tensorboard"])
    assert [step for step, _ in Memory.sent] == [0, 1, 2, 3]
    assert directory.status().sinks == ["tensorboard", "memory"]


def test_a_folder_that_cannot_be_made_ends_no_run(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny()
    directory = RunDirectory.create(tmp_path, run)
    (directory.path / "tensorboard").touch()
    execute(run, tmp_path, sinks=["tensorboard"])
    assert directory.status().state == "done"
    assert (
        "warning: sink tensorboard is left out from here on: NotADirectoryError" in directory.log.read_text()
    )
    assert directory.status().sinks == []


def test_a_run_that_fails_closes_its_sinks_with_the_reason(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny(lr=1e30, method="adam")
    with pytest.raises(RunFailed, match="loss is"):
        execute(run, tmp_path, sinks=[Memory(), "wandb"])
    assert [type(error).__name__ for error in Memory.left] == ["Diverged"]
    records = wandb_records(tmp_path / run.id)
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [1]
    assert "sink" not in (tmp_path / run.id / "log.txt").read_text()


def test_online_a_run_that_is_started_again_goes_on_where_the_server_is(
    rescue: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no server here: a stand-in says that it has had two rows."""
    logged, given = [], {}

    class Server:
        step = 2

        def define_metric(self, name: str, step_metric: str) -> None:
            pass

        def log(self, data: dict[str, float]) -> None:
            logged.append(data["run/tasks"])

        def finish(self, exit_code: int) -> None:
            logged.append(f"exit {exit_code}")

    stand_in: Any = types.ModuleType("wandb")
    stand_in.__spec__ = importlib.util.spec_from_loader("wandb", None)
    stand_in.Settings = dict
    stand_in.init = lambda **settings: given.update(settings) or Server()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "of the user")
    execute(rescue, tmp_path, sinks=["wandb"])
    assert logged == [2, 3, "exit 0"]
    assert (given["mode"], given["resume"], given["id"]) == ("online", "allow", rescue.id)
    assert given["project"] == "of the user"


def test_a_name_longer_than_an_id_may_be_keeps_its_hash(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "id", property(lambda run: "x" * 150 + "-0123abcd"))
    directory = execute(tiny(instruments=False), tmp_path, sinks=["wandb"])
    (run,) = (record.run for record in wandb_records(directory.path) if record.HasField("run"))
    assert run.run_id == "x" * 119 + "-0123abcd"


def test_a_missing_package_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in BOTH else find(name, *more)
    )
    for name in BOTH:
        for command in (["study", "demo"], ["run"]):
            assert main([*command, "--sink", name, "--out", str(tmp_path / "out")]) == 2
            said = capsys.readouterr().err
            assert said == f'isoplast: sink {name} needs {name}: pip install "isoplast[sinks]"\n'
            assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sinks", "words"),
    [
        ("[tensorbord]", "unknown sink 'tensorbord': did you mean 'tensorboard'"),
        ("[{name: wandb, projct: x}]", "unknown setting of sink wandb 'projct': did you mean 'project'"),
        ("[{name: wandb, project: 3}]", "project of sink wandb is 3"),
        ("[wandb, {name: wandb, project: x}]", "sink wandb is given twice"),
        ("3", "sinks is 3"),
        ("[3]", "sink is 3"),
    ],
)
def test_a_wrong_sink_is_refused_in_one_line(sinks: str, words: str) -> None:
    with pytest.raises(IsoplastError) as raised:
        Study.parse(f"{{name: wrong, methods: [adam], sinks: {sinks}}}")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_row_becomes_numbers_in_groups() -> None:
    row = {
        "task": 0,
        "method_active": "adam",
        "seconds": 0.5,
        "primary": "accuracy",
        "accuracy": 0.25,
        "return": None,
        "return_curve": [1.0, None],
        "layers": ["a", "b"],
        "sigma_max": [1.0, "inf"],
        "sigma_quantiles": [[0.0], [0.0]],
        "units": ["u"],
        "dead": [None],
        "of_somebody_else": 3,
    }
    assert numbers(row) == {
        "run/seconds": 0.5,
        "score/accuracy": 0.25,
        "sigma_max/a": 1.0,
        "sigma_max/b": float("inf"),
        "score/of_somebody_else": 3.0,
    }


def test_sinks_are_found_by_name_and_as_objects() -> None:
    assert SINKS.names() == ["tensorboard", "wandb"]
    (part,) = Study("one", [Run()], sinks=[TensorBoard()]).sinks
    assert part == as_parts("tensorboard")[0]


def test_a_machine_of_a_cluster_is_told_of_the_sinks(tiny: MakeRun, tmp_path: Path) -> None:
    run = tiny(instruments=False)
    job = Job(run, RunDirectory.create(tmp_path, run), sinks=as_parts(["tensorboard"]))
    failure, _ = do_run(str(job.directory.path), 1, job.sink_words())
    assert failure is None
    assert ("score/accuracy", 3) in tensorboard_values(job.directory.path)


@pytest.mark.slow
def test_a_study_on_the_command_line_sends_to_both_and_to_somebodys_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import contextlib\n"
        "from isoplast.study import Sink\n"
        "class Lines(Sink):\n"
        "    @contextlib.contextmanager\n"
        "    def open(self, source, folder):\n"
        "        with (folder / 'lines').open('w') as file:\n"
        "            yield lambda step, record: print(step, record['score/accuracy'], file=file)\n"
    )
    run = "{samples: 128, tasks: 2, epochs: 2, net: {name: mlp, width: 16}, instruments: false}"
    file = tmp_path / "two.yaml"
    file.write_text(f"{{name: two, run: {run}, methods: [adam, adamo], path: .}}")
    out = tmp_path / "out"
    words = ["study", str(file), "--out", str(out), "--sink", "tensorboard", "--sink", "wandb"]
    assert main([*words, "--sink", "mine:Lines"]) == 0
    for one in Study.load(file).runs:
        assert_holds_every_row_once(out / one.id)
        assert len((out / one.id / "Lines" / "lines").read_text().splitlines()) == 3
        (sent,) = (record.run for record in wandb_records(out / one.id) if record.HasField("run"))
        assert sent.project == "two"
    capsys.readouterr()
    for directory in out.glob("random-labels-*"):
        status = RunDirectory(directory).status()
        (directory / "tensorboard").rename(directory / "elsewhere")
        (directory / "tensorboard").touch()
        RunDirectory(directory).write_status(dataclasses.replace(status, sinks=[]))
    assert main([*words[:4], "sinks=[tensorboard]"]) == 0
    said = capsys.readouterr().out
    assert "sink tensorboard lacks rows of 2 runs, whose logs say why; the same command sends them" in said
