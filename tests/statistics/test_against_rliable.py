"""The numbers of rliable and statsmodels, as make_rliable_reference.py wrote them once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoplast.statistics import (
    aggregate,
    false_discovery_rate,
    holm,
    interquartile_mean,
    minimum_detectable_effect,
    performance_profile,
    probability_of_improvement,
)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    path = Path(__file__).with_name("rliable_reference.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_point_estimates(reference: dict[str, Any]) -> None:
    ours, theirs = reference["ours"], reference["theirs"]
    assert float(interquartile_mean(ours)) == pytest.approx(reference["iqm"]["value"], rel=1e-14)
    improvement = probability_of_improvement(ours, theirs, higher_is_better=True)
    assert improvement.value == pytest.approx(reference["probability_of_improvement"], rel=1e-14)
    profile = performance_profile(ours, reference["profile"]["thresholds"], higher_is_better=True)
    np.testing.assert_allclose(profile.value, reference["profile"]["share"], rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "statistic"), [("iqm", interquartile_mean), ("mean", lambda scores: scores.mean(axis=(-2, -1)))]
)
def test_the_stratified_bootstrap(reference: dict[str, Any], name: str, statistic) -> None:
    expected = reference[name]
    found = aggregate(reference["ours"], statistic, independent_tasks=True, resamples=reference["reps"])
    # A 2.5 % end of 50 000 draws has an error of sqrt(.025 * .975 / 50000) / .0584 = 0.012 standard errors,
    # the difference of two 0.017; the width is 3.92 standard errors: four times that is 1.7 % of the width.
    slack = 0.017 * (expected["high"] - expected["low"])
    assert found.value == pytest.approx(expected["value"], rel=1e-14)
    assert found.low == pytest.approx(expected["low"], abs=slack)
    assert found.high == pytest.approx(expected["high"], abs=slack)


def test_adjusted_p_values(reference: dict[str, Any]) -> None:
    np.testing.assert_allclose(holm(reference["p"]), reference["holm"], rtol=1e-12)
    np.testing.assert_allclose(false_discovery_rate(reference["p"]), reference["fdr"], rtol=1e-12)


def test_detectable_effects(reference: dict[str, Any]) -> None:
    # the two solvers stop within some 1e-6; statsmodels also counts the wrong side
    for seeds, expected in reference["detectable"].items():
        assert minimum_detectable_effect(1.0, int(seeds)) == pytest.approx(expected, rel=1e-5)
