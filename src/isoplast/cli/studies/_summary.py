"""A study in a few numbers per method: those of the report's results table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from isoplast._core.text import escaped

if TYPE_CHECKING:
    import polars as pl

    from isoplast.report import MethodRuns


def summary_table(frame: pl.DataFrame, runs: pl.DataFrame) -> Table:
    """First, worst and last task of every method, as means over seeds, for a terminal.

    Args:
        frame: what `load_study` returns, with at least one finished task.
        runs: what `load_runs` returns.
    """
    from isoplast.report import fine_print, method_runs, scores

    found = method_runs(frame, runs)
    several = len({_problem(result) for result in found}) > 1
    labels = dict.fromkeys(result.metric.label for result in found)
    title = ", ".join(filter(None, (*labels, "mean over seeds", fine_print(found))))
    table = Table(title=escaped(f"{title[0].upper()}{title[1:]}"), title_justify="left")
    table.add_column("method")
    if several:
        table.add_column("stream")
    for name in ("seeds", "tasks", "first task", "worst", "last task"):
        table.add_column(name, justify="right")
    for result in found:
        reached = scores(result)
        where = [_problem(result)] if several else []
        counts = [str(len(result.seeds)), str(len(reached.curve))]
        values = [f"{one.mean:.3f}" for one in (reached.first, reached.worst, reached.last)]
        table.add_row(Text(escaped(result.label)), *map(Text, where), *counts, *values)
    return table


def summary_sentence(frame: pl.DataFrame, runs: pl.DataFrame) -> str:
    """What became of the methods, in the sentence that heads the report."""
    from isoplast.report import headline, method_runs

    return escaped(headline(method_runs(frame, runs)))


def summary_line(frame: pl.DataFrame) -> str:
    """The same of a single run, in one line."""
    from isoplast.report import method_runs, scores

    (result, *_) = method_runs(frame)
    reached = scores(result)
    first, worst, last = (f"{one.mean:.3f}" for one in (reached.first, reached.worst, reached.last))
    return f"{result.metric.label}: first task {first}, worst {worst}, last {last}"


def _problem(result: MethodRuns) -> str:
    names = [result.settings.get(name) for name in ("stream", "data")]
    return escaped(", ".join(str(name) for name in names if name))
