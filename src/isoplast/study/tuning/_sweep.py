"""Doing the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isoplast.study._run_study import run_study
from isoplast.study._study import Study
from isoplast.study.executors._base import Display, Executor, Outcome
from isoplast.study.tuning._results import Results
from isoplast.study.tuning._space import Values
from isoplast.study.tuning._tuning import Tuning


def sweep(
    tuning: Tuning,
    out: Path,
    *,
    jobs: int | None = None,
    threads: int = 1,
    display: Display | None = None,
    executor: str | Executor = "local",
) -> list[Outcome]:
    """Do the trials that are not done yet, each of them as often as there are seeds.

    They are a study of their own, with all that studies have: a search goes on after any interruption.

    Args:
        tuning: what is tuned.
        out: directory of the results.
        jobs, threads, display, executor: see `run_study`.
    """
    given: dict[str, Any] = {"jobs": jobs, "threads": threads, "display": display, "executor": executor}
    known = trials(tuning)
    if known is not None:
        return run_study(known, out, **given)
    assert tuning.trials is not None
    searches = {method: tuning.search(method) for method in tuning.methods}
    asked: dict[str, list[Values]] = {method: [] for method in searches}
    outcomes: list[Outcome] = []
    for _ in range(tuning.trials):
        for method, search in searches.items():
            asked[method].append(search.ask())
        outcomes = run_study(_study(tuning, asked), out, **given)
        results = Results.load(tuning, out)
        for method, search in searches.items():
            found = results.scores.get(tuning.label(method, asked[method][-1]))
            search.tell(-math.inf if found is None else results.signs[method] * float(found.mean()))
    return outcomes


def trials(tuning: Tuning) -> Study | None:
    """All trials as a study; None where each depends on the results of those before."""
    if tuning.adaptive:
        return None
    return _study(tuning, {method: tuning.settings(method) for method in tuning.methods})


def _study(tuning: Tuning, settings: Mapping[str, Sequence[Values]]) -> Study:
    distinct = {
        tuning.run(method, values, seed): None
        for seed in tuning.seeds
        for method, tried in settings.items()
        for values in tried
    }
    return Study(
        f"{tuning.study.name}-sweep",
        list(distinct),
        f"Trials of the tuning of {tuning.study.name}.",
        source=tuning.study.source,
    )
