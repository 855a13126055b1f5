"""Paired comparisons: against scipy, by definition, and by how often they err."""

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
from isoplast.statistics import compare, compare_all, false_discovery_rate, holm, minimum_detectable_effect

P_VALUES = hnp.arrays(np.float64, st.integers(0, 9), elements=st.floats(0, 1) | st.sampled_from([0.01, 0.04]))


def two(seeds: int, rng: np.random.Generator, gain: float = 0.0) -> tuple[dict[int, float], dict[int, float]]:
    """Two methods on the same seeds, which weigh much more than the methods."""
    common = 5 * rng.normal(size=seeds)
    return dict(enumerate(common + rng.normal(size=seeds) + gain)), dict(
        enumerate(common + rng.normal(size=seeds))
    )


@pytest.mark.parametrize("seeds", [2, 3, 9, 25])
@pytest.mark.parametrize("higher", [True, False])
def test_the_test_and_its_interval_are_those_of_scipy(seeds: int, higher: bool) -> None:
    ours, theirs = two(seeds, np.random.default_rng(seeds))
    found = compare(ours, theirs, higher_is_better=higher, confidence=0.9)
    first, second = (ours, theirs) if higher else (theirs, ours)
    expected = stats.ttest_rel(list(first.values()), list(second.values()))
    low, high = expected.confidence_interval(0.9)
    assert found.p == found.p_adjusted == pytest.approx(expected.pvalue)
    np.testing.assert_allclose([found.gain.low, found.gain.high], [low, high])


def test_pairs_are_made_by_the_seed_and_not_by_the_row() -> None:
    ours, theirs = two(12, np.random.default_rng(0))
    expected = compare(ours, theirs, higher_is_better=True)
    shuffled = dict(sorted(theirs.items(), key=lambda item: item[1]))
    assert compare(ours, shuffled, higher_is_better=True) == expected
    # rows would have paired other seeds, whose differences are as wide as the seeds'
    width = expected.gain.high - expected.gain.low
    by_row = compare(ours, dict(enumerate(shuffled.values())), higher_is_better=True)
    assert by_row.gain.high - by_row.gain.low > 2 * width


def test_seeds_of_one_method_only_are_counted_and_do_not_enter() -> None:
    ours, theirs = two(6, np.random.default_rng(1))
    expected = compare(ours, theirs, higher_is_better=True)
    found = compare(ours | {7: 1e6}, theirs | {8: -1e6, 9: 0.0}, higher_is_better=True)
    assert (expected.unpaired, found.unpaired) == (0, 3)
    assert found.gain == expected.gain
    with pytest.raises(IsoplastError, match=r"no seed in common: \[7\] and \[8, 9\]"):
        compare({7: 1.0}, {9: 0.0, 8: 0.0}, higher_is_better=True)


@pytest.mark.parametrize("seeds", [1, 2, 8])
def test_a_gain_turns_with_the_sides_and_the_direction(seeds: int) -> None:
    ours, theirs = two(seeds, np.random.default_rng(2))
    forth = compare(ours, theirs, higher_is_better=True)
    for back in (compare(theirs, ours, higher_is_better=True), compare(ours, theirs, higher_is_better=False)):
        np.testing.assert_allclose(
            [back.gain.value, back.gain.low, back.gain.high, back.effect_size, back.p, back.detectable],
            [
                -forth.gain.value,
                -forth.gain.high,
                -forth.gain.low,
                -forth.effect_size,
                forth.p,
                forth.detectable,
            ],
        )


def test_a_single_seed_shows_a_gain_and_no_more() -> None:
    found = compare({3: 0.9}, {3: 0.4}, higher_is_better=True)
    assert found.gain.value == 0.5
    assert all(math.isnan(number) for number in (found.gain.low, found.gain.high, found.p, found.effect_size))
    assert found.detectable == math.inf
    assert str(found) == "0.5 (1 seed, exploratory), g = nan, p = nan"


