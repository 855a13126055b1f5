"""Choosing the best trial of every method, and how sure the choice is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.study.tuning._results import Results
from isoplast.study.tuning._space import Values, in_words
from isoplast.study.tuning._sweep import results
from isoplast.study.tuning._tuning import Tuning

_BOOTSTRAP = 2000
_NEAR = 0.05  # a setting that wins in at least this share of the resamples is a near-winner


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for a method; as text: what, how sure, what else may be as good, what lies at an edge.

    Args:
        method: its label.
        values: the chosen settings.
        score: mean over the seeds of the trial.
        share: how often it wins when seeds and tasks are resampled, in [0, 1].
        near: other settings that win in at least a twentieth of the resamples, with how often.
        edges: settings whose chosen value lies at an edge of what was tried, and which edge.
        trials: how many were compared.
        failed: how many of those had a failed run.
    """

    method: str
    values: Values
    score: float
    share: float
    near: tuple[tuple[Values, float], ...]
    edges: tuple[tuple[str, str], ...]
    trials: int
    failed: int

    def __str__(self) -> str:
        lines = [
            f"{self.method}: {in_words(self.values)} (score {self.score:.4f}, best of {self.trials} "
            f"trials in {self.share:.0%} of resamples)"
        ]
        if self.near:
            near = "; ".join(f"{in_words(values)} ({share:.0%})" for values, share in self.near)
            lines.append(f"  near-winners: {near}")
        lines += [f"  {name} is the {edge} value tried: widen the space" for name, edge in self.edges]
        if self.failed:
            lines.append(f"  {self.failed} of its trials had failed runs, which count as chance")
        return "\n".join(lines)


def select(tuning: Tuning, out: Path) -> list[Choice]:
    r"""The best trial of every method.

    The score of a trial is the mean over seeds of the mean of its tasks (of the `last` ones); failed runs
    count as chance. How sure the choice is: seeds and tasks are drawn anew with replacement, the same ones
    for all trials of a method, and the share of :math:`B = 2000` draws in which a trial is the best counted.

    Args:
        tuning: what was tuned.
        out: directory of the sweep.

    Raises:
        NotSwept: trials of this tuning are not done yet, whatever else lies in the directory.
        IsoplastError: all failed.

    Reference:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993.
    """
    found = results(tuning, out)
    for problem, methods in tuning.problems.items():
        if methods[0] not in found.signs:
            where = f" on {problem}" if problem else ""
            raise IsoplastError(f"all trials{where} in {out} failed: isoplast show {out} gives the reasons")
    return [_choice(tuning, method, found) for method in tuning.methods]


def _choice(tuning: Tuning, method: str, results: Results) -> Choice:
    settings = results.settings[method]
    labels = list(settings)
    sign = results.signs[method]
    values = sign * np.stack([results.scores[label] for label in labels])  # trials, seeds, tasks
    means = values.mean(axis=(1, 2))
    best = int(means.argmax())
    draw = np.random.default_rng(0)
    wins = np.zeros(len(labels))
    for _ in range(_BOOTSTRAP):
        seeds = draw.integers(values.shape[1], size=values.shape[1])
        tasks = draw.integers(values.shape[2], size=values.shape[2])
        wins[values[:, seeds][:, :, tasks].mean(axis=(1, 2)).argmax()] += 1 / _BOOTSTRAP
    near = [
        (settings[labels[place]], float(wins[place]))
        for place in np.argsort(-wins)
        if place != best and wins[place] >= _NEAR
    ]
    chosen = settings[labels[best]]
    edges = [(axis.name, edge) for axis in tuning.axes(method) if (edge := axis.at_edge(chosen[axis.name]))]
    return Choice(
        method,
        chosen,
        float(sign * means[best]),
        float(wins[best]),
        tuple(near),
        tuple(edges),
        len(labels),
        sum(label in results.failed for label in labels),
    )
