"""What the trials gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoplast._core.errors import IsoplastError
from isoplast.study._metrics import metric
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._frame import load_runs, load_study
from isoplast.study.tuning._space import Values
from isoplast.study.tuning._tuning import Tuning


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What the trials of a sweep gave, read once.

    Args:
        scores: of every trial by its label, those of the tasks that count, shape (seeds, tasks); failures are
            filled in.
        failed: the trials of which a run failed.
        signs: by method, 1 where more of the primary metric is better, -1 where less is.
        settings: the settings of every trial by its label, by method.
    """

    scores: Mapping[str, npt.NDArray[np.float64]]
    failed: frozenset[str]
    signs: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Values]]

    @classmethod
    def load(cls, tuning: Tuning, out: Path) -> Results:
        """Read the directory of a sweep.

        Raises:
            IsoplastError: trials are not done yet, or none gave a result.
        """
        from isoplast.statistics import method_scores  # brings scipy, which no other command waits for

        runs = load_runs(out)
        states = runs["state"].to_list()
        open_ = sum(state not in ("done", "failed") for state in states)
        if open_:
            raise IsoplastError(f"{open_} of {len(states)} trials in {out} are not done: run the sweep first")
        frame = load_study(out)
        specs = [RunDirectory(out / run).read_settings() for run in runs["run_id"]]
        settings = {method: _settings(tuning, method, specs) for method in tuning.methods}
        last = tuning.last or 0
        counted: dict[str, npt.NDArray[np.float64]] = {}
        signs: dict[str, float] = {}
        for problem, methods in tuning.problems.items():
            labels = [label for method in methods for label in settings[method]]
            own = frame.filter(frame["label"].is_in(labels))
            primary = own["primary"].drop_nulls()
            if not len(primary):
                where = f" on {problem}" if problem else ""
                raise IsoplastError(
                    f"all trials{where} in {out} failed: isoplast show {out} gives the reasons"
                )
            higher = metric(primary[0]).higher_is_better is not False
            found = method_scores(own, higher_is_better=higher, runs=runs.filter(runs["label"].is_in(labels)))
            counted |= {label: one.values[:, -last:] for label, one in found.items() if len(one.seeds)}
            signs |= dict.fromkeys(methods, 1.0 if higher else -1.0)
        failed = frozenset(runs.filter(runs["state"] == "failed")["label"])
        return cls(counted, failed, signs, settings)


def _settings(tuning: Tuning, method: str, specs: list[dict[str, Any]]) -> dict[str, Values]:
    """The settings of the trials of a method among all specifications, by label."""
    found: dict[str, Values] = {}
    axes = tuning.axes(method)
    for spec in specs:
        settings = {**spec["method"], "lr": spec["lr"]}
        values = {axis.name: axis.as_given(settings.get(axis.name)) for axis in axes}
        if spec["label"] == tuning.label(method, values):
            found[spec["label"]] = values
    return found