def test_differences_that_agree_exactly() -> None:
    same = compare({0: 0.5, 1: 0.75, 2: 1.0}, {0: 0.5, 1: 0.75, 2: 1.0}, higher_is_better=True)
    assert (same.gain.value, same.p, same.effect_size, same.detectable) == (0, 1, 0, 0)
    shifted = compare({0: 0.5, 1: 0.75, 2: 1.0}, {0: 1.0, 1: 1.25, 2: 1.5}, higher_is_better=True)
    assert (shifted.gain.low, shifted.gain.high, shifted.p, shifted.effect_size) == (-0.5, -0.5, 0, -math.inf)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@given(
    shift=st.integers(-3, 3),
    scores=st.lists(st.integers(1, 9), min_size=3, max_size=6).filter(lambda one: len({*one}) > 1),
)
def test_rounding_is_no_spread_and_no_gain(size: float, shift: int, scores: list[int]) -> None:
    ours, theirs = ([size * (score + step) / 10 for score in scores] for step in (shift, 0))
    theirs[0] *= 1 + 2e-16  # as another order of the same sum gives
    found = compare(dict(enumerate(ours)), dict(enumerate(theirs)), higher_is_better=True)
    expected = (0, math.copysign(math.inf, shift)) if shift else (1, 0)
    assert (found.p, found.effect_size, found.detectable) == (*expected, 0)


def test_a_spread_of_a_millionth_is_one() -> None:
    found = compare({0: 0.9, 1: 0.800001, 2: 0.7}, {0: 0.8, 1: 0.7, 2: 0.6}, higher_is_better=True)
    assert 0 < found.p < 1e-9
    assert found.effect_size < 1e6


def test_the_effect_size_is_unbiased() -> None:
    rng, seeds, true = np.random.default_rng(3), 5, 0.8
    differences = rng.normal(true, 1, size=(20_000, seeds))
    found = [
        compare(dict(enumerate(row)), dict.fromkeys(range(seeds), 0.0), higher_is_better=True).effect_size
        for row in differences[:4000]
    ]
    # the spread of g at five seeds is some 0.75: a standard error of 0.012 over 4000; d itself would be 1.00
    assert np.mean(found) == pytest.approx(true, abs=0.04)


@given(P_VALUES)
def test_holm_is_the_closed_test_of_bonferroni(p: np.ndarray) -> None:
    # a claim holds if Bonferroni rejects every set of hypotheses that it belongs to
    count = len(p)
    sets = [each for size in range(1, count + 1) for each in itertools.combinations(range(count), size)]
    expected = [
        max(min(1.0, len(each) * min(p[member] for member in each)) for each in sets if index in each)
        for index in range(count)
    ]
    np.testing.assert_allclose(holm(p), expected)


@given(P_VALUES)
def test_the_false_discovery_rate_is_that_of_scipy(p: np.ndarray) -> None:
    np.testing.assert_allclose(false_discovery_rate(p), stats.false_discovery_control(p) if len(p) else p)


@pytest.mark.parametrize("adjust", [holm, false_discovery_rate])
@given(p=P_VALUES, order=st.randoms(use_true_random=False))
def test_adjusting_keeps_the_order_and_never_helps(adjust, p, order) -> None:
    found = adjust(p)
    assert (found >= p).all()
    assert (found <= 1).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    rows = np.array(order.sample(range(len(p)), len(p)), dtype=int)
    np.testing.assert_array_equal(adjust(p[rows]), found[rows])


@pytest.mark.parametrize("adjust", [holm, false_discovery_rate])
def test_a_comparison_without_p_counts_and_stays_without(adjust) -> None:
    found = adjust([0.01, math.nan, 0.02])
    np.testing.assert_array_equal(found, np.where([0, 1, 0], math.nan, adjust([0.01, 1.0, 0.02])))
    for bad in ([1.5], [-0.1], [[0.1]]):
        with pytest.raises(IsoplastError, match="p values"):
            adjust(bad)


