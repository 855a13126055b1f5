"""The methods of a study ranked by the metric that counts, each problem by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isoplast._core.errors import IsoplastError
from isoplast.study._compare import by_problem
from isoplast.study._metrics import metric
from isoplast.study.store._find import run_directories

if TYPE_CHECKING:
    import polars as pl

    from isoplast.statistics import Scores


@dataclass(frozen=True)
class Ranking:
    """The methods on one problem.

    Attributes:
        problem: which one, in words.
        label: the metric that counts, in words; "" if nothing was measured yet.
        baseline: the method that the others are compared with; "" if none is.
        table: `isoplast.statistics.method_table`, the best first, and `seconds`, the mean wall time of a run
            that is done; None where there is none.
        lead: how far the best is ahead of the next, paired by seed, in words; "" where there is no next.
        data: the editions of the data, in words; "" where nothing says so.
        reason: why there is no table.
    """

    problem: str
    label: str = ""
    baseline: str = ""
    table: pl.DataFrame | None = None
    lead: str = ""
    data: str = ""
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

    from isoplast.statistics import method_scores, method_table  # brings scipy

    finished = frame.filter((pl.col("task") >= 0) & pl.col("score").is_not_null())
    if finished.is_empty():
        return Ranking(problem, reason="nothing is measured yet")
    known = metric(finished["primary"][0])
    baseline = str(runs["label"][0]) if compare else None
    higher = known.higher_is_better is not False
    try:
        table = method_table(frame, runs=runs, higher_is_better=higher, baseline=baseline)
        scores = method_scores(frame, runs=runs, higher_is_better=higher)
    except IsoplastError as error:
        return Ranking(problem, known.label, reason=str(error))
    done = runs.filter(pl.col("state") == "done").group_by("label").agg(pl.mean("seconds"))
    table = table.join(done, left_on="method", right_on="label", how="left", maintain_order="left")
    return Ranking(problem, known.label, baseline or "", table, _lead(table, scores, higher), _data(runs))


def _lead(table: pl.DataFrame, scores: Mapping[str, Scores], higher: bool) -> str:
    from isoplast.statistics import compare

    best, following = [*table.drop_nulls("score")["method"], "", ""][:2]
    if not following:
        return ""
    ours, theirs = scores[best].by_seed(), scores[following].by_seed()
    if not ours.keys() & theirs.keys():
        return f"{best} is ahead of {following}, on other seeds"
    return f"{best} is ahead of {following} by {compare(ours, theirs, higher_is_better=higher).gain}"


def _data(runs: pl.DataFrame) -> str:
    return ", ".join(filter(None, dict.fromkeys(map(edition, runs["provenance"]))))


def edition(provenance: str) -> str:
    """The edition of a run's data, in words; "" where nothing says so.

    Args:
        provenance: as `load_runs` has it.
    """
    return str((json.loads(provenance).get("data") or {}).get("note", ""))
