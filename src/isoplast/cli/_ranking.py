"""The methods of a study ranked by the metric that counts, one table for each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoplast._core.errors import IsoplastError
from isoplast.study import RunDirectory, by_problem, load_runs, load_study, metric, run_directories

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Ranking:
    """The methods on one problem, the best first.

    Args:
        problem: which one, in words.
        label: the metric that counts, in words; "" if nothing was measured yet.
        rows: as `isoplast.statistics.method_table` gives them; () where there is none.
        reason: why there is none.
    """

    problem: str
    label: str
    rows: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""


def rankings(path: Path, runs: pl.DataFrame | None = None) -> list[Ranking]:
    """The methods of the results in a directory, ranked on each of their problems.

    Args:
        path: of a study or of a run.
        runs: its `load_runs`, if that is at hand.

    Raises:
        IsoplastError: there are no results, or a file is damaged.
    """
    import polars as pl

    frame = load_study(path)
    runs = load_runs(path) if runs is None else runs
    specs = {directory.path.name: directory.read_settings() for directory in run_directories(path)}
    found = []
    for problem, members in by_problem(specs).items():
        own = pl.col("run_id").is_in(members)
        found.append(_ranking(problem, frame.filter(own), runs.filter(own)))
    return found


def _ranking(problem: str, frame: pl.DataFrame, runs: pl.DataFrame) -> Ranking:
    from isoplast.statistics import method_table  # brings scipy

    primary = frame["primary"].drop_nulls()
    if not len(primary):
        return Ranking(problem, "", reason="nothing is measured yet")
    known = metric(primary[0])
    try:
        table = method_table(frame, runs=runs, higher_is_better=known.higher_is_better is not False)
    except IsoplastError as error:
        return Ranking(problem, known.label, reason=str(error))
    return Ranking(problem, known.label, tuple(table.iter_rows(named=True)))


STATES = ("done", "running", "failed", "interrupted", "waiting")


def states_words(states: Sequence[str]) -> str:
    """How many runs are in which state.

    Example:
        >>> states_words(["done", "failed", "done"])
        '2 done, 1 failed'
    """
    return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)


def failures(path: Path, runs: pl.DataFrame) -> list[tuple[str, str, RunDirectory]]:
    """Label with seed, reason and directory of every failed run."""
    import polars as pl

    single = (path / "spec.yaml").exists()
    rows = runs.filter(pl.col("state") == "failed").select("run_id", "label", "seed", "reason").iter_rows()
    return [
        (f"{label}, seed {seed}", reason, RunDirectory(path if single else path / run))
        for run, label, seed, reason in rows
    ]
