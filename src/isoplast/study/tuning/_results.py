"""What the trials gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError
from isoplast.study._metrics import metric
from isoplast.study.store._find import holds_results
from isoplast.study.store._frame import load_runs, load_study
from isoplast.study.tuning._space import Values
from isoplast.study.tuning._trials import Trials

if TYPE_CHECKING:
    import polars as pl


class NotSwept(IsoplastError):
    """Trials of a tuning are not done; its sweep does them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """What lies in the directory of a sweep, read once.

    Args:
        out: the directory.
        runs, frame: as `load_runs` and `load_study` return them.
    """

    out: Path
    runs: pl.DataFrame
    frame: pl.DataFrame

    @classmethod
    def read(cls, out: Path) -> Stored:
        """Read the directory.

        Raises:
            NotSwept: there is nothing in it.
        """
        if not holds_results(out) or not len(runs := load_runs(out)):
            raise NotSwept(f"no trial is done in {out}: the sweep does them")
        return cls(out, runs, load_study(out))


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What trials gave.

    Args:
        settings: of every trial by its label, by method.
        scores: of every trial by its label, those of the tasks that count, shape (seeds, tasks); failures are
            filled in. Where no run on a problem finished a task, its trials are left out.
        failed: the trials of which a run failed.
        signs: by method, 1 where more of the primary metric is better, -1 where less is; left out as above.
    """

    settings: Mapping[str, Mapping[str, Values]]
    scores: Mapping[str, npt.NDArray[np.float64]]
    failed: frozenset[str]
    signs: Mapping[str, float]

    @classmethod
    def of(cls, trials: Trials, stored: Stored) -> Results:
        """Those of certain trials and no others, whatever else lies in the directory of the sweep.

        Raises:
            NotSwept: some of the trials are not done yet.
        """
        from isoplast.statistics import method_scores  # brings scipy, which no other command waits for

        runs, frame = (one.with_columns(one["run_id"].alias("trial")) for one in (stored.runs, stored.frame))
        states = dict(runs.select("run_id", "state").iter_rows())
        wanted = {run.id: states.get(run.id) for own in trials.runs.values() for run in own}
        open_ = sum(state not in ("done", "failed") for state in wanted.values())
        if open_:
            raise NotSwept(
                f"{open_} of {len(wanted)} runs of the trials are not done in {stored.out}: the sweep does "
                "what is missing"
            )
        last = trials.tuning.last or 0
        scores: dict[str, npt.NDArray[np.float64]] = {}
        signs: dict[str, float] = {}
        for methods in trials.tuning.problems.values():
            labels = [label for method in methods for label in trials.settings[method]]
            names = {run.id for label in labels for run in trials.runs[label]}
            own = frame.filter(frame["run_id"].is_in(names) & (frame["task"] >= 0))
            if not len(own):
                continue
            higher = metric(own["primary"][0]).higher_is_better is not False
            known = runs.filter(runs["run_id"].is_in(names))
            found = method_scores(own, higher_is_better=higher, runs=known, by="trial")
            for label in labels:
                values = [found[run.id].values[0] for run in trials.runs[label]]
                scores[label] = np.stack(values)[:, -last:]
            signs |= dict.fromkeys(methods, 1.0 if higher else -1.0)
        failed = frozenset(
            label for label, own in trials.runs.items() if any(wanted[run.id] == "failed" for run in own)
        )
        return cls(trials.settings, scores, failed, signs)
