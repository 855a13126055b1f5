"""Intervals over seeds: against scipy, by their symmetries, and by how often they cover."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from isoplast._core.errors import IsoplastError
from isoplast.statistics import (
    EXPLORATORY_BELOW,
    Estimate,
    aggregate,
    average,
    curve,
    interquartile_mean,
    mean,
)

NUMBERS = st.floats(-1e3, 1e3)
VALUES = hnp.arrays(np.float64, st.integers(2, 30), elements=NUMBERS)
MATRICES = hnp.arrays(np.float64, st.tuples(st.integers(1, 14), st.integers(1, 6)), elements=NUMBERS)


def pooled_mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=(-2, -1))


@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_mean_is_that_of_scipy(values: np.ndarray, confidence: float) -> None:
    found = mean(values, confidence=confidence)
    if values.std() > 1e-9 * np.abs(values).max():  # else scipy's is NaN
        low, high = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-9, atol=1e-9)
    assert found.value == pytest.approx(values.mean())
    assert (found.seeds, found.interval) == (len(values), "Student t")


@given(MATRICES)
def test_a_curve_is_the_mean_of_every_task(scores: np.ndarray) -> None:
    found = curve(scores, confidence=0.9)
    np.testing.assert_array_equal(found.at, np.arange(scores.shape[1]))
    for task in range(scores.shape[1]):
        one = mean(scores[:, task], confidence=0.9)
        np.testing.assert_allclose(
            [found.value[task], found.low[task], found.high[task]], [one.value, one.low, one.high], atol=1e-9
        )


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=NUMBERS))
def test_the_interquartile_mean_is_the_trimmed_mean_of_scipy(stack: np.ndarray) -> None:
    expected = [stats.trim_mean(one, 0.25, axis=None) for one in stack]
    np.testing.assert_allclose(interquartile_mean(stack), expected, rtol=1e-9, atol=1e-9)


def test_the_interquartile_mean_ignores_a_quarter_at_either_end() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    wild = np.where(scores < 3, -1e9, np.where(scores > 8, 1e9, scores))
    assert interquartile_mean(wild) == interquartile_mean(scores) == 5.5


@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 9), st.integers(1, 5)), elements=NUMBERS))
def test_for_a_mean_the_jackknife_is_student(scores: np.ndarray) -> None:
    found, expected = aggregate(scores, pooled_mean), mean(average(scores))
    np.testing.assert_allclose(
        [found.value, found.low, found.high], [expected.value, expected.low, expected.high], atol=1e-8
    )
    assert found.interval == "jackknife t"


@pytest.mark.parametrize("seeds", [10, 14, 40])
def test_for_a_mean_of_ten_seeds_or_more_the_bootstrap_is_student(seeds: int) -> None:
    # As normal as so few values can be, so that only the correction of the tails is looked at: without the
    # divisor's part an end of ten seeds lies 2.5 % of the width further in, without that of t 4 % more.
    values = stats.norm.ppf((np.arange(seeds) + 0.5) / seeds)
    found = aggregate(values[:, None], pooled_mean, resamples=50_000)
    expected = mean(values)
    # An end of 50 000 draws so far out has an error of 0.02 standard errors, half a percent of the width.
    width = expected.high - expected.low
    assert abs(found.low - expected.low) < 0.015 * width
    assert abs(found.high - expected.high) < 0.015 * width


def test_independent_tasks_are_drawn_apart_at_any_number_of_seeds() -> None:
    scores = np.array([[0.0, 0.1], [0.5, 0.25], [0.9, 1.7]])
    draws = np.array(list(itertools.product(range(3), repeat=6))).reshape(-1, 3, 2)
    means = scores[draws, np.arange(2)].mean(axis=(1, 2))  # all resamples there are
    found = aggregate(scores, pooled_mean, independent_tasks=True, resamples=50_000)
    assert found.interval == "bootstrap"
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        # an end of 50 000 draws lies at the share it names, up to four standard errors of .0007
        assert (means < end - 1e-9).mean() <= share + 0.003
        assert (means <= end + 1e-9).mean() >= share - 0.003
    assert math.isnan(aggregate(scores[:1], independent_tasks=True).low)


@pytest.mark.parametrize("seeds", [1, 4, 12])
@pytest.mark.parametrize("independent", [False, True])
def test_the_order_of_the_seeds_does_not_matter(seeds: int, independent: bool) -> None:
    rng = np.random.default_rng(seeds)
    scores = rng.normal(size=(seeds, 5)).round(1)  # with ties

    def ends(rows: np.ndarray) -> Estimate:
        return aggregate(rows, independent_tasks=independent, resamples=200)

    first = ends(scores)
    for _ in range(5):
        again = ends(rng.permutation(scores))
        np.testing.assert_allclose(
            [again.value, again.low, again.high], [first.value, first.low, first.high], atol=1e-12
        )


@pytest.mark.parametrize("seeds", [4, 12])
def test_intervals_follow_shift_scale_and_reflection(seeds: int) -> None:
    scores = np.random.default_rng(1).normal(size=(seeds, 4))
    first = aggregate(scores, resamples=500)
    moved = aggregate(3 * scores + 2, resamples=500)
    np.testing.assert_allclose(
        [moved.value, moved.low, moved.high], np.array([first.value, first.low, first.high]) * 3 + 2
    )


def test_the_same_draws_give_the_same_interval_and_others_another() -> None:
    scores = np.random.default_rng(2).normal(size=(12, 4))
    assert aggregate(scores, resamples=200) == aggregate(scores, resamples=200)
    assert aggregate(scores, resamples=200) != aggregate(scores, resamples=200, rng=1)


def test_batches_of_draws_do_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(2).normal(size=(12, 4))
    whole = aggregate(scores, resamples=300)
    monkeypatch.setattr("isoplast.statistics._estimates._AT_A_TIME", 7 * scores.size)
    assert aggregate(scores, resamples=300) == whole


def test_below_ten_seeds_it_is_exploratory_and_says_so() -> None:
    rng = np.random.default_rng(3)
    for seeds in range(1, 13):
        scores = rng.normal(size=(seeds, 3))
        for found in (mean(average(scores)), aggregate(scores, resamples=100), curve(scores)):
            assert found.exploratory == (seeds < 10)
        assert ("exploratory" in str(mean(average(scores)))) == (seeds < 10)
    assert EXPLORATORY_BELOW == 10


def test_a_single_seed_has_a_value_and_no_interval() -> None:
    scores = [[0.5, 0.7]]
    for found in (mean(average(scores)), aggregate(scores)):
        assert found.value == pytest.approx(0.6)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert found.interval == "none"
        assert str(found) == "0.6 (1 seed, exploratory)"
    assert np.isnan(curve(scores).low).all()
    assert np.isnan(curve(scores).high).all()


@pytest.mark.parametrize("seeds", [2, 9, 10, 30])
def test_seeds_that_agree_have_an_interval_without_width(seeds: int) -> None:
    found = aggregate(np.full((seeds, 4), 0.25), resamples=100)
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("call", [mean, curve, aggregate])
def test_wrong_numbers_are_refused(call) -> None:
    scores = [0.1, 0.2] if call is mean else [[0.1, 0.2]]
    for confidence in (0, 1, 95, math.nan):
        with pytest.raises(IsoplastError, match="confidence is"):
            call(scores, confidence=confidence)
    with pytest.raises(IsoplastError, match="not finite"):
        call([math.nan] if call is mean else [[math.nan]])
    with pytest.raises(IsoplastError, match="resamples is 5"):
        aggregate([[0.1]], resamples=5)


def coverage(
    seeds: int, tasks: int, between: float, skewed: bool, trials: int = 400, **settings: bool
) -> float:
    """How often the interval of the IQM holds the true one; seeds vary `between` times as much as tasks."""
    rng = np.random.default_rng([seeds, tasks])

    def sample(count: int) -> np.ndarray:
        normal = between * rng.normal(size=(count, 1)) + rng.normal(size=(count, tasks))
        return 1 - 0.1 * np.exp(0.5 * normal) if skewed else normal

    true = float(interquartile_mean(sample(100_000))) if skewed else 0.0
    found = [aggregate(sample(seeds), resamples=300, rng=trial, **settings) for trial in range(trials)]
    return float(np.mean([one.low <= true <= one.high for one in found]))


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
@pytest.mark.parametrize(("between", "skewed"), [(1.0, False), (0.0, False), (1.0, True)])
def test_intervals_cover_what_they_say(seeds: int, between: float, skewed: bool) -> None:
    # 400 trials of a 95 % interval: standard error 1.1 %, so +- 3.3 %; one more below for what is not normal.
    assert 0.907 <= coverage(seeds, 12, between, skewed) <= 0.983


def test_tasks_of_one_network_are_not_independent() -> None:
    # rliable's scheme is for tasks that are runs of their own; with seeds that differ it claims far too much.
    assert coverage(10, 12, 0.0, False, independent_tasks=True) >= 0.9
    assert coverage(10, 12, 1.0, False, independent_tasks=True) <= 0.7
