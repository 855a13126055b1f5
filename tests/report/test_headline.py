"""The headline says what the data say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import synthetic

from isoplast.report import score_chart
from isoplast.report.data._headline import headline
from isoplast.report.data._method_runs import MethodRuns, method_runs
from isoplast.report.data._numbers import scores
from isoplast.study import RunDirectory, load_study


def study(parent: Path, *curves: list[float], seeds: int = 1) -> list[MethodRuns]:
    """A study of one result per curve, named A, B, ..."""
    for index, curve in enumerate(curves):
        for seed in range(seeds):
            run = synthetic.specification("ABCDEFGH"[index], seed, tasks=len(curve), lr=1e-3 * (index + 1))
            synthetic.write_run(parent, run, curve.__getitem__)
    return sorted(method_runs(load_study(parent)), key=lambda result: result.label)


def test_the_demo(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path)))
    assert headline(found) == (
        "Adam falls from 0.92 to 0.11 within 11 tasks; AdamW falls from 0.91 to 0.11 within 11 tasks; "
        "AdamO stays at 0.88 or above; Adam, then AdamO from task 12 (rescue) climbs from 0.11 after 12 "
        "tasks with Adam to 0.94 after 12 more with AdamO (24 tasks, mean over 2 seeds, "
        "exploratory; chance is 0.10)."
    )


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([0.9, 0.5, 0.15, 0.12], "falls from 0.90 to 0.15 within 3 tasks"),
        ([0.93, 0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.13, 0.11], "falls from 0.93 to 0.15 within 7 tasks"),
        ([0.9, 0.85, 0.92], "stays at 0.85 or above"),
        ([0.9, 0.859, 0.92], "stays at 0.85 or above"),  # 0.86 it does not stay above
        ([0.9, 0.6, 0.5], "declines from 0.90 to 0.50"),
        ([0.9, 0.3, 0.88], "dips to 0.30 after 2 tasks and ends at 0.88"),
        ([0.12, 0.11, 0.13], "never gets past 0.13"),
        ([0.12, 0.5, 0.8], "gets from 0.12 to 0.80"),
        ([0.7], "reaches 0.70 on its one task"),
    ],
)
def test_every_fate_has_its_words(tmp_path: Path, curve: list[float], words: str) -> None:
    said = headline(study(tmp_path, curve))
    tasks = f"{len(curve)} task" + "s" * (len(curve) > 1)
    assert said == f"A {words} ({tasks}, one seed, exploratory; chance is 0.10)."


def test_many_methods_are_counted_by_fate(tmp_path: Path) -> None:
    found = study(tmp_path, *[[0.9, 0.1]] * 4, *[[0.9, 0.9]] * 3, seeds=2)
    assert headline(found) == (
        "Over 2 tasks, of 7 methods 3 kept 80 % or more of their accuracy above chance, 4 lost 90 % or more "
        "(exploratory)."
    )


def test_a_dozen_methods_with_long_names_make_a_short_headline(tmp_path: Path) -> None:
    curves = {
        "falls": [0.9, 0.5, 0.11],
        "stays": [0.9, 0.85, 0.9],
        "declines": [0.9, 0.8, 0.5],
        "recovers": [0.9, 0.3, 0.88],
        "learns nothing": [0.1, 0.1, 0.11],
        "rises": [0.11, 0.4, 0.8],
    }
    for index in range(12):
        name, curve = list(curves.items())[index % 6]
        label = f"method {index} with many settings, among them lr 0.003 and isometry 0.01, that {name}"
        run = synthetic.specification(label, 0, tasks=3, lr=1e-3 * (index + 1))
        synthetic.write_run(tmp_path, run, curve.__getitem__)
    said = headline(method_runs(load_study(tmp_path)))
    assert said == (
        "Over 3 tasks, of 12 methods 2 kept 80 % or more of their accuracy above chance, 2 lost part, 2 lost "
        "90 % or more, 2 dipped and recovered, 2 rose from near chance, 2 never learned (exploratory)."
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_number_of_the_headline_stands_in_the_table(tmp_path: Path, seeds: int) -> None:
    """And its worst task is the lowest point of the curve that is drawn, not a mean of each seed's worst."""
    curves = {"A": [0.9, 0.77, 0.86], "B": [0.9, 0.4, 0.88], "C": [0.9, 0.7, 0.5]}
    for index, (label, curve) in enumerate(curves.items()):
        for seed in range(seeds):
            run = synthetic.specification(label, seed, tasks=3, lr=1e-3 * (index + 1))
            # each seed has its worst task elsewhere: 0.05 lower, while the mean moves by 0.05 / seeds
            synthetic.write_run(
                tmp_path, run, lambda task, curve=curve, seed=seed: curve[task] - 0.05 * (task == seed)
            )
    found = sorted(method_runs(load_study(tmp_path)), key=lambda result: result.label)
    reached = [scores(result) for result in found]
    for result, one in zip(found, reached, strict=True):
        curve = np.nanmean(result.score[:, result.trained], axis=0)
        assert one.worst.mean == pytest.approx(curve.min())
        assert one.first.mean == pytest.approx(curve[0])
        assert one.last.mean == pytest.approx(curve[-1])
    a, b, c = reached
    floor = math.floor(100 * a.worst.mean + 1e-6) / 100
    assert headline(found).startswith(
        f"A stays at {floor:.2f} or above; B dips to {b.worst.mean:.2f} after 2 tasks and ends at "
        f"{b.last.mean:.2f}; C declines from {c.first.mean:.2f} to {c.last.mean:.2f} ("
    )


def of_levels(parent: Path, curve: list[float], levels: list[float], primary: str) -> MethodRuns:
    """One run whose tasks have a chance each."""
    run = synthetic.specification("Adam", 0, tasks=len(curve))
    rows = [
        {"task": task, "method_active": "adam", "steps": 1, "primary": primary, primary: curve[task]}
        | {"chance": levels[task]}
        for task in range(len(curve))
    ]
    RunDirectory.create(parent, run).append(rows)
    (result,) = method_runs(load_study(parent))
    return result


@pytest.mark.parametrize(
    ("primary", "curve", "levels", "words"),
    [
        # Twice as many classes in every task: far above chance to the end.
        ("accuracy", [0.9, 0.6, 0.5, 0.45], [0.5, 0.25, 0.125, 0.0625], "stays at 0.45 or above"),
        ("accuracy", [0.9, 0.26, 0.13, 0.07], [0.5, 0.25, 0.125, 0.0625], "falls from 0.90 to 0.26 within"),
        # Errors are measured in those of the guess: a target a hundred times larger is learned as well.
        ("mean_squared_error", [0.1, 10.0, 0.1], [1.0, 100.0, 1.0], "stays at 10.00 or below"),
        ("mean_squared_error", [0.1, 0.99], [1.0, 1.0], "rises from 0.10 to 0.99 within 2 tasks"),
        # Games have scales of their own, and one score cannot fall to that of another game.
        ("return", [16.5, 3.4, 0.9], [3.0, 0.5, 0.1], "reaches 6.93 in the mean"),
        ("return", [60.0, 20.0], [20.0, 22.0], "falls from 60.00 to 20.00 within 2 tasks"),
    ],
)
def test_every_score_is_judged_by_the_chance_of_its_own_task(
    tmp_path: Path, primary: str, curve: list[float], levels: list[float], words: str
) -> None:
    result = of_levels(tmp_path, curve, levels, primary)
    assert words in headline([result])
    assert ("chance 0" in score_chart([result])) == (len(set(levels)) == 1 and primary == "accuracy")
