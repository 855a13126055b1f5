"""The methods of a study ranked by the metric that counts, each problem by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isoplast._core.errors import IsoplastError
from isoplast.study._compare import by_problem
from isoplast.study._metrics import metric
from isoplast.study.store._find import run_directories

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Ranking:
    """The methods on one problem.

    Attributes:
        problem: which one, in words.
        label: the metric that counts, in words; "" if nothing was measured yet.
        baseline: the method that the others are compared with; "" if none is.
        table: `isoplast.statistics.method_table`, the best first; None where there is none.
        reason: why there is none.
    """

    problem: str
    label: str = ""
    baseline: str = ""
    table: pl.DataFrame | None = None
    reason: str = ""


def rank_methods(path: Path, frame: pl.DataFrame, runs: pl.DataFrame, *, compare: bool) -> list[Ranking]:
    """The methods of results on each of their problems.

    Args:
        path: of a study or of a run.
        frame: its `load_study`, with one label for each method.
        runs: its `load_runs`, with the same labels; failures are counted by it.
        compare: whether the others are compared with the method of the first run that the study names on the
            problem, whatever became of that run; paired by seed.

    Raises:
        IsoplastError: there are no results, or a file is damaged.
    """
    import polars as pl

    specs = {directory.path.name: directory.read_settings() for directory in run_directories(path)}
    found = []
    for problem, members in by_problem(specs).items():
        own = pl.col("run_id").is_in(members)
        found.append(_ranking(problem, frame.filter(own), runs.filter(own), compare))
    return found


def _ranking(problem: str, frame: pl.DataFrame, runs: pl.DataFrame, compare: bool) -> Ranking:
    import polars as pl

    from isoplast.statistics import method_table  # brings scipy

    finished = frame.filter((pl.col("task") >= 0) & pl.col("score").is_not_null())
    if finished.is_empty():
        return Ranking(problem, reason="nothing is measured yet")
    known = metric(finished["primary"][0])
    baseline = str(runs["label"][0]) if compare else None
    higher = known.higher_is_better is not False
    try:
        table = method_table(frame, runs=runs, higher_is_better=higher, baseline=baseline)
    except IsoplastError as error:
        return Ranking(problem, known.label, reason=str(error))
    return Ranking(problem, known.label, baseline or "", table)
