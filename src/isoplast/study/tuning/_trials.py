"""The trials of a tuning: settings of its methods, and the runs of each."""

from __future__ import annotations

from isoplast.study._spec import Run
from isoplast.study._study import Study
from isoplast.study.tuning._space import Values
from isoplast.study.tuning._tuning import Tuning


class Trials:
    """Those that are known: all of a grid or a random search, those asked for so far of another.

    Attributes:
        settings: of every trial by its label, by method.
        runs: of every trial by its label, one for each seed.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.settings: dict[str, dict[str, Values]] = {method: {} for method in tuning.methods}
        self.runs: dict[str, list[Run]] = {}
        for method in tuning.methods:
            for values in tuning.settings(method):
                self.add(method, values)

    def add(self, method: str, values: Values) -> str:
        """Add a trial, if it is not there yet; returns its label."""
        label = self.tuning.label(method, values)
        if label not in self.runs:
            self.settings[method][label] = values
            self.runs[label] = [self.tuning.run(method, values, seed) for seed in self.tuning.seeds]
        return label

    def study(self) -> Study:
        """Their runs as a study, the first seed of every trial before the second."""
        name = self.tuning.study.name
        ordered = [self.runs[label] for tried in self.settings.values() for label in tried]
        distinct = dict.fromkeys(run for one_seed in zip(*ordered, strict=True) for run in one_seed)
        about = f"Trials of the tuning of {name}."
        return Study(f"{name}-sweep", list(distinct), about, source=self.tuning.study.source)
