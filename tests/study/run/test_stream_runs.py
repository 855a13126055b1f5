"""Streams, schedules and held-out scores in real, small runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast.streams import Stream, Task, TaskSequence
from isoplast.study import Run, RunDirectory, Study, execute, open_run, run_study
from isoplast.study.run._supervised import Supervised
from isoplast.study.store._files import read_rows

DIGITS = {"name": "digits", "samples": 96}
HELD_OUT = {**DIGITS, "test_samples": 40}
LEARNER = {"name": "supervised", "epochs": 2, "batch_size": 32}
NET = {"name": "mlp", "width": 16, "depth": 1}


def done(tmp_path: Path, **settings: Any) -> list[dict[str, Any]]:
    base: dict[str, Any] = {
        "net": NET,
        "learner": LEARNER,
        "method": "adam",
        "instruments": False,
        "lr": 3e-3,
    }
    if "data" not in settings:
        base["data"] = DIGITS
    directory = execute(Run(**{**base, **settings}), tmp_path)
    return read_rows(directory.metrics)


@pytest.mark.parametrize(
    ("stream", "primary"),
    [
        ({"name": "pixel-permutation"}, "test_accuracy"),
        ({"name": "label-shuffling"}, "test_accuracy"),
        ({"name": "label-noise"}, "test_accuracy"),
        ({"name": "class-incremental"}, "test_accuracy"),
        ({"name": "class-pairs"}, "test_accuracy"),
        ({"name": "warm-start"}, "test_accuracy"),
        ({"name": "input-drift"}, "test_accuracy"),
        ({"name": "random-labels", "gradual": 2, "recurring": 2}, "accuracy"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)
def test_held_out_examples_are_scored(tmp_path: Path, stream: dict[str, Any], primary: str) -> None:
    data = HELD_OUT if primary.startswith("test_") else DIGITS
    rows = done(tmp_path, stream={**stream, "tasks": 2}, data=data)
    assert [row["task"] for row in rows] == [-1, 0, 1]
    for row in rows:
        assert row["primary"] == primary
        assert 0 <= row[primary] <= 1
        assert ("test_loss" in row) == primary.startswith("test_")


@pytest.mark.parametrize("name", ["bit-flipping", "sine", "teachers", "target-shift"])
def test_regression_learns_and_says_its_chance(tmp_path: Path, name: str) -> None:
    rows = done(
        tmp_path,
        data=None,
        stream={"name": name, "tasks": 2, "examples": 200},
        learner={**LEARNER, "epochs": 4},
    )
    for row in rows[1:]:
        assert row["chance"] > 0
        assert row["test_mean_squared_error"] >= 0
    assert rows[1]["loss"] < rows[0]["loss"]


def test_a_gpt_reads_one_text_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"the cat sat on the mat. " * 60)
    (tmp_path / "texts" / "b.txt").write_bytes(b"0123456789" * 150)
    rows = done(
        tmp_path,
        stream={"name": "language", "tasks": 2, "examples": 64},
        data={"name": "text", "path": str(tmp_path / "texts"), "length": 16},
        net={"name": "gpt", "depth": 1, "width": 16, "heads": 2},
        learner={**LEARNER, "epochs": 6, "batch_size": 8},
        lr=1e-2,
    )
    assert rows[0]["chance"] == 8
    assert rows[0]["primary"] == "test_bits_per_byte"
    assert rows[1]["test_bits_per_byte"] < 5 < rows[0]["test_bits_per_byte"]


def test_outputs_of_classes_that_have_not_come_do_not_move(tmp_path: Path) -> None:
    stream = {"name": "class-incremental", "classes_per_task": 2, "tasks": 2}
    run = Run(stream=stream, data=DIGITS, net=NET, learner=LEARNER, method="adam", instruments=False)
    opened = open_run(execute(run, tmp_path).path)
    seen = set(opened.problem.task(0).targets.tolist()) | set(opened.problem.task(1).targets.tolist())
    torch.manual_seed(0)
    fresh = Run(**{**vars(run), "stream": {**stream, "tasks": 1}})
    first = open_run(execute(fresh, tmp_path).path).network.head.weight
    moved = (opened.network.head.weight != first).any(1)
    assert {int(row) for row in moved.nonzero()} <= seen
    assert moved.sum() >= 2


# --- schedules


def test_the_learning_rate_rises_and_falls_as_said() -> None:
    spec = Supervised(warmup_steps=4, schedule="cosine", final_lr=0.1)
    factors = [spec.factor(step, 24) for step in range(24)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[14] == pytest.approx(0.55)  # the middle of a cosine from 1 to .1
    assert all(before > after for before, after in itertools.pairwise(factors[4:]))
    assert spec.factor(24, 24) == pytest.approx(0.1)
    straight = Supervised(schedule="linear")
    assert [straight.factor(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert {Supervised().factor(step, 4) for step in range(4)} == {1.0}


@pytest.mark.parametrize("over", ["task", "run"])
def test_every_step_is_taken_with_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    seen: list[float] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    learner = {**LEARNER, "warmup_steps": 2, "schedule": "linear", "schedule_over": over}
    done(tmp_path, stream={"name": "random-labels", "tasks": 2}, learner=learner, lr=1.0)
    spec = Supervised(warmup_steps=2, schedule="linear")
    if over == "task":
        assert seen == [spec.factor(step, 6) for step in range(6)] * 2
    else:
        assert seen == [spec.factor(step, 12) for step in range(12)]


def test_a_schedule_is_resumed_to_the_bit(
    tmp_path: Path, tiny: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = {
        "name": "supervised",
        "epochs": 2,
        "batch_size": 64,
        "schedule": "cosine",
        "schedule_over": "run",
    }
    run = tiny(learner=learner)
    whole = open_run(execute(run, tmp_path / "whole").path)
    calls = 0

    def interrupt(progress: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path / "cut", on_progress=interrupt)
    resumed = open_run(execute(run, tmp_path / "cut").path)
    pairs = zip(whole.network.parameters(), resumed.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_new_settings_do_not_rename_old_runs() -> None:
    names = dict(Run(data="digits").learner.settings)
    assert set(names) == {"epochs", "batch_size"}
    assert set(dict(Run(data="digits").stream.settings)) == {"tasks"}
    assert dict(Run(data="digits").data.settings) == {}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner": {**LEARNER, "final_lr": 0.1}}, "ends a schedule: give schedule: cosine"),
        ({"learner": {**LEARNER, "schedule": "cosine", "final_lr": 1.0}}, r"give a share in \[0, 1\)"),
        ({"learner": {**LEARNER, "schedule": "step"}}, "schedule of learner supervised is 'step'"),
        ({"learner": {**LEARNER, "warmup_steps": 0}}, "warmup_steps of learner supervised is 0"),
        ({"learner": {**LEARNER, "schedule_over": "run"}}, "needs schedule or warmup_steps"),
        ({"stream": "online-permutation"}, "shows every example once: set epochs: 1"),
        ({"stream": {"name": "random-labels", "blend": "mixture"}}, "is not gradual"),
    ],
)
def test_impossible_settings_are_refused_before_anything_starts(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        Run(**{"data": DIGITS, "learner": LEARNER, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "gpt"}, r"network gpt reads token sequences \(length,\), got \(1, 8, 8\)"),
        ({"net": {"name": "cnn"}, "stream": {"name": "sine"}, "data": None}, "network cnn needs images"),
        (
            {"net": NET, "stream": "language", "data": {"name": "text", "path": "texts", "length": 8}},
            "network mlp cannot learn stream language, whose inputs are int64 of shape",
        ),
        (
            {"stream": "class-incremental", "data": {**DIGITS, "samples": 5}},
            "class . of data 'digits' has no",
        ),
        ({"stream": "language"}, "stream language reads text, and data 'digits' are none"),
        ({"data": HELD_OUT}, "test_samples=40 of data 'digits': .* leave it out"),
        ({"stream": f"{__name__}:HoldsNothingOut"}, "task 0 .* nothing is held out: set score: training"),
        (
            {"stream": {"name": f"{__name__}:Flips", "gradual": 2, "blend": "interpolation"}},
            "tasks with other classes, or inputs that are whole numbers, cannot be interpolated",
        ),
    ],
)
@pytest.mark.parametrize("how", ["study", "run"])
def test_what_does_not_go_together_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a text " * 100)
    good = Run(data=DIGITS, net=NET, learner=LEARNER, method="adam")
    bad = Run(**{"data": DIGITS, "net": NET, "learner": LEARNER, "method": "adam", **settings})
    out, both = tmp_path / "out", Study("two", [good, bad])
    start = {"study": lambda: run_study(both, out, executor="inline"), "run": lambda: execute(bad, out)}[how]
    with pytest.raises(IsoplastError, match=message) as caught:
        start()
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("spec.yaml"))


def test_a_run_that_was_begun_is_tried_again_before_it_goes_on(tmp_path: Path) -> None:
    bad = Run(data=DIGITS, net="gpt", learner=LEARNER, method="adam")
    directory = RunDirectory.create(tmp_path, bad)
    with pytest.raises(IsoplastError, match="network gpt reads token sequences"):
        execute(bad, tmp_path)
    assert directory.status().state == "failed"
    assert not directory.checkpoint.exists()


def test_a_stream_that_counts_no_held_out_samples_trains_without_them(tmp_path: Path) -> None:
    data = {"name": "digits", "hold_out": 0.25}
    run = Run(
        stream={"name": "random-labels", "tasks": 1}, data=data, net=NET, learner=LEARNER, method="adam"
    )
    opened = open_run(execute(run, tmp_path).path)
    assert len(opened.task.targets) == 1437 - round(1437 / 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldsNothingOut(Stream):
    scored: ClassVar[Any] = "held-out"

    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        return Task(index, source.data.inputs, source.data.targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flips(Stream):
    interpolates: ClassVar[bool] = True

    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        return Task(index, source.data.inputs, (source.data.targets + index) % 10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_that_tasks_share_are_on_the_gpu_once(tmp_path: Path) -> None:
    stream = {"name": "pixel-permutation", "tasks": 3}
    run = Run(stream=stream, data=DIGITS, net=NET, learner=LEARNER, method="adam", device="cuda")
    opened = open_run(execute(run, tmp_path).path)
    learner: Any = opened.learner
    for index in range(3):
        task = opened.problem.task(index)
        assert torch.equal(learner.inputs(task).cpu(), task.inputs)
    assert len(learner._copies) == 1
