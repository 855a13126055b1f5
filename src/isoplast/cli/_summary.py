"""A study in a few numbers per arm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import polars as pl


def summary(frame: pl.DataFrame) -> pl.DataFrame:
    """First, worst and last task of every arm.

    Args:
        frame: what `load_study` returns.

    Returns:
        One row per arm (label, stream, data) in the frame's order: `seeds` (with a finished task), `tasks`
        (finished by all of these), and as means over the seeds the accuracies `first`, `worst` (of each
        seed's worst task) and `last`.
    """
    import polars as pl

    arm = ["label", "stream", "data"]
    trained = frame.filter(pl.col("task") >= 0).sort("task", maintain_order=True)
    seeds = trained.group_by(*arm, "run_id", maintain_order=True).agg(
        tasks=pl.len(),
        first=pl.col("accuracy").first(),
        worst=pl.col("accuracy").min(),
        last=pl.col("accuracy").last(),
    )
    table = seeds.group_by(arm, maintain_order=True).agg(
        pl.len().alias("seeds"), pl.col("tasks").min(), pl.col("first", "worst", "last").mean()
    )
    order = frame.select(arm).unique(maintain_order=True)
    return order.join(table, on=arm, how="inner", maintain_order="left")


def summary_table(frame: pl.DataFrame) -> Table:
    """The summary for a terminal."""
    found = summary(frame)
    several = found.select("stream", "data").n_unique() > 1
    table = Table(title="Accuracy, mean over seeds", title_justify="left")
    table.add_column("arm")
    if several:
        table.add_column("stream")
    for name in ("seeds", "tasks", "first task", "worst", "last task"):
        table.add_column(name, justify="right")
    for row in found.iter_rows(named=True):
        where = [f"{row['stream']}, {row['data']}"] if several else []
        counts = [str(row["seeds"]), str(row["tasks"])]
        scores = [f"{row[name]:.2f}" for name in ("first", "worst", "last")]
        table.add_row(Text(row["label"]), *where, *counts, *scores)
    return table
