"""Tuning: one space and budget for all, seeds of its own, a choice with its doubts, a frozen study."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic_sweep
from same_bits import rows_without_seconds

from isoplast._core.errors import IsoplastError
from isoplast.cli import main
from isoplast.cli.studies import _tune
from isoplast.study import (
    Axis,
    NotSwept,
    RunDirectory,
    Study,
    Tuning,
    builtin_tunings,
    execute,
    find_tuning,
    freeze,
    load_study,
    select,
    sweep,
    trials,
)

pytest.importorskip("optuna")

FILE = """
name: small
run: {samples: 64, tasks: 8, epochs: 2, net: {name: mlp, width: 8}, instruments: [weights]}
methods: [adam, adamo]
seeds: [0, 1, 2]
tune:
  space: {lr: [1e-3, 1e-2, 1e-1], isometry: [1e-2, 1e-1]}
  seeds: [100, 101]
  fraction: 0.5
"""


def tuning(**changes: Any) -> Tuning:
    text = FILE
    for key, value in changes.items():
        text += f"  {key}: {value}\n"
    return Tuning.parse(text)


def test_every_method_is_tried_on_the_axes_it_has() -> None:
    one = tuning()
    assert sorted(tuple(values.values()) for values in one.settings("Adam")) == [(1e-3,), (1e-2,), (1e-1,)]
    grid = {tuple(values.items()) for values in one.settings("AdamO")}
    assert grid == {
        (("lr", lr), ("isometry", strength)) for lr in (1e-3, 1e-2, 1e-1) for strength in (1e-2, 1e-1)
    }
    assert one.tasks("AdamO") == 4
    run = one.run("AdamO", {"lr": 1e-2, "isometry": 1e-1}, 100)
    assert (run.lr, dict(run.method.settings)["isometry"], run.tasks, run.seed) == (1e-2, 1e-1, 4, 100)
    assert run.instruments == ()


def test_a_budget_is_the_same_for_all_and_no_trial_is_done_twice() -> None:
    one = tuning(trials=2, sampler="random")
    wide = Tuning.parse(FILE + "  trials: 4\n")
    assert len(list(wide.settings("Adam"))) == 3  # all it has
    assert len(list(wide.settings("AdamO"))) == 4
    assert wide.settings("AdamO") == wide.settings("AdamO")
    drawn = one.settings("AdamO")
    assert len(drawn) == 2
    assert drawn[0] != drawn[1]
    assert one.settings("AdamO") == drawn


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [100, 101]", "seeds: [100, 2]", "2 is a seed of the evaluation, too"),
        ("seeds: [100, 101]", "seeds: []", "it is empty"),
        ("fraction: 0.5", "fraction: 0", "fraction is 0: it must be a number above 0"),
        ("fraction: 0.5", "fraction: true", "fraction is True: it must be a number"),
        ("fraction: 0.5", "fraction: 1.5", "fraction is 1.5"),
        ("fraction: 0.5", "fractoin: 0.5", "did you mean 'fraction'"),
        ("{lr: [1e-3, 1e-2, 1e-1], isometry: [1e-2, 1e-1]}", "{}", "space is empty"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: 1e-1, high: 1e-3}", "low must be below high"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: 0, high: 1e-3, log: true}", "above 0 on a log scale"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: 1e-4, high: 1e-3}", "a range has no grid"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: [1e-3, 1e-3]", "holds a value twice"),
        ("lr: [1e-3, 1e-2, 1e-1], ", "", "method 'Adam' has none of the settings"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: 1e-3", "give a list of values"),
        ("seeds: [100, 101]", "seeds: [100, 100]", "tune.seeds holds 100 twice"),
        ("seeds: [100, 101]", "seeds: [-4]", "a seed of tune.seeds is -4"),
        (
            "fraction: 0.5",
            "fraction: 0.1\n  last: 9",
            "last is 9, and a trial of 'Adam' has 1 tasks: make it",
        ),
        ("isometry: [", "isometri: [", "unknown setting in tune.space 'isometri': did you mean 'isometry'"),
        ("isometry: [1e-2, 1e-1]", "width: [8, 16]", "unknown setting in tune.space 'width'"),
        ("isometry: [1e-2, 1e-1]", "isometry: [-1]", "tune.space does not suit 'AdamO': isometry"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: [1, 1.0]", "lr holds a value twice"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: 1e-3, high: .inf, log: true}", "give finite numbers"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: -.inf, high: 1}", "give finite numbers"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: .nan, high: 1}", "give finite numbers"),
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: -1.7e308, high: 1.7e308}", "give finite numbers"),
        ("fraction: 0.5", "sampler: cmaes", "unknown sampler of tune 'cmaes'"),
        ("fraction: 0.5", "sampler: tpe", "trials is missing"),
        ("fraction: 0.5", "trials: 0", "tune.trials"),
        ("methods: [adam, adamo]", "methods: [adam, adamw, admo]", "did you mean 'adamo'"),
    ],
)
def test_bad_input_is_one_line(old: str, new: str, words: str) -> None:
    assert old in FILE
    with pytest.raises(IsoplastError) as found:
        Tuning.parse(FILE.replace(old, new))
    assert words in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize(
    ("lr", "words"),
    [
        ("[1e-3, abc]", "lr is 'abc'"),
        ("{low: -1, high: 1e-3}", "lr is -1"),
        ("{low: 1e-3, high: 1e39}", "lr is 1e+39"),
    ],
)
def test_a_space_is_tried_on_the_methods_before_the_search(sampler: str, lr: str, words: str) -> None:
    text = FILE.replace("[1e-3, 1e-2, 1e-1]", lr) + f"  sampler: {sampler}\n  trials: 5\n"
    with pytest.raises(IsoplastError, match=r"tune\.space does not suit 'Adam'") as found:
        Tuning.parse(text)
    assert words in str(found.value)


def test_a_setting_that_is_none_by_default_is_an_axis_where_a_method_gives_it() -> None:
    text = FILE.replace("isometry: [1e-2, 1e-1]", "isometry: [1e-2, 1e-1], isometry_time: [100, 1000]")
    with pytest.raises(IsoplastError, match="no method sets it: give it a value in 'methods'"):
        Tuning.parse(text)
    both = "adamo, {label: timed, method: {name: adamo, isometry_time: 500}}]"
    one = Tuning.parse(text.replace("adamo]", both))
    assert [axis.name for axis in one.axes("AdamO")] == ["lr", "isometry"]
    assert [axis.name for axis in one.axes("timed")] == ["lr", "isometry_time"]


@pytest.mark.parametrize("log", ["", ", log: true"])
def test_whole_numbers_are_drawn_where_the_setting_is_one(log: str) -> None:
    text = FILE.replace("isometry: [1e-2, 1e-1]", f"isometry_every: {{low: 1, high: 8{log}}}")
    text = text.replace("[1e-3, 1e-2, 1e-1]", "{low: 1, high: 2}") + "  sampler: random\n  trials: 20\n"
    one = Tuning.parse(text)
    drawn = one.settings("AdamO")
    assert {type(values["isometry_every"]) for values in drawn} == {int}
    assert {1, 8} <= {values["isometry_every"] for values in drawn} <= {*range(1, 9)}
    assert {type(values["lr"]) for values in drawn} == {float}
    with pytest.raises(IsoplastError, match=r"isometry_every of method adamo is 1\.5"):
        Tuning.parse(text.replace(f"high: 8{log}", "high: 1.5"))


def test_the_edges_of_an_axis() -> None:
    grid = Axis("lr", (1e-3, 1e-2, 1e-1))
    assert [grid.at_edge(value) for value in grid.values] == ["lowest", "", "highest"]
    assert Axis("lr", (1e-3,)).at_edge(1e-3) == ""  # nothing was tried beside it
    assert Axis("init", ("a", "b")).at_edge("a") == ""
    assert Axis("nesterov", (False, True)).at_edge(True) == ""
    span = Axis("lr", (), 1e-4, 1e-2, log=True)
    assert [span.at_edge(value) for value in (1.1e-4, 1e-3, 9.5e-3)] == ["lowest", "", "highest"]


def test_the_best_mean_is_chosen_and_doubts_are_said(tmp_path: Path) -> None:
    """Scores written by hand: 1e-2 wins clearly for Adam; for AdamO two settings differ by noise alone."""
    one = tuning()
    table = {
        ("Adam", 1e-3, None): lambda seed, task: 0.5,
        ("Adam", 1e-2, None): lambda seed, task: 0.8,
        ("Adam", 1e-1, None): lambda seed, task: 0.3,
        ("AdamO", 1e-3, 1e-2): lambda seed, task: 0.7 + 0.1 * (task % 2),
        ("AdamO", 1e-3, 1e-1): lambda seed, task: 0.7 + 0.1 * ((task + seed) % 2) + 0.001,
    }
    synthetic_sweep.write(one, tmp_path, table, otherwise=0.1)
    adam, adamo = select(one, tmp_path)
    assert adam.values == {"lr": 1e-2}
    assert adam.score == pytest.approx(0.8)
    assert (adam.share, adam.near, adam.edges) == (pytest.approx(1.0), (), ())
    assert adamo.values == {"lr": 1e-3, "isometry": 1e-1}
    assert adamo.score == pytest.approx(0.751)
    ((other, share),) = adamo.near
    assert other == {"lr": 1e-3, "isometry": 1e-2}
    assert adamo.share + share == pytest.approx(1.0)
    assert dict(adamo.edges) == {"lr": "lowest", "isometry": "highest"}
    lines = str(adamo).splitlines()
    assert "near-winners: lr 0.001, isometry 0.01" in lines[1]
    assert any("lr is the lowest value tried" in line for line in lines)


def test_failed_trials_count_as_chance_and_are_said(tmp_path: Path) -> None:
    one = tuning()
    table = {("Adam", 1e-2, None): lambda seed, task: math.nan if task == 2 else 0.9}
    synthetic_sweep.write(one, tmp_path, table, otherwise=0.5)
    adam, _ = select(one, tmp_path)
    assert adam.values == {"lr": 1e-3} or adam.values == {"lr": 1e-1}
    assert adam.failed == 1
    assert "failed runs, which count as chance" in str(adam)


def test_the_frozen_study_has_the_chosen_settings_and_all_else_as_it_was(tmp_path: Path) -> None:
    one = tuning()
    one = dataclasses.replace(one, study=dataclasses.replace(one.study, sinks=["tensorboard"]))
    table = {
        ("Adam", 1e-2, None): lambda seed, task: 0.8,
        ("AdamO", 1e-1, 1e-2): lambda seed, task: 0.9,
    }
    synthetic_sweep.write(one, tmp_path / "sweep", table, otherwise=0.1)
    frozen = freeze(one, select(one, tmp_path / "sweep"), tmp_path / "small.yaml")
    assert Study.load(tmp_path / "small.yaml").runs == frozen.runs
    assert [run.seed for run in frozen.runs] == [run.seed for run in one.study.runs]
    assert frozen.sinks == one.study.sinks
    for run, before in zip(frozen.runs, one.study.runs, strict=True):
        assert run.label == before.label
        settings, old = run.to_mapping(), before.to_mapping()
        assert settings.pop("lr") == (1e-2 if run.label == "Adam" else 1e-1)
        assert settings["method"].pop("isometry", 1e-2) == 1e-2
        old.pop("lr"), old["method"].pop("isometry", None)
        assert settings == old
    text = (tmp_path / "small.yaml").read_text()
    assert "Tuned on 4 of 8 tasks, seeds 100, 101" in text


def test_every_method_is_tuned_on_every_problem_by_itself(tmp_path: Path) -> None:
    names = "{stream: {name: random-labels, tasks: 8}}, {stream: {name: pixel-permutation, tasks: 6}}"
    one = Tuning.parse(FILE.replace("tasks: 8, ", "") + f"streams: [{names}]\n")
    first, second = one.problems
    assert [one.tasks(method) for method in one.problems[first]] == [4, 4]
    assert [one.tasks(method) for method in one.problems[second]] == [3, 3]
    table = {
        (f"Adam on {first}", 1e-2, None): lambda seed, task: 0.8,
        (f"AdamO on {first}", 1e-1, 1e-2): lambda seed, task: 0.9,
        (f"Adam on {second}", 1e-3, None): lambda seed, task: 0.7,
        (f"AdamO on {second}", 1e-2, 1e-1): lambda seed, task: 0.6,
    }
    synthetic_sweep.write(one, tmp_path / "sweep", table, otherwise=0.1)
    choices = select(one, tmp_path / "sweep")
    assert {(choice.method, *choice.values.values()) for choice in choices} == {
        tuple(value for value in key if value is not None) for key in table
    }
    frozen = freeze(one, choices, tmp_path / "small.yaml")
    assert {run.label for run in frozen.runs} == {*one.methods}
    found = {(run.stream.name, run.label.partition(" on ")[0]): run for run in frozen.runs}
    assert len(frozen.runs) == len(one.study.runs) == 12
    lrs = [run.lr for run in found.values()]
    assert sorted(lrs) == [1e-3, 1e-2, 1e-2, 1e-1]
    assert found["pixel-permutation", "Adam"].lr == 1e-3
    assert found["pixel-permutation", "AdamO"].tasks == 6
    assert dict(found["pixel-permutation", "AdamO"].method.settings)["isometry"] == 1e-1
    assert dict(found["random-labels", "AdamO"].method.settings)["isometry"] == 1e-2
    assert "Tuned on 4 of 8, 3 of 6 tasks" in (tmp_path / "small.yaml").read_text()


def test_each_problem_is_tuned_in_the_direction_of_its_own_metric(tmp_path: Path) -> None:
    text = """
    name: two
    run: {stream: {tasks: 2}, epochs: 4, net: {name: mlp, width: 8}}
    streams:
      - {stream: random-labels, data: {name: digits, samples: 64}}
      - {stream: {name: sine, examples: 64}}
    methods: [adam]
    seeds: [0]
    tune: {space: {lr: [1e-9, 1e-2]}, seeds: [100], fraction: 1}
    """
    one = Tuning.parse(text)
    sweep(one, tmp_path, executor="inline")
    choices = select(one, tmp_path)
    assert len(choices) == 2
    assert [choice.values["lr"] for choice in choices] == [1e-2, 1e-2]


def test_words_between_quotes_stay_words() -> None:
    """YAML 1.1, which PyYAML writes, takes 0o10 for a word; YAML 1.2 for eight."""
    one = Tuning.parse(FILE.replace("adamo]", "{method: adamo, label: '0o10'}]") + "about: '1e-3'\n")
    assert list(one.methods) == ["Adam", "0o10"]
    assert one.study.about == "1e-3"


def test_numbers_are_found_again_however_they_were_written(tmp_path: Path) -> None:
    text = FILE.replace("isometry: [1e-2, 1e-1]", "isometry: [0, 1e-1]").replace(
        "[1e-3, 1e-2, 1e-1]", "[1, 2]"
    )
    one = Tuning.parse(text)
    synthetic_sweep.write(one, tmp_path, {("AdamO", 1, 0): lambda seed, task: 0.9}, otherwise=0.5)
    adam, adamo = select(one, tmp_path)
    assert (adam.trials, adamo.trials) == (2, 4)
    assert adamo.values == {"lr": 1, "isometry": 0}
    frozen = freeze(one, [adam, adamo], tmp_path / "small.yaml")
    assert dict(frozen.runs[1].method.settings)["isometry"] == 0


def test_settings_that_are_lists_are_drawn() -> None:
    text = FILE.replace("isometry: [1e-2, 1e-1]", "betas: [[0.9, 0.99], [0.9, 0.999]]")
    one = Tuning.parse(text + "  sampler: random\n  trials: 4\n")
    drawn = one.settings("Adam")
    assert len(drawn) == 4
    assert {tuple(values["betas"]) for values in drawn} == {(0.9, 0.99), (0.9, 0.999)}


def test_a_sweep_of_failures_alone_says_where_the_reasons_are(tmp_path: Path) -> None:
    one = tuning()
    study = trials(one)
    assert study is not None
    study.describe(tmp_path)
    for run in study.runs:
        RunDirectory.create(tmp_path, run).mark_failed("no data")
    with pytest.raises(IsoplastError, match=r"all trials in .* failed: isoplast show"):
        select(one, tmp_path)


def test_an_unfinished_sweep_is_not_selected_from(tmp_path: Path) -> None:
    one = tuning()
    synthetic_sweep.write(one, tmp_path, {}, otherwise=0.5, waiting=1)
    with pytest.raises(IsoplastError, match=r"1 of 18 runs of the trials are not done in"):
        select(one, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr: [1e-3, 1e-2, 1e-1]", "lr: [3e-3, 1e-2]"),
        ("isometry: [1e-2, 1e-1]", "isometry: [1e-2, 1e-1, 1]"),
        ("seeds: [100, 101]", "seeds: [100, 102]"),
        ("fraction: 0.5", "fraction: 0.75"),
        ("epochs: 2", "epochs: 3"),
    ],
)
def test_trials_of_another_tuning_do_not_stand_for_its_own(tmp_path: Path, old: str, new: str) -> None:
    synthetic_sweep.write(tuning(), tmp_path, {}, otherwise=0.5)
    assert old in FILE
    with pytest.raises(NotSwept, match=r"of the trials are not done in .*: the sweep does what is missing"):
        select(Tuning.parse(FILE.replace(old, new)), tmp_path)


def test_trials_that_the_space_does_not_hold_any_more_do_not_count(tmp_path: Path) -> None:
    table = {("Adam", 1e-1, None): lambda seed, task: 0.9, ("Adam", 1e-3, None): lambda seed, task: 0.8}
    synthetic_sweep.write(tuning(), tmp_path, table, otherwise=0.5)
    narrow = FILE.replace("[1e-3, 1e-2, 1e-1]", "[1e-3, 1e-2]").replace("methods: [adam,", "methods: [ADAM,")
    adam, adamo = select(Tuning.parse(narrow.replace("ADAM", "{label: other, method: adam}")), tmp_path)
    assert (adam.method, adam.values, adam.trials, adamo.trials) == ("other", {"lr": 1e-3}, 2, 4)
    alone = Tuning.parse(FILE.replace("adamo]", "{method: adamo, label: O}, {method: adamw, label: W}]"))
    with pytest.raises(NotSwept, match="6 of 24 runs"):
        select(alone, tmp_path)


def test_a_search_finds_its_trials_again_and_no_others(tmp_path: Path) -> None:
    text = FILE.replace("lr: [1e-3, 1e-2, 1e-1]", "lr: {low: 1e-3, high: 1e-1, log: true}")

    def search(wanted: int) -> Tuning:
        return Tuning.parse(text.replace("epochs: 2", "epochs: 1") + f"  sampler: tpe\n  trials: {wanted}\n")

    sweep(search(3), tmp_path, executor="inline")
    assert [choice.trials for choice in select(search(3), tmp_path)] == [3, 3]
    assert [choice.trials for choice in select(search(2), tmp_path)] == [2, 2]
    with pytest.raises(NotSwept, match="4 of 16 runs"):
        select(search(4), tmp_path)


def test_two_methods_that_meet_at_a_setting_share_its_trial(tmp_path: Path) -> None:
    two = "[{label: A, method: adamo}, {label: B, method: {name: adamo, isometry: 1}}]"
    one = Tuning.parse(FILE.replace("[adam, adamo]", two))
    study = trials(one)
    assert study is not None
    assert len(study.runs) == 12
    table = {("A", 1e-2, 1e-1): lambda seed, task: 0.9}
    synthetic_sweep.write(one, tmp_path, table, otherwise=0.5)
    first, second = select(one, tmp_path)
    assert first.values == second.values == {"lr": 1e-2, "isometry": 1e-1}
    assert first.trials == second.trials == 6


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_killed_search_goes_on_to_the_same_choice(tmp_path: Path, sampler: str) -> None:
    text = FILE + f"  sampler: {sampler}\n  trials: 3\n"
    (tmp_path / "small.yaml").write_text(text)
    code = "import sys; from isoplast.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "tune", "small.yaml", "sweep", "--out", "killed"]
    child = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    done = tmp_path / "killed" / "sweep"
    until = time.monotonic() + 120
    while time.monotonic() < until and len(list(done.glob("*/metrics.jsonl"))) < 3:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    assert len(list(done.glob("*/metrics.jsonl"))) >= 3
    subprocess.run(words, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    one = Tuning.load(tmp_path / "small.yaml")
    sweep(one, tmp_path / "whole", executor="inline")
    assert select(one, done) == select(one, tmp_path / "whole")
    names = sorted(path.parent.name for path in done.glob("*/metrics.jsonl"))
    assert names == sorted(path.parent.name for path in (tmp_path / "whole").glob("*/metrics.jsonl"))
    assert len(names) == 12 if sampler == "grid" else 6 <= len(names) <= 12  # TPE repeats what is best


TINY = """
name: tiny
run: {samples: 64, tasks: 2, epochs: 1, net: {name: mlp, width: 8}, instruments: false}
methods: [adam]
seeds: [0]
tune: {space: {lr: [1e-3, 1e-2]}, seeds: [100], fraction: 0.5}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for tuning in the folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return Path("tiny.yaml")


