"""The frame of a study, cut into methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import synthetic

from isoplast._core.errors import IsoplastError
from isoplast.report import score_chart, write_report
from isoplast.report.data._headline import headline
from isoplast.report.data._method_runs import Switch, band_words, fine_print, method_runs, over_seeds
from isoplast.report.data._numbers import scores
from isoplast.study import load_runs, load_study


def test_one_method_per_setting_in_the_order_of_the_study(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path)))
    assert [result.label for result in found] == list(synthetic.METHODS)
    assert all(result.seeds == (0, 1) for result in found)
    adam = found[0]
    assert adam.tasks.tolist() == list(range(-1, 24))
    assert adam.score.shape == (2, 25)
    assert adam.score[1, 1:4] == pytest.approx([0.92, 0.84, 0.76])
    assert adam.per_layer["sigma_max"].shape == (2, 25, 4)
    assert adam.per_layer["dead"].shape == (2, 25, 3)
    assert len({(result.style.light, result.style.dash, result.style.marker) for result in found}) == 4


def test_a_change_of_method_is_seen_in_the_data(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path)))
    assert [result.switches for result in found] == [(), (), (), (Switch(12, "Adam", "AdamO"),)]


def test_settings_that_share_a_label_are_told_apart(tmp_path: Path) -> None:
    for lr in (3e-3, 1e-4):
        synthetic.write_run(
            tmp_path, synthetic.specification("Adam", 0, tasks=2, lr=lr), synthetic.collapsing
        )
    labels = [result.label for result in method_runs(load_study(tmp_path))]
    assert sorted(labels) == ["Adam, lr 0.0001", "Adam, lr 0.003"]


def test_what_a_seed_did_not_reach_is_missing_and_the_mean_goes_on_without_it(tmp_path: Path) -> None:
    whole, torn = (synthetic.specification("AdamO", seed, tasks=4) for seed in (0, 1))
    synthetic.write_run(tmp_path, whole, synthetic.staying)
    synthetic.write_run(tmp_path, torn, synthetic.staying, state="running", done=2)
    (result,) = method_runs(load_study(tmp_path), load_runs(tmp_path))
    assert result.failed == ()
    assert np.isnan(result.score[1]).tolist() == [False, False, False, True, True]
    mean, low, high = over_seeds(result.score)
    assert mean[1:] == pytest.approx([0.885, 0.915, 0.88, 0.91])
    assert low[3:].tolist() == high[3:].tolist() == mean[3:].tolist()


def test_a_failed_run_counts_as_chance_in_all_that_is_said_of_its_method(tmp_path: Path) -> None:
    """It may have failed after two tasks, or before its first row; none of its tasks is left out."""
    for seed in range(3):
        run = synthetic.specification("AdamO", seed, tasks=4)
        synthetic.write_run(tmp_path, run, lambda task: 0.9, state="done" if seed else "failed", done=4)
    late, early = (synthetic.specification("AdamO", seed, tasks=4) for seed in (3, 4))
    synthetic.write_run(tmp_path, late, lambda task: 0.05, state="failed", done=2)
    synthetic.write_run(tmp_path, early, lambda task: 0.9, state="failed", done=0)
    (tmp_path / early.id / "metrics.jsonl").write_text("")
    (result,) = method_runs(load_study(tmp_path), load_runs(tmp_path))
    assert (result.seeds, result.failed) == ((0, 1, 2, 3, 4), (0, 3, 4))
    assert result.score[3, 1:] == pytest.approx([0.08, 0.08, 0.08, 0.08])  # its own worst, below chance
    assert result.score[4, 1:] == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert scores(result).last.mean == pytest.approx((0.90 + 0.91 + 0.92 + 0.08 + 0.1) / 5)
    said = "handwritten digits (scikit-learn), exploratory: 5 seeds, 3 failed runs count as chance"
    assert fine_print([result]) == said
    assert said in score_chart([result])
    assert "3 failed runs count as chance" in headline([result])
    (page,) = {write_report(tmp_path).read_text(encoding="utf-8")}
    assert page.count(said.removeprefix("handwritten")) >= 2


def test_a_method_of_which_all_runs_failed_is_drawn_to_the_end(tmp_path: Path) -> None:
    for label, state, done in (("AdamO", "done", 4), ("Adam", "failed", 1)):
        run = synthetic.specification(label, 0, tasks=4)
        synthetic.write_run(tmp_path, run, lambda task: 0.9, state=state, done=done)
    found = {one.label: one for one in method_runs(load_study(tmp_path), load_runs(tmp_path))}
    assert found["Adam"].score[0, 1:] == pytest.approx([0.9, 0.1, 0.1, 0.1])
    assert "Adam falls from 0.90 to 0.10 within 2 tasks" in headline(list(found.values()))


def test_a_method_that_failed_on_one_problem_is_filled_to_the_end_of_that_one(tmp_path: Path) -> None:
    for tasks in (4, 9):
        for label in ("AdamO", "Adam"):
            run = synthetic.specification(label, 0, tasks=tasks)
            failed = (label, tasks) == ("Adam", 4)
            state, done = ("failed", 1) if failed else ("done", tasks)
            synthetic.write_run(tmp_path, run, lambda task: 0.9, state=state, done=done)
    found = method_runs(load_study(tmp_path), load_runs(tmp_path))
    assert {len(one.tasks) - 1 for one in found if one.label.startswith("Adam,")} == {4, 9}
    (failed,) = (one for one in found if one.failed)
    assert failed.score[0, 1:] == pytest.approx([0.9, 0.1, 0.1, 0.1])


def test_the_band_is_the_range_of_few_seeds_and_the_deviation_of_many() -> None:
    few = np.array([[0.0, np.nan], [1.0, np.nan]])
    mean, low, high = over_seeds(few)
    assert (mean[0], low[0], high[0]) == (0.5, 0.0, 1.0)
    assert np.isnan([mean[1], low[1], high[1]]).all()
    many = np.random.default_rng(0).normal(size=(6, 3))
    mean, low, high = over_seeds(many)
    np.testing.assert_allclose(high - mean, many.std(axis=0, ddof=1))
    np.testing.assert_allclose(mean - low, many.std(axis=0, ddof=1))


@pytest.mark.parametrize("seeds", [3, 8])
def test_on_a_log_axis_the_band_is_of_the_logarithms(seeds: int) -> None:
    powers = np.random.default_rng(0).normal(scale=4.0, size=(seeds, 2))  # mean - deviation is below 0
    powers[0, 1] = -np.inf
    found = over_seeds(10.0**powers, log=True)
    powers[0, 1] = -10.0  # of what is 0 as of the smallest that is drawn
    for values, wanted in zip(found, over_seeds(powers), strict=True):
        np.testing.assert_allclose(np.log10(values), wanted)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (1, "One seed per method"),
        (4, "n = 4 seeds. Band: lowest to highest"),
        (5, "n = 5 seeds. Band: one standard"),
    ],
)
def test_the_caption_says_what_the_band_is(tmp_path: Path, seeds: int, words: str) -> None:
    assert words in band_words(
        method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds, tasks=1)))
    )


def test_frames_without_a_report_in_them_are_refused(tmp_path: Path) -> None:
    frame = load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=2))
    with pytest.raises(IsoplastError, match="no finished task"):
        method_runs(frame.filter(pl.col("task") < 0))
    with pytest.raises(IsoplastError, match="no finished task"):
        method_runs(frame.with_columns(score=pl.lit(None, dtype=pl.Float64)))
    with pytest.raises(IsoplastError, match="'score'"):
        method_runs(frame.drop("score"))
