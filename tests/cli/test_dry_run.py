"""`--dry-run`: what is listed, and that nothing happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoplast.cli import main
from isoplast.study import Study, run_study

FILE = """
name: small
run: {samples: 64, tasks: 4, epochs: 2, net: {name: mlp, width: 8}, instruments: false}
methods: [adam, {label: strong, method: {name: adamo, isometry: 1}, lr: 1e-1}, adamo]
seeds: [0, 1, 2, 3]
"""
TUNE = """
tune:
  space: {lr: [1e-3, 1e-2]}
  seeds: [100, 101]
  fraction: 0.5
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of a study, in the folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("small.yaml").write_text(FILE)
    return "small.yaml"


def test_runs_times_and_costs_are_listed(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study.load(Path(small))
    run_study(Study("small", [run for run in study.runs if run.seed == 0]), "runs/small", executor="inline")
    before = sorted(Path("runs").rglob("*"))
    assert main(["study", small, "--dry-run", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    words = " ".join(said.split())
    assert "small: 9 of 12 runs to do, results in runs/small; nothing is started" in words
    assert said.count("1-3 to do") == said.count("0 done") == 3
    assert "12 500, 0.00064 x" in words  # AdamO: 8 steps
    assert "1, 6.4 x" in words  # 1 / (8 x 0.1 x 1) = 1.25
    assert "warning: a run is shorter than the isometry time of AdamO: only large" in words
    assert "with 2 at a time. From finished tasks of these runs" in words
    assert sorted(Path("runs").rglob("*")) == before


def test_a_fresh_study_is_measured_and_leaves_no_trace(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", small, "--dry-run", "seeds=[0]"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "small: 3 of 3 runs to do" in words
    assert "From some steps and one set of measurements of a run of each method, taken just now" in words
    assert [path.name for path in Path().iterdir()] == [small]


def test_problems_of_one_kind_are_told_apart(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    shared = FILE.replace("tasks: 4, ", "")
    Path(small).write_text(f"{shared}streams: [{{stream: {{tasks: 2}}}}, {{stream: {{tasks: 3}}}}]\n")
    assert main(["study", small, "--dry-run", "seeds=[0]"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.count("tasks 2") == words.count("tasks 3") == 3


def test_the_trials_of_a_tuning_are_listed(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(small).write_text(
        FILE.replace("{label: strong, method: {name: adamo, isometry: 1}, lr: 1e-1}, ", "") + TUNE
    )
    assert main(["tune", small, "--dry-run"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "small-sweep: 8 of 8 runs to do, results in runs/small-tuning/sweep; nothing is started" in words
    assert "AdamO, lr 0.01 100, 101 to do 4 1 250, 0.0032 x" in words
    assert main(["tune", small, "select", "--dry-run"]) == 2
    assert "stage select does no runs: give --dry-run with sweep or run" in capsys.readouterr().err
    pytest.importorskip("optuna")
    Path(small).write_text(Path(small).read_text() + "  sampler: tpe\n  trials: 5\n")
    assert main(["tune", small, "--dry-run"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "a bound and no plan: at most 20 runs (5 trials x 2 seeds x 2 methods), 40 tasks;" in words
    assert [path.name for path in Path().iterdir()] == [small]
