"""A study in a few numbers for each setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from isoplast.study import metric

if TYPE_CHECKING:
    import polars as pl


def summary(frame: pl.DataFrame) -> pl.DataFrame:
    """First, worst and last task of every setting.

    Args:
        frame: what `load_study` returns.

    Returns:
        One row per setting (label, stream, data) in the frame's order: `primary` (the metric that counts),
        `seeds` (with a finished task), `tasks` (finished by all of these), and as means over the seeds the
        scores `first`, `worst` (of each seed's worst task) and `last`.
    """
    import polars as pl

    setting = [name for name in ("label", "stream", "data") if name in frame.columns]
    trained = frame.filter(pl.col("task") >= 0).sort("task", maintain_order=True)
    seeds = trained.group_by(*setting, "run_id", maintain_order=True).agg(
        primary=pl.col("primary").first(),
        tasks=pl.len(),
        first=pl.col("score").first(),
        low=pl.col("score").min(),
        high=pl.col("score").max(),
        last=pl.col("score").last(),
    )
    table = seeds.group_by(setting, maintain_order=True).agg(
        pl.col("primary").first(),
        pl.len().alias("seeds"),
        pl.col("tasks").min(),
        pl.col("first", "low", "high", "last").mean(),
    )
    better = pl.col("primary").map_elements(
        lambda name: metric(name).higher_is_better is not False, return_dtype=pl.Boolean
    )
    table = table.with_columns(worst=pl.when(better).then("low").otherwise("high")).drop("low", "high")
    order = frame.select(setting).unique(maintain_order=True)
    return order.join(table, on=setting, how="inner", maintain_order="left", nulls_equal=True)


def summary_table(frame: pl.DataFrame) -> Table:
    """The summary for a terminal."""
    found = summary(frame)
    names = [name for name in ("stream", "data") if name in found.columns]
    several = found.select(names).n_unique() > 1
    scores = list(dict.fromkeys(metric(name).label for name in found["primary"]))
    title = f"{', '.join(scores).capitalize()}, mean over seeds"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    if several:
        table.add_column("stream")
    for name in ("seeds", "tasks", "first task", "worst", "last task"):
        table.add_column(name, justify="right")
    for row in found.iter_rows(named=True):
        where = [", ".join(str(row[name]) for name in names if row[name])] if several else []
        counts = [str(row["seeds"]), str(row["tasks"])]
        values = [f"{row[name]:.2f}" for name in ("first", "worst", "last")]
        table.add_row(Text(row["label"]), *where, *counts, *values)
    return table
