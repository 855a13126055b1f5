"""The numbers of the results table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from isoplast.report.data._isometry import isometry
from isoplast.report.data._method_runs import MethodRuns, method_runs
from isoplast.report.data._numbers import scores
from isoplast.report.data._source import read_source
from isoplast.report.html._document import Alarming
from isoplast.report.pages._results import results_table, troubles
from isoplast.study import Switch, load_study


def adamo(parent: Path, tasks: int = 24, **changes: Any) -> MethodRuns:
    run = synthetic.specification("AdamO", 0, tasks, **changes)
    synthetic.write_run(parent, run, synthetic.staying)
    return method_runs(load_study(parent))[0]


def test_accuracies_are_summarised_over_tasks_within_a_seed_then_over_seeds(tmp_path: Path) -> None:
    (result,) = method_runs(load_study(synthetic.write_study(tmp_path, ["AdamO"], seeds=2, tasks=4)))
    found = scores(result)
    # seed 0: .88 .91 .88 .91, seed 1: .01 more; the sample standard deviation of (a, a + .01) is .01 / sqrt 2
    means = [one.mean for one in (found.first, found.worst, found.last, found.mean)]
    assert means == pytest.approx([0.885, 0.885, 0.915, 0.9])
    assert found.worst.deviation == pytest.approx(0.01 / 2**0.5)
    assert str(found.mean) == "0.900\u00a0±\u00a00.007"


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    assert str(scores(adamo(tmp_path, tasks=2)).first) == "0.880"


def test_the_time_constant_is_1_over_8_lr_lambda(tmp_path: Path) -> None:
    found = isometry(adamo(tmp_path))
    assert found is not None
    assert found.strength == 0.01
    assert found.constant == pytest.approx(1 / (8 * 3e-3 * 0.01))
    assert found.elapsed == pytest.approx(8 * 3e-3 * 0.01 * 24 * synthetic.STEPS)


def test_a_strength_given_as_time_is_the_same_strength(tmp_path: Path) -> None:
    found = isometry(adamo(tmp_path, method={"name": "adamo", "isometry_time": 3000.0}))
    assert found is not None
    assert found.constant == pytest.approx(3000)
    assert found.elapsed == pytest.approx(24 * synthetic.STEPS / 3000)


@pytest.mark.parametrize(
    ("method", "settings", "strength"),
    [
        ("adamo+layernorm", {"adamo.isometry": 0.03}, 0.03),
        ("layernorm+adamo", {"adamo.isometry_time": 1000.0}, 1 / (8 * 3e-3 * 1000)),
        ("redo+sgdo", {"sgdo.isometry": 0.02}, 0.02),
        ("muono", {"isometry": 0.02}, 0.02),
    ],
)
def test_the_isometry_of_a_combination_is_that_of_its_part(
    tmp_path: Path, method: str, settings: Any, strength: float
) -> None:
    result = adamo(tmp_path, method={"name": method, **settings})
    found = isometry(result)
    assert found is not None
    assert found.strength == pytest.approx(strength)
    assert found.constant == pytest.approx(1 / (8 * 3e-3 * strength))
    assert results_table([result]).rows[0][-3:-1] == [f"{strength:.3g}", f"{found.constant:,.0f}"]


def test_a_combination_takes_over(tmp_path: Path) -> None:
    switch = Switch(12, {"name": "adamo+layernorm", "adamo.isometry": 0.01})
    run = synthetic.specification("rescue", 0, method="layernorm", switch=switch)
    synthetic.write_run(tmp_path, run, synthetic.staying)
    found = isometry(method_runs(load_study(tmp_path))[0])
    assert found is not None
    assert found.elapsed == pytest.approx(8 * 3e-3 * 0.01 * 12 * synthetic.STEPS)


@pytest.mark.parametrize("method", ["isometry-penalty", "isometry-penalty+layernorm", "adam", "redo"])
def test_a_penalty_has_no_time_constant(tmp_path: Path, method: str) -> None:
    result = adamo(tmp_path, method={"name": method})
    assert isometry(result) is None
    assert "λ" not in results_table([result]).head
    both = results_table([result, adamo(tmp_path / "other")])
    assert both.rows[0][-3:] == ["–", "–", "–"]
    assert both.rows[1][-3] == "0.01"


def test_only_the_tasks_with_isometry_count(tmp_path: Path) -> None:
    adam, rescue = method_runs(
        load_study(synthetic.write_study(tmp_path, ["Adam", list(synthetic.METHODS)[3]], seeds=2))
    )
    assert isometry(adam) is None
    found = isometry(rescue)
    assert found is not None
    assert found.elapsed == pytest.approx(8 * 3e-3 * 0.01 * 12 * synthetic.STEPS)


def test_a_run_too_short_for_its_isometry_is_warned_about(tmp_path: Path) -> None:
    result = adamo(tmp_path, lr=1e-4, method={"name": "adamo", "isometry": 1e-3})
    source = read_source(tmp_path)
    assert isinstance(results_table([result]).rows[0][-1], Alarming)
    assert results_table([result]).rows[0][-1] == "0.0096 (short)"
    (warning,) = troubles(source, [result])
    assert "AdamO (0.0096), in time constants" in " ".join(warning)  # 12 000 of 1 250 000 steps


def test_a_study_without_troubles_says_nothing(tmp_path: Path) -> None:
    result = adamo(tmp_path)
    assert troubles(read_source(tmp_path), [result]) == []


def test_failed_and_open_runs_are_listed_with_where_and_why(tmp_path: Path) -> None:
    result = adamo(tmp_path)
    broken = synthetic.specification("Adam", 3)
    synthetic.write_run(
        tmp_path, broken, synthetic.collapsing, state="failed", reason="the loss is nan at task 7", done=7
    )
    synthetic.write_run(tmp_path, synthetic.specification("Adam", 4), synthetic.collapsing, "waiting", done=0)
    failed, waiting = troubles(read_source(tmp_path), [result])
    assert "Adam, seed 3, failed" in " ".join(failed)
    assert "after 7 of 24 tasks: the loss is nan at task 7" in " ".join(failed)
    assert broken.id in " ".join(failed)
    assert "of 3 runs, 1 not started yet" in " ".join(waiting)


def test_a_learning_rate_is_a_column_where_it_differs(tmp_path: Path) -> None:
    for place, rates in enumerate(([3e-3], [3e-3, 3e-3], [3e-3, 1e-3])):
        shown = [adamo(tmp_path / f"{place}{number}", tasks=2, lr=lr) for number, lr in enumerate(rates)]
        assert ("lr" in results_table(shown).head) == (place != 1)
