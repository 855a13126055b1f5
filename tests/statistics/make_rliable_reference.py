"""Writes rliable_reference.json: what rliable and statsmodels say, for test_against_rliable.py.

Run once, in an environment of its own (it is no dependency of the tests):

    python -m venv .venv-rliable && .venv-rliable/bin/pip install rliable==1.2.0 "pandas<3"
    .venv-rliable/bin/python tests/statistics/make_rliable_reference.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rliable import library, metrics
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

REPS = 50_000
THRESHOLDS = [0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
P_VALUES = [0.04, 0.001, 0.3, 0.012, 0.012, 0.9, 0.0004]


def scores(rng, seeds, tasks, shift):
    """Skewed scores of two decimals, so that there are ties."""
    return np.round(1 - np.exp(rng.normal(-1.5 - shift, 0.5, size=(seeds, tasks))), 2)


def main():
    rng = np.random.default_rng(20260609)
    ours, theirs = scores(rng, 12, 7, 0.2), scores(rng, 10, 7, 0.0)
    np.random.seed(0)  # noqa: NPY002 - what rliable draws from
    point, ends = library.get_interval_estimates(
        {"ours": ours}, lambda x: np.array([metrics.aggregate_iqm(x), metrics.aggregate_mean(x)]), reps=REPS
    )
    profile = library.score_distributions(ours, np.array(THRESHOLDS))
    power = TTestPower()
    reference = {
        "versions": {name: version(name) for name in ("rliable", "arch", "numpy", "scipy", "statsmodels")},
        "ours": ours.tolist(),
        "theirs": theirs.tolist(),
        "reps": REPS,
        "iqm": {"value": point["ours"][0], "low": ends["ours"][0, 0], "high": ends["ours"][1, 0]},
        "mean": {"value": point["ours"][1], "low": ends["ours"][0, 1], "high": ends["ours"][1, 1]},
        "probability_of_improvement": metrics.probability_of_improvement(ours, theirs),
        "profile": {"thresholds": THRESHOLDS, "share": profile.tolist()},
        "p": P_VALUES,
        "holm": multipletests(P_VALUES, method="holm")[1].tolist(),
        "fdr": multipletests(P_VALUES, method="fdr_bh")[1].tolist(),
        "detectable": {
            str(seeds): float(power.solve_power(nobs=seeds, alpha=0.05, power=0.8))
            for seeds in (2, 3, 5, 10, 30, 100)
        },
    }
    target = Path(__file__).with_name("rliable_reference.json")
    target.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
