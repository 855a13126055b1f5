"""Where numbers go."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from isoplast._core.errors import IsoplastError
from isoplast._core.sinks import sink

RECORD = {"step": 7.0, "seconds": 0.5, "weights/largest": 2.0, 'weights/odd, "name"/mean': math.inf}


class Writer:
    """What a TensorBoard SummaryWriter is asked for."""

    def __init__(self):
        self.calls = []

    def add_scalar(self, tag, value, global_step):
        self.calls.append((tag, value, global_step))


class Run:
    """What a Weights & Biases run is asked for."""

    def __init__(self):
        self.logged, self.axes = [], []

    def log(self, data):
        self.logged.append(data)

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))


def test_csv_holds_every_number_exactly(tmp_path):
    path = tmp_path / "new" / "numbers.csv"
    write = sink(path)
    write(7, RECORD)
    write(9, {"step": 9.0, "ntk/trace": 1 / 3, "ntk/rank": math.nan})
    frame = pl.read_csv(path, schema_overrides={"value": pl.Float64})
    assert frame.columns == ["step", "name", "value"]
    assert frame["step"].to_list() == [7, 7, 7, 9, 9]
    assert frame["name"].to_list()[2] == 'weights/odd, "name"/mean'
    assert frame["value"].to_list()[:4] == [0.5, 2.0, math.inf, 1 / 3]
    assert math.isnan(frame["value"][4])


def test_csv_goes_on_after_what_is_there(tmp_path):
    path = str(tmp_path / "numbers.csv")
    for step in (1, 2):
        sink(path)(step, {"step": float(step), "a/b": 0.0})
    text = (tmp_path / "numbers.csv").read_text()
    assert text == "step,name,value\n1,a/b,0.0\n2,a/b,0.0\n"


def test_tensorboard_gets_scalars_in_groups_at_the_step():
    writer = Writer()
    sink(writer)(7, RECORD)
    assert writer.calls[:2] == [("monitor/seconds", 0.5, 7), ("weights/largest", 2.0, 7)]
    assert len(writer.calls) == 3


def test_weights_and_biases_gets_one_dict_with_the_step_as_an_axis():
    run = Run()
    write = sink(run)
    write(7, RECORD)
    write(9, {"step": 9.0, "seconds": 1.0, "weights/largest": 3.0, "ntk/trace": 1.0})
    assert run.logged[1] == {
        "monitor/seconds": 1.0,
        "weights/largest": 3.0,
        "ntk/trace": 1.0,
        "monitor/step": 9,
    }
    assert run.axes == [(f"{group}/*", "monitor/step") for group in ("monitor", "weights", "ntk")]


def test_numbers_of_something_else_have_an_axis_of_their_own():
    writer, run = Writer(), Run()
    sink(writer, "run/tasks")(2, {"seconds": 0.5, "score/loss": 1.0})
    sink(run, "run/tasks")(2, {"seconds": 0.5, "score/loss": 1.0})
    assert writer.calls == [("run/seconds", 0.5, 2), ("score/loss", 1.0, 2)]
    assert run.logged == [{"run/seconds": 0.5, "score/loss": 1.0, "run/tasks": 2}]
    assert run.axes == [("run/*", "run/tasks"), ("score/*", "run/tasks")]


def test_a_function_gets_the_record_as_it_is():
    got = []
    sink(lambda step, record: got.append((step, record)))(7, RECORD)
    assert got == [(7, RECORD)]


@pytest.mark.parametrize(("target", "word"), [("numbers.txt", "numbers.txt"), (3, "int"), (None, "NoneType")])
def test_anything_else_is_refused_in_one_line(target, word):
    with pytest.raises(IsoplastError, match=word) as raised:
        sink(target)
    assert "\n" not in str(raised.value)


def test_a_row_that_fits_by_half_leaves_none(tmp_path, monkeypatch):
    """A disk that becomes full on the way takes a part of a write without an error."""
    path = tmp_path / "numbers.csv"
    write = sink(path)
    write(1, {"step": 1.0, "a/b": 0.0})
    before = path.read_bytes()

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, contents):
            return self.file.write(contents[:7])

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(real(self, *a, **k)))
    with pytest.raises(OSError, match="No space left"):
        write(2, {"step": 2.0, "a/b": 0.0})
    monkeypatch.undo()
    assert path.read_bytes() == before
    write(3, {"step": 3.0, "a/b": 0.0})
    assert path.read_text() == "step,name,value\n1,a/b,0.0\n3,a/b,0.0\n"


def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(IsoplastError, match="cannot be written") as raised:
        sink(tmp_path / "file" / "numbers.csv")
    assert "\n" not in str(raised.value)
