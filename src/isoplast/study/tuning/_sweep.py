"""Doing the trials, and finding again what they gave."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from isoplast.study._run_study import run_study
from isoplast.study._study import Study
from isoplast.study.executors._base import Display, Executor, Outcome
from isoplast.study.tuning._results import Results, Stored
from isoplast.study.tuning._trials import Trials
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
    search = _Search(tuning)
    outcomes: list[Outcome] = []
    for _ in range(tuning.trials or 1):
        search.ask()
        outcomes = run_study(search.trials.study(), out, **given)
        search.tell(Stored.read(out))
    return outcomes


def trials(tuning: Tuning) -> Study | None:
    """All trials as a study; None where each depends on the results of those before."""
    return None if tuning.adaptive else Trials(tuning).study()


def results(tuning: Tuning, out: Path) -> Results:
    """What the trials of a finished sweep gave: exactly those that `sweep` would do.

    A search that learns from results is done again with those that are there, which asks for the same trials
    as long as the tuning is the same.

    Raises:
        NotSwept: some of them are not done yet.
    """
    stored = Stored.read(out)
    if not tuning.adaptive:
        return Results.of(Trials(tuning), stored)
    search = _Search(tuning)
    for _ in range(tuning.trials or 1):
        search.ask()
        found = search.tell(stored)
    return found


class _Search:
    """A search of every method that learns from results."""

    def __init__(self, tuning: Tuning) -> None:
        self.trials = Trials(tuning)
        self._searches = {method: tuning.search(method) for method in tuning.methods}
        self._asked: dict[str, str] = {}

    def ask(self) -> None:
        """Add a trial of every method."""
        for method, search in self._searches.items():
            self._asked[method] = self.trials.add(method, search.ask())

    def tell(self, stored: Stored) -> Results:
        """Learn what those trials gave; returns what all gave so far."""
        found = Results.of(self.trials, stored)
        for method, search in self._searches.items():
            scores = found.scores.get(self._asked[method])
            search.tell(-math.inf if scores is None else found.signs[method] * float(scores.mean()))
        return found