@pytest.mark.parametrize("correction", ["holm", "fdr"])
def test_all_methods_against_one(correction) -> None:
    rng = np.random.default_rng(4)
    methods = {f"m{gain}": two(12, rng, gain)[0] for gain in (0, 1, 3)} | {
        "adam": dict(enumerate(rng.normal(size=12)))
    }
    found = compare_all(methods, "adam", higher_is_better=True, correction=correction)
    assert list(found) == ["m0", "m1", "m3"]
    adjusted = (holm if correction == "holm" else false_discovery_rate)([one.p for one in found.values()])
    for (name, one), p in zip(found.items(), adjusted, strict=True):
        alone = compare(methods[name], methods["adam"], higher_is_better=True)
        assert one.p_adjusted == p
        assert (one.gain, one.p) == (alone.gain, alone.p)
    assert compare_all({"adam": {0: 1.0}}, "adam", higher_is_better=True) == {}


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(IsoplastError, match="did you mean 'adam'"):
        compare_all({"adam": {0: 1.0}}, "adan", higher_is_better=True)
    with pytest.raises(IsoplastError, match="unknown correction 'bonferroni'"):
        compare_all({"adam": {0: 1.0}}, "adam", higher_is_better=True, correction="bonferroni")  # type: ignore[arg-type]


def test_claims_and_intervals_err_as_rarely_as_they_say() -> None:
    rng, trials, seeds = np.random.default_rng(5), 1000, 6
    claims, covered = 0, 0
    for _ in range(trials):
        common = 5 * rng.normal(size=seeds)
        methods = {
            name: dict(enumerate(common + rng.normal(size=seeds))) for name in ("a", "b", "c", "d", "base")
        }
        found = compare_all(methods, "base", higher_is_better=True)
        claims += any(one.p_adjusted < 0.05 for one in found.values())
        covered += found["a"].gain.low <= 0 <= found["a"].gain.high
    # standard error of a share of 5 % in 1000: 0.7 %; Holm may err less, the interval is exact
    assert claims / trials <= 0.05 + 0.021
    assert covered / trials == pytest.approx(0.95, abs=0.021)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("power", [0.5, 0.8])
def test_what_is_detectable_is_detected_as_often_as_said(seeds: int, power: float) -> None:
    rng, trials = np.random.default_rng([seeds, int(10 * power)]), 4000
    true = minimum_detectable_effect(2.0, seeds, power=power)
    differences = rng.normal(true, 2.0, size=(trials, seeds))
    detected = (stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
    assert detected == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / trials))


@given(st.floats(0.01, 100), st.integers(2, 60), st.sampled_from([0.9, 0.95, 0.99]), st.floats(0.5, 0.99))
def test_what_is_detectable_solves_its_equation(deviation, seeds, confidence, power) -> None:
    found = minimum_detectable_effect(deviation, seeds, confidence=confidence, power=power)
    bound = stats.t.ppf((1 + confidence) / 2, seeds - 1)
    reached = stats.nct.sf(bound, seeds - 1, found * math.sqrt(seeds) / deviation)
    assert reached == pytest.approx(power, abs=1e-4)  # scipy's inverse stops within some 1e-6 of the shift


def test_more_seeds_detect_less() -> None:
    found = [minimum_detectable_effect(1.0, seeds) for seeds in range(1, 40)]
    assert found[0] == math.inf
    assert (np.diff(found[1:]) < 0).all()
    assert minimum_detectable_effect(math.nan, 1) == math.inf
    for wrong in (
        {"deviation": -1.0},
        {"deviation": math.nan},
        {"power": 0.2},
        {"power": 1.0},
        {"confidence": 1},
    ):
        with pytest.raises(IsoplastError, match=f"{next(iter(wrong))} is"):
            minimum_detectable_effect(**{"deviation": 1.0, "seeds": 5, **wrong})  # type: ignore[arg-type]
