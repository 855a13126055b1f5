"""Paired comparison by the identity of the seed, over many methods, and what the seeds at hand can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown
from isoplast.statistics._checks import (
    Array,
    ArrayLike,
    by_seed,
    count,
    named,
    numbers,
    real,
    share,
    sign,
    vector,
    without_rounding,
)
from isoplast.statistics._estimates import Estimate, critical, mean

Correction = Literal["holm", "fdr"]


@dataclass(frozen=True)
class Comparison:
    """How much better one method is than another on the same seeds.

    Args:
        gain: mean paired difference with Student's interval; above 0 the first method is better, whatever the
            direction of the score.
        effect_size: the gain in standard deviations of the paired difference (Hedges' g); NaN below three
            seeds.
        p: two-sided, of the paired t-test; NaN for a single seed.
        p_adjusted: for the number of comparisons made; p itself where there is one.
        detectable: the smallest true gain that so many seeds show with a probability of `power`.
        unpaired: seeds that only one of the two has; they do not count.
    """

    gain: Estimate
    effect_size: float
    p: float
    p_adjusted: float
    detectable: float
    unpaired: int

    def __str__(self) -> str:
        return f"{self.gain}, g = {self.effect_size:.2f}, p = {self.p_adjusted:.2g}"


def compare(
    values: Mapping[int, float],
    others: Mapping[int, float],
    *,
    higher_is_better: bool,
    confidence: float = 0.95,
    power: float = 0.8,
) -> Comparison:
    r"""Compare two methods on the seeds that both ran.

    With the differences :math:`d_i` of the n seeds in common, :math:`\bar d \pm t_{n-1} s_d / \sqrt n` and
    the paired t-test; the effect size is :math:`g = J(n-1)\, \bar d / s_d` with
    :math:`J(\nu) = \Gamma(\nu/2) / (\sqrt{\nu/2}\, \Gamma((\nu-1)/2))`. A seed fixes the tasks and the first
    weights of both, so that what it does to both drops out. Differences, and a deviation of them, that are
    no more than the rounding of the scores count as 0.

    Args:
        values: a number for each seed: `dict(zip(seeds, average(scores)))`.
        others: the same of the method to compare with; only the seeds say which belong together.
        higher_is_better: direction of the score.
        confidence: coverage of the interval, and 1 - level of the test, in (0, 1).
        power: probability with which `detectable` would be found, in [0.5, 1).

    Returns:
        The comparison, `values` against `others`.

    Raises:
        IsoplastError: no seed in common, a value is not finite, or a number is out of range.

    Example:
        >>> print(compare({0: 0.9, 1: 0.8, 2: 0.9}, {2: 0.7, 1: 0.6, 0: 0.6}, higher_is_better=True))
        0.2333 [0.08991, 0.3768] (3 seeds, exploratory), g = 2.28, p = 0.02

    Reference:
        Student (1908); Hedges, "Distribution theory for Glass's estimator of effect size", Journal of
        Educational Statistics 6 (1981).
    """
    common = sorted(by_seed("values", values).keys() & by_seed("others", others).keys())
    if not common:
        raise IsoplastError(
            f"no seed in common: {shown(sorted(values))} and {shown(sorted(others))}; run both methods with "
            "the same seeds"
        )
    ours, theirs = (vector([side[seed] for seed in common]) for side in (values, others))
    scale = float(np.abs([ours, theirs]).max())
    differences = sign(higher_is_better) * without_rounding(ours - theirs, scale)
    gain = mean(differences, confidence=confidence)
    deviation = math.nan
    if len(common) > 1:
        deviation = float(without_rounding(differences.std(ddof=1), scale))
    p = _paired_p(gain.value, deviation, len(common))
    return Comparison(
        gain=gain,
        effect_size=_effect_size(gain.value, deviation, len(common)),
        p=p,
        p_adjusted=p,
        detectable=minimum_detectable_effect(deviation, len(common), confidence=confidence, power=power),
        unpaired=len(values.keys() ^ others.keys()),
    )


def compare_all(
    methods: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    higher_is_better: bool,
    correction: Correction = "holm",
    confidence: float = 0.95,
    power: float = 0.8,
) -> dict[str, Comparison]:
    """Compare every method with one of them, the p values adjusted for their number.

    The intervals are not adjusted: each covers for itself.

    Args:
        methods: for each method a number for each seed, as `compare` takes them.
        baseline: the method to compare with.
        higher_is_better: direction of the score.
        correction: "holm" (no false claim at all, with probability `confidence`), or "fdr" (Benjamini and
            Hochberg: the expected share of false ones among the claims).
        confidence, power: as for `compare`.

    Returns:
        A comparison for each method but the baseline, in their order.

    Raises:
        IsoplastError: the baseline or correction is unknown, or as `compare`.

    Example:
        >>> adam, muon = {0: 0.5, 1: 0.6, 2: 0.5}, {0: 0.5, 1: 0.7, 2: 0.6}
        >>> runs = {"adam": adam, "adamo": {0: 0.8, 1: 0.8, 2: 0.9}, "muon": muon}
        >>> found = compare_all(runs, "adam", higher_is_better=True)
        >>> {name: round(one.p_adjusted, 3) for name, one in found.items()}
        {'adamo': 0.07, 'muon': 0.184}

    Reference:
        As `compare`, `holm` and `false_discovery_rate`.
    """
    if not isinstance(methods, Mapping):
        raise IsoplastError(f"methods is {shown(methods)}: map the name of each method to a number a seed")
    named("method", baseline, methods)
    named("correction", correction, CORRECTIONS)
    others = methods[baseline]
    found = {
        name: compare(values, others, higher_is_better=higher_is_better, confidence=confidence, power=power)
        for name, values in methods.items()
        if name != baseline
    }
    adjusted = CORRECTIONS[correction]([one.p for one in found.values()])
    return {
        name: replace(one, p_adjusted=float(p))
        for (name, one), p in zip(found.items(), adjusted, strict=True)
    }


def holm(p: ArrayLike) -> Array:
    r"""p values adjusted so that all claims together hold, by Holm's steps.

    In ascending order :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})`; whatever the
    tests have to do with each other.

    Args:
        p: shape (tests,), in [0, 1]; NaN (a comparison of a single seed) counts as a test and stays NaN.

    Returns:
        Shape (tests,).

    Raises:
        IsoplastError: a p value is out of range.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3)
        array([0.03, 0.06, 0.06])

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
        (1979).
    """
    values, order, known = _ascending(p)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return _back(steps, order, known)


def false_discovery_rate(p: ArrayLike) -> Array:
    r"""p values adjusted so that the expected share of false claims stays below the level.

    In ascending order :math:`\tilde p_{(i)} = \min_{j \ge i} \min(1, p_{(j)}\, m / j)`; for tests that are
    independent or positively dependent, as comparisons with one baseline about are.

    Args:
        p: shape (tests,), in [0, 1]; NaN (a comparison of a single seed) counts as a test and stays NaN.

    Returns:
        Shape (tests,).

    Raises:
        IsoplastError: a p value is out of range.

    Example:
        >>> false_discovery_rate([0.01, 0.04, 0.03]).round(3)
        array([0.03, 0.04, 0.04])

    Reference:
        Benjamini and Hochberg, "Controlling the false discovery rate", Journal of the Royal Statistical
        Society B 57 (1995).
    """
    values, order, known = _ascending(p)
    tests = len(values)
    ratios = values[order] * (tests / np.arange(1, tests + 1))  # so bracketed never below p by rounding
    return _back(np.minimum.accumulate(ratios[::-1])[::-1], order, known)


CORRECTIONS: dict[str, Callable[[ArrayLike], Array]] = {"holm": holm, "fdr": false_discovery_rate}


def minimum_detectable_effect(
    deviation: float, seeds: int, *, confidence: float = 0.95, power: float = 0.8
) -> float:
    r"""The smallest true gain that a paired comparison of so many seeds would find.

    The :math:`\delta` with :math:`P(T > t_{n-1, 1 - \alpha/2}) =` power, where T is noncentral t with n - 1
    degrees of freedom and noncentrality :math:`\delta \sqrt n / \sigma` (the chance of a finding on the wrong
    side, below 1e-4, is left out). A smaller gain these seeds cannot be expected to show: "no difference was
    found" means no more than that.

    Args:
        deviation: standard deviation of the paired difference over seeds, >= 0.
        seeds: number of pairs.
        confidence: 1 - level of the two-sided test, in (0, 1).
        power: probability of finding it, in [0.5, 1).

    Returns:
        A gain, in units of the deviation; infinite for fewer than two seeds, which show nothing.

    Raises:
        IsoplastError: a number is out of range.

    Example:
        >>> [round(minimum_detectable_effect(1.0, seeds), 2) for seeds in (3, 5, 10, 30)]
        [3.26, 1.68, 1.0, 0.53]

    Reference:
        Cohen, "Statistical power analysis for the behavioral sciences" (1988), chapter 2.
    """
    share("confidence", confidence)
    if not real(power) or not 0.5 <= power < 1:
        raise IsoplastError(f"power is {shown(power)}: it must lie between 0.5 and 1, 0.8 say")
    if count("seeds", seeds, 0) < 2:
        return math.inf
    if not real(deviation) or not 0 <= deviation < math.inf:
        raise IsoplastError(f"deviation is {shown(deviation)}: give a standard deviation, 0 or more")
    shift = special.nctdtrinc(seeds - 1, 1 - power, critical(confidence, seeds - 1))
    return float(shift) * deviation / math.sqrt(seeds)


def _paired_p(gain: float, deviation: float, seeds: int) -> float:
    if seeds == 1:
        return math.nan
    if deviation == 0:  # all differences are one number
        return 1.0 if gain == 0 else 0.0
    return 2 * float(special.stdtr(seeds - 1, -abs(gain) * math.sqrt(seeds) / deviation))


def _effect_size(gain: float, deviation: float, seeds: int) -> float:
    if seeds < 3:  # J(1) is 0
        return math.nan
    if deviation == 0:
        return math.copysign(math.inf, gain) if gain else 0.0
    half = (seeds - 1) / 2
    unbiased = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
    return unbiased * gain / deviation


def _ascending(p: ArrayLike) -> tuple[Array, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """p values with 1 for NaN, their order, and which are known."""
    given = np.atleast_1d(numbers("p values", p))
    known = ~np.isnan(given)
    values = np.where(known, given, 1.0)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise IsoplastError(f"p values must lie between 0 and 1 in one row, not {shown(given.tolist())}")
    return values, np.argsort(values, kind="stable"), known


def _back(adjusted: Array, order: npt.NDArray[np.intp], known: npt.NDArray[np.bool_]) -> Array:
    """Adjusted values in the order in which the p values came."""
    found = np.empty_like(adjusted)
    found[order] = np.minimum(adjusted, 1.0)
    return np.where(known, found, np.nan)
