"""Results as frames: one row per run and task, whatever state the runs are in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from isoplast._core.errors import IsoplastError
from isoplast.study import Run, RunDirectory, RunFailed, Study, Switch, execute, load_runs, load_study

TINY = (
    "{name: t, run: {samples: 128, tasks: 2, epochs: 1, net: {name: mlp, width: 16}}, methods: [adamo, adam]}"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    study = Study.parse(TINY)
    study.describe(out)
    for run in reversed(study.runs):  # the frame must be in the study's order, not in the order of the work
        execute(run, out)
    return out


def test_one_row_per_run_and_task_in_the_studys_order(finished: Path) -> None:
    frame = load_study(finished)
    assert frame["label"].to_list() == ["AdamO"] * 3 + ["Adam"] * 3
    assert frame["task"].to_list() == [-1, 0, 1] * 2
    assert frame["method_active"].to_list() == ["adamo"] * 3 + ["adam"] * 3
    assert frame["run_id"][0] == Study.parse(TINY).runs[0].id


def test_the_specification_is_in_the_columns(finished: Path) -> None:
    row = load_study(finished).row(0, named=True)
    wanted = {
        "stream": "random-labels",
        "data": "digits",
        "samples": 128,
        "tasks": 2,
        "epochs": 1,
        "net": "mlp",
    }
    assert wanted.items() <= row.items()
    assert (row["width"], row["activation"], row["lr"], row["seed"]) == (16, "relu", 1e-3, 0)
    assert (row["isometry"], row["isometry_every"]) == (0.01, "auto")


def test_the_metrics_have_their_types(finished: Path) -> None:
    schema = load_study(finished).schema
    assert schema["task"] == schema["steps"] == pl.Int64
    assert schema["accuracy"] == schema["loss"] == schema["chance"] == schema["seconds"] == pl.Float64
    assert schema["layers"] == schema["units"] == pl.List(pl.String)
    for name in (
        "sigma_min",
        "sigma_mean",
        "sigma_max",
        "condition_number",
        "effective_rank",
        "dead",
        "dormant",
    ):
        assert schema[name] == pl.List(pl.Float64)


def test_a_single_run_is_a_study_too(finished: Path) -> None:
    run = Study.parse(TINY).runs[1]
    assert load_study(finished / run.id)["label"].unique().to_list() == ["Adam"]


def test_runs_that_the_study_does_not_name_any_more_are_left_out(finished: Path, tmp_path: Path) -> None:
    for name in ("study.yaml", "index.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    other = Run.from_mapping(
        {"samples": 128, "tasks": 1, "epochs": 1, "net": {"width": 16}, "method": "adam"}
    )
    execute(other, tmp_path)
    assert load_study(tmp_path / other.id).height == 2
    assert load_study(tmp_path).height == 0
    (tmp_path / "index.json").unlink()
    assert load_study(tmp_path).height == 2


def test_settings_of_different_kinds_share_a_column(tiny: Callable[..., Run], tmp_path: Path) -> None:
    for every in (3, "auto"):
        execute(tiny(method={"name": "adamo", "isometry_every": every}, tasks=1), tmp_path)
    switched = tiny(method="adam", tasks=2, switch=Switch(1, {"name": "adamo", "isometry": 0.5}))
    execute(switched, tmp_path)
    frame = load_study(tmp_path)
    assert set(frame["isometry_every"].to_list()) == {"3", "auto", None}
    row = frame.filter(pl.col("switch_task") == 1).row(-1, named=True)
    assert (row["method"], row["switch_method"], row["switch_isometry"]) == ("adam", "adamo", 0.5)
    assert row["method_active"] == "adamo"


def test_unfinished_and_failed_runs_contribute_what_they_have(
    tiny: Callable[..., Run], tmp_path: Path
) -> None:
    failing = tiny(method="adam", lr=1e30)
    with pytest.raises(RunFailed):
        execute(failing, tmp_path)
    RunDirectory.create(tmp_path, tiny(seed=1))
    torn = execute(tiny(seed=2), tmp_path)
    torn.metrics.write_bytes(torn.metrics.read_bytes()[:-10])
    frame = load_study(tmp_path)
    assert dict(frame.group_by("seed").len().iter_rows()) == {0: 1, 2: 3}
    runs = {row["seed"]: row for row in load_runs(tmp_path).iter_rows(named=True)}
    assert [runs[seed]["state"] for seed in (0, 1, 2)] == ["failed", "waiting", "done"]
    assert "the loss is" in runs[0]["reason"]
    assert json.loads(runs[2]["provenance"])["versions"]["python"]


def test_infinity_survives(tiny: Callable[..., Run], tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny())
    directory.append(
        [{"task": 0, "primary": "accuracy", "condition_number": [math.inf, 2.0], "loss": math.inf}]
    )
    row = load_study(tmp_path).row(0, named=True)
    assert row["condition_number"] == [math.inf, 2.0]
    assert row["loss"] == math.inf
    assert row["score"] is None


def test_no_results_is_said_in_one_line(tmp_path: Path) -> None:
    for load in (load_study, load_runs):
        with pytest.raises(
            IsoplastError, match="holds no results: give the directory of a study or of a run"
        ):
            load(tmp_path / "gone")


def test_a_setting_whose_name_is_taken_has_its_owner_in_front(
    tiny: Callable[..., Run], tmp_path: Path
) -> None:
    directory = RunDirectory.create(tmp_path, tiny(seed=3))
    directory.append([{"task": 0, "loss": 0.5}])
    spec = yaml.safe_load(directory.spec.read_text())
    spec["method"] |= {"seed": 7, "width": 8, "loss": 9}  # as a method to come may name its settings
    directory.spec.write_text(yaml.safe_dump(spec, sort_keys=False))
    row = load_study(tmp_path).row(0, named=True)
    assert (row["seed"], row["width"], row["loss"]) == (3, 16, 0.5)
    assert (row["method_seed"], row["method_width"], row["method_loss"]) == (7, 8, 9)
