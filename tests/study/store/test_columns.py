"""Rows as columns: what is parsed at once is what the rows say one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from isoplast._core.errors import IsoplastError
from isoplast.study import Run, RunDirectory, load_study
from isoplast.study.store import _columns
from isoplast.study.store._columns import metric_columns
from isoplast.study.store._files import checked_lines

NUMBER = st.one_of(
    st.none(), st.floats(), st.integers(-5, 5), st.sampled_from([math.inf, -math.inf, math.nan])
)
TEXT = st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["inf", "nan", "0.5", "MLP"]))
ROW = st.fixed_dictionaries(
    {"task": st.integers(-1, 9)},
    optional={
        "steps": st.integers(0, 2**40),
        "primary": st.sampled_from(["accuracy", "return"]),
        "accuracy": NUMBER,
        "return": NUMBER,
        "environment": TEXT,
        "layers": st.one_of(st.none(), st.lists(TEXT, max_size=3)),
        "sigma_max": st.one_of(st.none(), st.lists(NUMBER, max_size=3)),
        "sigma_count": st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=2)),
        "sigma_quantiles": st.one_of(st.none(), st.lists(st.lists(NUMBER, max_size=2), max_size=2)),
        "of_somebody_else": NUMBER,
    },
)


def written(folder: Path, rows: list[dict[str, Any]], name: str = "run") -> RunDirectory:
    directory = RunDirectory(folder / name)
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.metrics.unlink(missing_ok=True)
    directory.append(rows)
    return directory


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROW, max_size=4), more=st.lists(ROW, max_size=3))
def test_rows_at_once_are_the_rows_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], more: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "columns"
    directories = [written(folder, rows, "one"), written(folder, more, "other")]
    found, counts = metric_columns(directories)
    lines = [checked_lines(directory.metrics) for directory in directories]
    assert counts == [len(rows), len(more)]
    one_by_one = _columns._row_by_row(directories, lines)
    empty = [name for name in one_by_one.columns if one_by_one[name].is_null().all()]
    assert_frame_equal(found.drop(empty, strict=False), one_by_one.drop(empty), check_column_order=False)


def test_a_metric_that_only_some_row_in_the_middle_has_is_read(tmp_path: Path) -> None:
    rows = [{"task": task, **({"of_somebody_else": 0.5} if task == 5 else {})} for task in range(9)]
    found, _ = metric_columns([written(tmp_path, rows)])
    assert found["of_somebody_else"].to_list() == [None] * 5 + [0.5] + [None] * 3


def test_what_runs_write_is_read_at_once(tmp_path: Path) -> None:
    """That is the quick way: nothing usual may leave it."""
    row = {
        "task": 0,
        "steps": 512,
        "seconds": 0.5,
        "primary": "accuracy",
        "accuracy": 1 / 3,
        "loss": math.inf,
        "layers": ["a", "b"],
        "sigma_max": [-math.inf, 3],
        "sigma_quantiles": [[math.nan, 1.5], [0.0, 1.0]],
        "ntk_condition_number": None,
        "of_somebody_else": 3,
    }
    lines = checked_lines(written(tmp_path, [{"task": -1}, row, *[{"task": 1}] * 3]).metrics)
    found = _columns._at_once([lines])
    assert found is not None
    last = found.row(1, named=True)
    assert (last["accuracy"], last["loss"], last["sigma_max"]) == (1 / 3, math.inf, [-math.inf, 3.0])
    assert math.isnan(last["sigma_quantiles"][0][0])
    assert (last["of_somebody_else"], last["method_active"]) == (3.0, None)
    assert found["ntk_condition_number"].dtype == pl.Float64


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"steps": 1.5, "accuracy": "a"}, "accuracy is 'a', which is no number"),
        ({"steps": "inf"}, "steps is 'inf', which is no count"),
        ({"sigma_max": 3.0}, r"sigma_max is '3.0', which is no number"),
        ({"sigma_quantiles": [1.0]}, r"sigma_quantiles is '\[1.0\]', which is no number"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    directory = written(tmp_path, [{"task": 0, "steps": 1}, {"task": 1, **row}])
    with pytest.raises(IsoplastError, match=words):
        metric_columns([directory])


def test_every_flipped_bit_of_a_row_is_found(tmp_path: Path) -> None:
    directory = written(tmp_path, [{"task": 0, "accuracy": 0.25}])
    whole = directory.metrics.read_bytes()
    for place in range(len(whole) - 1):  # without its newline the line counts as torn
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            directory.metrics.write_bytes(flipped)
            with pytest.raises(IsoplastError, match="line 1 is damaged"):
                metric_columns([directory])


def test_the_score_is_the_primary_metric_of_each_row(tiny: Callable[..., Run], tmp_path: Path) -> None:
    run = tiny()
    rows = [
        {"task": -1, "primary": "accuracy", "accuracy": 0.5, "loss": 2.0},
        {"task": 0, "primary": "loss", "accuracy": 0.5, "loss": 2.0},
        {"task": 1, "primary": "return"},
        {"task": 2},
    ]
    RunDirectory.create(tmp_path, run).append(rows)
    frame = load_study(tmp_path)
    assert frame["score"].to_list() == [0.5, 2.0, None, None]
    assert frame["run_id"].unique().to_list() == [run.id]


def test_a_study_without_a_row_is_an_empty_frame(tiny: Callable[..., Run], tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, tiny())
    frame = load_study(tmp_path)
    assert len(frame) == 0
    assert {"run_id", "label", "seed", "score", "task", "primary"} <= {*frame.columns}
    assert json.dumps(frame.columns)