def stage(*words: str) -> int:
    return main(["tune", "tiny.yaml", *words, "--executor", "inline"])


def test_stages_before_the_sweep_name_it(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("select", "freeze", "run", "report"):
        assert stage(name, "--out", "my runs") == 2
        assert "(isoplast tune tiny.yaml sweep --out 'my runs')" in capsys.readouterr().err
    assert stage("--out", "my runs") == 0
    assert "isoplast tune tiny.yaml run --out 'my runs' does it" in capsys.readouterr().out
    tiny.write_text(TINY.replace("1e-2]", "3e-2]"))
    for name in ("select", "freeze", "run", "report"):
        assert stage(name, "--out", "my runs") == 2
        assert "1 of 2 runs of the trials are not done in my runs/sweep" in capsys.readouterr().err


def test_a_frozen_study_of_another_tuning_is_frozen_anew(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = Path("runs/tiny-tuning/evaluation")
    assert stage("sweep") == 0
    assert stage("run", "--dry-run") == 0
    assert not evaluation.parent.joinpath("tiny.yaml").exists()
    assert stage("report") == 2
    assert "isoplast tune tiny.yaml run does what is missing" in capsys.readouterr().err
    assert stage("run") == stage("report") == 0
    done = {path: path.read_bytes() for path in evaluation.glob("*/*") if path.suffix != ".lock"}
    assert len(list(evaluation.glob("*/spec.yaml"))) == 1
    for before, after in (("seeds: [0]", "seeds: [0, 1]"), ("tasks: 2", "tasks: 1")):
        tiny.write_text(tiny.read_text().replace(before, after))
        assert stage("report") == 2
        assert "does not hold the runs with the settings that tiny.yaml leads to" in capsys.readouterr().err
        assert stage("run") == stage("report") == 0
        frozen = Study.load(evaluation.parent / "tiny.yaml")
        assert [(run.seed, run.tasks) for run in frozen.runs] == [
            (run.seed, run.tasks) for run in Tuning.load(tiny).study.runs
        ]
        assert set(load_study(evaluation)["run_id"]) == {run.id for run in frozen.runs}
    assert done == {path: path.read_bytes() for path in done}


def test_a_sweep_with_failures_says_so_and_the_other_stages_go_on(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY.replace("1e-2]", "1e30]"))
    assert stage("sweep") == 1
    assert "2 runs, 1 of them failed" in capsys.readouterr().out
    assert stage() == 1
    assert "frozen: " in capsys.readouterr().out
    assert stage("select") == 0


def test_a_tuning_takes_executors_with_their_settings(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(_tune, "sweep", lambda *_, executor, **__: given.append(executor) or [])
    words = ["tune", "tiny.yaml", "sweep", "--executor"]
    assert main([*words, "ray", "--address", "h:1", "executor.gpus=0.5"]) == 0
    assert main([*words, "slurm", "executor.partition=x"]) == 0
    ray, slurm = given
    assert (ray.name, ray.address, ray.gpus) == ("ray", "h:1", 0.5)
    assert (slurm.name, slurm.partition) == ("slurm", "x")
    assert main(["tune", "tiny.yaml", "executor.gpus=1"]) == 2
    assert "executor local has no settings" in capsys.readouterr().err
    assert main([*words, "local", "lr=1"]) == 2
    assert "got lr=...: write the settings of runs into tiny.yaml" in capsys.readouterr().err
    assert main(["tune", "tiny.yaml", "swep"]) == 2
    assert "unknown stage 'swep': did you mean 'sweep'" in capsys.readouterr().err
    assert len(given) == 2


def test_ready_made_files_are_found_by_name_and_each_command_names_the_other(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(builtin_tunings())
    assert "digits" in names
    for name in names:
        assert Tuning.load(find_tuning(name)) == Tuning.load(find_tuning(f"studies/tuning/{name}.yaml"))
    assert main(["tune", "digitz"]) == 2
    assert "unknown file for tuning 'digitz': did you mean 'digits'" in capsys.readouterr().err
    assert main(["study", "tiny.yaml"]) == 2
    assert "tiny.yaml, line 6: it holds 'tune', as a file for tuning does: give it to isoplast tune" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_all_stages_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = FILE.replace("isometry: [1e-2, 1e-1]", "isometry: [1e-2]").replace(
        "1e-3, 1e-2, 1e-1", "1e-3, 1e-2"
    )
    Path("small.yaml").write_text(text)
    assert main(["tune", "small.yaml"]) == 0
    out = capsys.readouterr().out
    assert "best of 2 trials" in out
    frozen = Study.load(Path("runs/small-tuning/small.yaml"))
    assert main(["tune", "small.yaml", "run"]) == 0
    assert main(["tune", "small.yaml", "report"]) == 0
    assert Path("runs/small-tuning/evaluation/report.html").is_file()
    frame = load_study("runs/small-tuning/evaluation")
    assert set(frame["run_id"]) == {run.id for run in frozen.runs}
    again = execute(frozen.runs[0], tmp_path / "alone")
    stored = RunDirectory(Path("runs/small-tuning/evaluation") / frozen.runs[0].id)
    assert rows_without_seconds(stored) == rows_without_seconds(again)
