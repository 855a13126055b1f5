"""Words for the states of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isoplast.study import RunDirectory

if TYPE_CHECKING:
    import polars as pl

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
