"""Performance profiles and the probability of improvement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from isoplast._core.errors import IsoplastError
from isoplast.statistics import performance_profile, probability_of_improvement

# few values, so that there are ties
SMALL = st.integers(-3, 3).map(float)


def matrices(tasks: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(tasks)), elements=SMALL)


PAIRS = st.integers(1, 4).flatmap(lambda tasks: st.tuples(matrices(tasks), matrices(tasks)))


@given(PAIRS)
def test_the_probability_is_the_mann_whitney_statistic_of_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = pair
    expected = np.mean(
        [
            stats.mannwhitneyu(a, b, method="asymptotic").statistic / (len(a) * len(b))
            for a, b in zip(ours.T, theirs.T, strict=True)
        ]
    )
    assert probability_of_improvement(ours, theirs, higher_is_better=True).value == pytest.approx(expected)


@given(PAIRS)
def test_the_other_side_and_the_other_direction_are_the_complement(pair) -> None:
    ours, theirs = pair
    forth = probability_of_improvement(ours, theirs, higher_is_better=True)
    for back in (
        probability_of_improvement(theirs, ours, higher_is_better=True),
        probability_of_improvement(ours, theirs, higher_is_better=False),
    ):
        np.testing.assert_allclose(
            [back.value, back.low, back.high], [1 - forth.value, 1 - forth.high, 1 - forth.low], atol=1e-12
        )
    if min(len(ours), len(theirs)) > 1:
        assert 0 <= forth.low <= forth.value <= forth.high <= 1


@given(PAIRS, st.randoms(use_true_random=False))
def test_only_the_order_of_scores_counts(pair, order) -> None:
    ours, theirs = pair
    rows = order.sample(range(len(ours)), len(ours))
    plain = probability_of_improvement(ours, theirs, higher_is_better=True)
    other = probability_of_improvement(np.exp(ours[rows]), np.exp(theirs), higher_is_better=True)
    np.testing.assert_allclose(
        [plain.value, plain.low, plain.high], [other.value, other.low, other.high], atol=1e-12
    )


@pytest.mark.parametrize(("seeds", "others"), [(5, 14), (14, 5), (6, 6)])
def test_the_interval_is_wilsons_with_delongs_variance(seeds: int, others: int) -> None:
    rng, tasks = np.random.default_rng(seeds), 8
    ours = np.linspace(-0.8, 0.8, seeds)[:, None] + rng.normal(0.5, 1, size=(seeds, tasks))
    theirs = np.linspace(-0.8, 0.8, others)[:, None] + rng.normal(size=(others, tasks))
    found = probability_of_improvement(ours, theirs, higher_is_better=True)
    of_ours = np.var([np.mean(one > theirs) for one in ours], ddof=1) / seeds
    of_theirs = np.var([np.mean(ours > one) for one in theirs], ddof=1) / others
    degrees = (of_ours + of_theirs) ** 2 / (of_ours**2 / (seeds - 1) + of_theirs**2 / (others - 1))
    effective = found.value * (1 - found.value) / (of_ours + of_theirs)
    assert min(seeds, others) < effective < min(seeds, others) * tasks  # else it is one of these
    bound = stats.t.ppf(0.975, degrees) / math.sqrt(effective)
    for end in (found.low, found.high):
        assert abs(found.value - end) == pytest.approx(bound * math.sqrt(end * (1 - end)))


def test_winning_with_every_seed_is_no_certainty() -> None:
    for seeds in (2, 3, 10):
        found = probability_of_improvement(np.ones((seeds, 5)), np.zeros((seeds, 5)), higher_is_better=True)
        t = stats.t.ppf(0.975, seeds - 1)
        assert (found.value, found.high) == (1, 1)
        assert found.low == pytest.approx(seeds / (seeds + t**2))  # Wilson's for `seeds` of `seeds`


def test_equal_scores_say_nothing() -> None:
    same = np.random.default_rng(0).normal(size=(6, 3))
    assert probability_of_improvement(same, same, higher_is_better=True).value == 0.5
    found = probability_of_improvement(np.ones((4, 2)), np.ones((4, 2)), higher_is_better=False)
    assert found.value == 0.5


@given(
    matrices(3),
    hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(-4, 4)).map(np.sort),
    st.booleans(),
)
def test_a_profile_counts_what_is_better(scores, thresholds, higher) -> None:
    found = performance_profile(scores, thresholds, higher_is_better=higher)
    better = [np.mean(scores > level) if higher else np.mean(scores < level) for level in thresholds]
    np.testing.assert_allclose(found.value, better)
    assert (np.diff(found.value) * (-1 if higher else 1) >= 0).all()
    assert found.seeds == len(scores)
    if len(scores) == 1:
        assert np.isnan(found.low).all()
        assert np.isnan(found.high).all()
    else:
        slack = 1e-12  # rounding of the roots
        assert (found.low >= 0).all()
        assert (found.low <= found.value + slack).all()
        assert (found.value <= found.high + slack).all()
        assert (found.high <= 1).all()


@pytest.mark.parametrize("seeds", [2, 5, 12, 60])
def test_for_one_task_a_profile_is_wilsons_interval(seeds: int) -> None:
    scores = (np.arange(seeds) < seeds // 2).astype(float)[:, None]
    found = performance_profile(scores, [0.5], higher_is_better=True)
    t = stats.t.ppf(0.975, seeds - 1)
    # The p whose score statistic reaches t: the definition, solved by the ends that were found.
    for end in (found.low[0], found.high[0]):
        assert abs(found.value[0] - end) == pytest.approx(t * math.sqrt(end * (1 - end) / seeds))


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("between", [0.0, 1.0])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_both_cover(seeds: int, between: float, shift: float) -> None:
    rng, tasks, trials = np.random.default_rng([seeds, int(2 * shift)]), 12, 600
    share = stats.norm.cdf(shift / math.sqrt(1 + between**2))
    probability = stats.norm.cdf(shift / math.sqrt(2 * (1 + between**2)))
    covered = np.zeros(2)
    for _ in range(trials):
        ours, theirs = (
            between * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, tasks)) for _ in range(2)
        )
        profile = performance_profile(ours + shift, [0.0], higher_is_better=True)
        improvement = probability_of_improvement(ours + shift, theirs, higher_is_better=True)
        covered += [
            profile.low[0] <= share <= profile.high[0],
            improvement.low <= probability <= improvement.high,
        ]
    # Never less than they say but for 2 % of approximation and 3 standard errors (0.9 %) of 600 trials; more
    # is possible: with independent tasks, the seeds are the cautious count.
    assert (covered / trials >= 0.9).all(), covered / trials


def test_wrong_input_is_refused() -> None:
    with pytest.raises(IsoplastError, match="3 tasks cannot be compared with 2"):
        probability_of_improvement(np.ones((2, 3)), np.ones((2, 2)), higher_is_better=True)
    with pytest.raises(IsoplastError, match="thresholds"):
        performance_profile(np.ones((2, 3)), [math.nan], higher_is_better=True)
    for seeds in (1, 2):
        with pytest.raises(IsoplastError, match="confidence"):
            performance_profile(np.ones((seeds, 3)), [0.0], higher_is_better=True, confidence=2)
        with pytest.raises(IsoplastError, match="confidence"):
            probability_of_improvement(
                np.ones((seeds, 3)), np.ones((seeds, 3)), higher_is_better=True, confidence=2
            )
    with pytest.raises(IsoplastError, match="higher_is_better is None"):
        performance_profile(np.ones((2, 3)), [0.0], higher_is_better=None)  # type: ignore[arg-type]
