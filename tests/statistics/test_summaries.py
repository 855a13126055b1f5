"""One number for each seed, and what a failed run scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isoplast._core.errors import IsoplastError
from isoplast.statistics import area, average, change, fill_failures, forward_transfer, last, slope

SCORES = np.array([[0.9, 0.7, 0.5, 0.1], [0.2, 0.2, 0.4, 0.4]])
NUMBERS = st.floats(-1e3, 1e3)
MATRICES = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=7), elements=NUMBERS
)
PER_SEED: list[Callable[..., np.ndarray]] = [average, last, change, slope, area]


def test_values_by_hand() -> None:
    np.testing.assert_allclose(average(SCORES), [0.55, 0.3])
    np.testing.assert_allclose(last(SCORES), [0.1, 0.4])
    np.testing.assert_allclose(last(SCORES, 3), [1.3 / 3, 1.0 / 3])
    np.testing.assert_allclose(change(SCORES), [-0.8, 0.2])
    np.testing.assert_allclose(change(SCORES, 2), [0.3 - 0.8, 0.4 - 0.2])
    np.testing.assert_allclose(area(SCORES), [(0.8 + 0.6 + 0.3) / 3, (0.2 + 0.3 + 0.4) / 3])
    np.testing.assert_allclose(
        forward_transfer(SCORES, SCORES[:, ::-1], higher_is_better=True), [-0.8 / 3, 0.2 / 3]
    )


@given(MATRICES)
def test_slope_and_area_are_those_of_numpy(scores: np.ndarray) -> None:
    tasks = np.arange(scores.shape[1])
    # cancellation: sums of up to seven numbers of 1e3 leave an error of some 1e-12
    np.testing.assert_allclose(slope(scores), np.polyfit(tasks, scores.T, 1)[0], atol=1e-10)
    trapezoids = [
        np.interp(np.linspace(0, tasks[-1], 2 * tasks[-1] + 1), tasks, row)[1::2].mean() for row in scores
    ]
    np.testing.assert_allclose(area(scores), trapezoids, atol=1e-10)


@pytest.mark.parametrize("statistic", PER_SEED)
@given(scores=MATRICES, order=st.randoms(use_true_random=False))
def test_each_seed_speaks_for_itself(statistic, scores, order) -> None:
    rows = order.sample(range(len(scores)), len(scores))
    np.testing.assert_array_equal(statistic(scores[rows]), statistic(scores)[rows])


@pytest.mark.parametrize("statistic", PER_SEED)
@given(scores=MATRICES, shift=NUMBERS)
def test_levels_move_with_the_score_and_differences_do_not(statistic, scores, shift) -> None:
    expected = statistic(scores) + (0 if statistic in (change, slope) else shift)
    np.testing.assert_allclose(statistic(scores + shift), expected, atol=1e-9)
    np.testing.assert_allclose(statistic(-scores), -statistic(scores), atol=1e-9)


def test_change_takes_a_tenth_of_the_tasks_at_either_end() -> None:
    scores = np.zeros((1, 40))
    scores[:, :4], scores[:, -4:] = 1.0, 3.0
    assert change(scores) == [2.0]
    assert change(scores, 8) == [1.0]


def test_forward_transfer_turns_with_the_direction_and_leaves_the_first_task_out() -> None:
    fresh = SCORES + np.array([5.0, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(forward_transfer(SCORES, fresh, higher_is_better=True), [-0.1, -0.1])
    np.testing.assert_allclose(forward_transfer(SCORES, fresh, higher_is_better=False), [0.1, 0.1])


@given(
    hnp.arrays(
        np.float64, (4, 5), elements=st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, -math.inf])
    ),
    hnp.arrays(np.float64, (5,), elements=st.floats(-10, 10)),
    st.booleans(),
)
def test_no_run_gains_by_failing(scores: np.ndarray, chance: np.ndarray, higher: bool) -> None:
    filled = fill_failures(scores, chance, higher_is_better=higher)
    known = np.isfinite(scores)
    np.testing.assert_array_equal(filled[known], scores[known])
    toward = 1 if higher else -1
    for row, full, finite in zip(scores, filled, known, strict=True):
        # no better than chance at that task, and than anything the run itself scored
        assert (toward * full[~finite] <= toward * chance[~finite]).all()
        assert not finite.any() or (toward * full[~finite] <= (toward * row[finite]).min()).all()
        # and it is one of these two, not something worse
        allowed = {*chance.tolist(), *row[finite].tolist()}
        assert {*full[~finite].tolist()} <= allowed


def test_a_failure_does_not_change_with_the_other_seeds() -> None:
    failed = [0.9, math.nan, math.nan]
    alone = fill_failures([failed], 0.1, higher_is_better=True)
    beside = fill_failures([failed, [0.01, 0.0, 0.0]], 0.1, higher_is_better=True)
    np.testing.assert_array_equal(alone[0], beside[0])
    np.testing.assert_array_equal(alone, [[0.9, 0.1, 0.1]])


def test_a_run_that_failed_at_once_scores_chance() -> None:
    np.testing.assert_array_equal(
        fill_failures([[math.nan] * 2], [2.0, 3.0], higher_is_better=False), [[2.0, 3.0]]
    )


@pytest.mark.parametrize("chance", [math.nan, math.inf, [0.1, 0.2]])
def test_chance_is_a_number_or_one_for_each_task(chance) -> None:
    with pytest.raises(IsoplastError, match="chance is"):
        fill_failures(SCORES, chance, higher_is_better=True)


@pytest.mark.parametrize("statistic", PER_SEED)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_missing_score_is_refused_not_left_out(statistic, bad) -> None:
    with pytest.raises(IsoplastError, match=r"1 of 8 scores are not finite.*fill_failures"):
        statistic(np.where(SCORES == 0.7, bad, SCORES))


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], np.ones((2, 2, 2)), np.ones((0, 3)), np.ones((3, 0))])
def test_other_shapes_are_refused(scores) -> None:
    with pytest.raises(IsoplastError, match="shape"):
        average(scores)


def test_rows_of_different_length_and_texts_are_refused() -> None:
    for scores in ([[1.0, 2.0], [1.0]], [["a"]]):
        with pytest.raises(IsoplastError, match="must be numbers"):
            average(scores)


def test_windows_that_do_not_fit_are_refused() -> None:
    for call in (lambda: last(SCORES, 5), lambda: last(SCORES, 0), lambda: change(SCORES, 3)):
        with pytest.raises(IsoplastError, match="k is"):
            call()
    for statistic in (change, slope, lambda scores: forward_transfer(scores, scores, higher_is_better=True)):
        with pytest.raises(IsoplastError, match="only one"):
            statistic(SCORES[:, :1])
    with pytest.raises(IsoplastError, match="fresh networks"):
        forward_transfer(SCORES, SCORES[:1], higher_is_better=True)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(IsoplastError, match="say True or False"):
        forward_transfer(SCORES, SCORES, higher_is_better=None)  # type: ignore[arg-type]
