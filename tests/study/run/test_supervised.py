"""The supervised learner: the order of the data, the count of steps, online and held-out scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.data import Dataset
from isoplast.methods import MethodInfo, StepContext
from isoplast.nn import NetSpec
from isoplast.streams import STREAMS, Stream, Task, TaskSequence
from isoplast.study import Run, Supervised, Switch, execute, load_study, read_rows
from isoplast.study.run._execute import open_problem, start_learner

MakeRun = Callable[..., Run]


@dataclass(frozen=True)
class Notes(methods.Adam):
    """Adam, which writes down what every step was given."""

    name: ClassVar[str] = "notes"
    info: ClassVar[MethodInfo] = MethodInfo("Notes", "-", "-")
    batches: ClassVar[list[list[float]]] = []
    counts: ClassVar[list[int]] = []

    def after_step(self, step: StepContext) -> None:
        self.batches.append(step.inputs.flatten(1).sum(1).tolist())
        self.counts.append(step.step)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> type[Notes]:
    monkeypatch.setitem(methods.METHODS._known, "notes", Notes)
    monkeypatch.setattr(Notes, "batches", [])
    monkeypatch.setattr(Notes, "counts", [])
    return Notes


def passes(notes: type[Notes], steps: int) -> list[list[float]]:
    """What each pass over the data saw, in order."""
    batches = notes.batches
    starts = range(0, len(batches), steps)
    return [[one for batch in batches[at : at + steps] for one in batch] for at in starts]


def test_every_pass_sees_every_sample_once_in_an_order_of_its_own(
    tiny: MakeRun, tmp_path: Path, notes: type[Notes]
) -> None:
    execute(tiny(method="notes", tasks=2, epochs=3), tmp_path)
    seen = passes(notes, steps=2)
    assert len(seen) == 6
    assert all(sorted(one) == sorted(seen[0]) for one in seen)
    orders = {tuple(one) for one in seen}
    assert len(orders) == 6, "an order came twice, in another epoch or another task"


def test_the_order_depends_on_the_seed(tiny: MakeRun, tmp_path: Path, notes: type[Notes]) -> None:
    for seed in (0, 1):
        execute(tiny(method="notes", tasks=1, epochs=1, seed=seed), tmp_path)
    first, second = passes(notes, steps=2)
    assert first != second


def test_a_method_that_takes_over_counts_its_steps_from_one(
    tiny: MakeRun, tmp_path: Path, notes: type[Notes]
) -> None:
    execute(tiny(method="notes", tasks=2, epochs=1, switch=Switch(1, "notes")), tmp_path)
    assert notes.counts == [1, 2, 1, 2]
    notes.counts.clear()
    execute(tiny(method="notes", tasks=2, epochs=1), tmp_path)
    assert notes.counts == [1, 2, 3, 4]


def test_gradients_are_clipped_where_asked_for(tiny: MakeRun, tmp_path: Path) -> None:
    norms = {}
    for clip in (None, 1e-3):
        run = tiny(method="adam", tasks=1)
        learner = {"name": "supervised", "epochs": 1, "batch_size": 128, "clip_norm": clip}
        run = Run.from_mapping({**run.to_mapping(), "label": "", "learner": learner})
        problem = open_problem(run)
        made = start_learner(run, problem, 0)
        made.begin(problem.task(0))
        made.advance()
        gradients = [p.grad for p in made.network.parameters() if p.grad is not None]
        norms[clip] = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert norms[None] > 0.1
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


@dataclass(frozen=True, kw_only=True)
class Halves(Stream):
    """The first half of the data to train on, the second held out; the online accuracy counts."""

    name: ClassVar[str] = "halves"
    primary: ClassVar[str] = "online_accuracy"

    def make_task(self, source: TaskSequence, index: int) -> Task:
        assert source.data is not None
        inputs, targets = source.data.inputs, source.data.targets
        half = len(inputs) // 2
        return Task(index, inputs[:half], targets[:half], inputs[half:], targets[half:])


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STREAMS._known, "halves", Halves)


@dataclass(frozen=True, kw_only=True)
class Constant(NetSpec):
    """Says class 0, whatever it sees and however it is trained."""

    name: ClassVar[str] = "constant"

    def build(self, input_shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        layer = torch.nn.Linear(torch.Size(input_shape).numel(), classes)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(1e6 * (torch.arange(classes) == 0))
        return torch.nn.Sequential(torch.nn.Flatten(), layer)


@pytest.mark.usefixtures("halves")
def test_training_held_out_and_online_scores_are_told_apart(
    tiny: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoplast.nn import NETS

    monkeypatch.setitem(NETS._known, "constant", Constant)
    targets = [0] * 30 + [1] * 10 + [0] * 8 + [1] * 32  # right: 30 of 40 in training, 8 of 40 held out
    data = Dataset(torch.zeros(80, 3), torch.tensor(targets), name="made-up")  # type: ignore[arg-type]
    monkeypatch.setattr("isoplast.study.run._execute.load_part", lambda run: data)
    run = tiny(stream="halves", net="constant", method="adam", lr=1e-9, instruments=False)
    execute(run, tmp_path)
    frame = load_study(tmp_path)
    trained = frame.filter(frame["task"] >= 0)
    assert trained["accuracy"].to_list() == [0.75] * 24
    assert trained["test_accuracy"].to_list() == [0.2] * 24
    assert trained["online_accuracy"].to_list() == [0.75] * 24
    assert trained["score"].to_list() == trained["online_accuracy"].to_list()
    assert frame["online_accuracy"][0] is None  # the untrained network has seen nothing yet
    assert "sigma_max" not in frame.columns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs of learner supervised is 0: it must be at least 1"),
        ({"batch_size": 0}, "batch_size of learner supervised is 0"),
        ({"clip_norm": 0.0}, "clip_norm of learner supervised is 0.0: it must be positive"),
        ({"epochs": 1.5}, "epochs of learner supervised is 1.5: it must be a whole number"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        Supervised(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("every", "looks"), [(1, [-1, 0, 1, 2, 3]), (2, [-1, 1, 3]), (3, [-1, 2, 3]), (9, [-1, 3])]
)
def test_instruments_look_every_so_many_tasks_and_before_the_first_and_after_the_last(
    tiny: MakeRun, tmp_path: Path, every: int, looks: list[int]
) -> None:
    run = tiny(tasks=4, instruments=["weights"], instruments_every=every)
    rows = read_rows(execute(run, tmp_path).metrics)
    assert [row["task"] for row in rows if "sigma_max" in row] == looks
    assert all("accuracy" in row for row in rows)


def test_seldom_looks_change_no_bit_of_the_training(tiny: MakeRun, tmp_path: Path) -> None:
    kept = []
    for every in (1, 3):
        rows = read_rows(execute(tiny(tasks=3, instruments_every=every), tmp_path).metrics)
        kept.append([(row["accuracy"], row["loss"]) for row in rows] + [rows[-1]["sigma_quantiles"]])
    assert kept[0] == kept[1]
