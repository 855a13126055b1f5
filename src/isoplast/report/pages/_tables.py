"""The table of methods for papers and spreadsheets: ranked, with intervals and paired comparisons."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from isoplast.report.data._method_runs import MethodRuns
from isoplast.report.html._document import NONE, Table
from isoplast.statistics import EXPLORATORY_BELOW, method_table
from isoplast.study import by_problem

_ESCAPED = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"λ": r"$\lambda$", "→": r"$\rightarrow$", "±": r"$\pm$"},
}


@dataclass(frozen=True)
class Ranking:
    """The methods on one problem.

    Attributes:
        problem: in words; "" where the study has only one.
        label: the metric that counts, in words.
        baseline: the method that the others are compared with.
        table: `isoplast.statistics.method_table`, the best first.
    """

    problem: str
    label: str
    baseline: str
    table: pl.DataFrame


def rankings(
    specs: Mapping[str, Mapping[str, Any]],
    frame: pl.DataFrame,
    runs: pl.DataFrame,
    results: Sequence[MethodRuns],
) -> list[Ranking]:
    """The methods of a study on each of its problems, compared with the first that it names there.

    Args:
        specs: the written specifications by run.
        frame: as `load_study` returns it.
        runs: as `load_runs` returns it; failures are counted by it.
        results: the same study by method, of which the labels are taken.
    """
    labels = {run: one.label for one in results for run in one.runs}

    def named(table: pl.DataFrame, members: Sequence[str]) -> pl.DataFrame:
        table = table.filter(pl.col("run_id").is_in(members))
        own = [labels.get(run, label) for run, label in table.select("run_id", "label").iter_rows()]
        return table.with_columns(label=pl.Series(own, dtype=pl.String))

    found = []
    problems = by_problem(specs)
    for problem, members in problems.items():
        own = [one for one in results if set(one.runs) & set(members)]
        if not own:  # not begun
            continue
        table = method_table(
            named(frame, members),
            runs=named(runs, members),
            higher_is_better=own[0].sign > 0,
            baseline=own[0].label,
        )
        said = problem if len(problems) > 1 else ""
        found.append(Ranking(said, own[0].metric.label, own[0].label, table))
    return found


def ranking_table(ranking: Ranking) -> Table:
    """The table for the page."""
    caption = (
        f"Mean {ranking.label} over all tasks, its interquartile mean, and the change from the first to the "
        f"last tenth of them; gain over {ranking.baseline}, paired by seed, p after Holm. Intervals: 95 %, "
        "over seeds; failed runs count as chance."
    )
    if ranking.problem:
        caption = f"{ranking.problem}. {caption}"
    few = [row["seeds"] for row in ranking.table.iter_rows(named=True) if row["exploratory"]]
    if few:
        caption += f" Exploratory: fewer than {EXPLORATORY_BELOW} seeds."
    head: tuple[str, ...] = ("Method", "Mean", "IQM", "Late − early", "Gain", "p", "Seeds", "Failed")
    rows = []
    for rank, row in enumerate(ranking.table.iter_rows(named=True), 1):
        numbers = [interval(row, name, ",\u00a0") or NONE for name in ("score", "iqm", "change", "gain")]
        p = row["p_adjusted"]
        said = NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
        rows.append([f"{rank}. {row['method']}", *numbers, said, str(row["seeds"]), str(row["failed"])])
    if not any(row["failed"] for row in ranking.table.iter_rows(named=True)):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return Table(caption, head, rows)


def ranking_csv(rankings: Sequence[Ranking]) -> bytes:
    """The tables as one, with the problem in front where there are several."""
    several = len(rankings) > 1
    tables = [
        one.table.select(pl.lit(one.problem).alias("problem"), pl.all()) if several else one.table
        for one in rankings
    ]
    return as_csv(pl.concat(tables, how="diagonal"))


def as_csv(table: pl.DataFrame) -> bytes:
    """The table as CSV, all its numbers at full precision."""
    buffer = io.BytesIO()
    table.write_csv(buffer)
    return buffer.getvalue()


def as_latex(ranking: Ranking) -> str:
    r"""The table as LaTeX (booktabs): the mean, the IQM, the change from early to late tasks, the gain."""
    table = ranking.table
    head = (
        *("Method", "Seeds", f"Mean {ranking.label}", "IQM", "Late $-$ early"),
        *(f"Gain over {escape(ranking.baseline)}", "$p$ (Holm)"),
    )
    rows = [" & ".join(_cells(row)) + r" \\" for row in table.iter_rows(named=True)]
    notes = [f"Intervals: 95 per cent, over seeds. *: exploratory, fewer than {EXPLORATORY_BELOW} seeds."]
    if ranking.problem:
        notes.insert(0, f"Problem: {escape(ranking.problem)}.")
    failed = {row["method"]: row["failed"] for row in table.iter_rows(named=True) if row["failed"]}
    if failed:
        said = ", ".join(f"{escape(name)}: {count}" for name, count in failed.items())
        notes.append(f"Failed runs, which count as chance: {said}.")
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lrlllll}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    mark = r"${}^\ast$" if row["exploratory"] else ""
    p = row["p_adjusted"]
    return [
        escape(row["method"]),
        f"{row['seeds']}{mark}",
        *(interval(row, name) for name in ("score", "iqm", "change", "gain")),
        "" if p is None else "$<$0.001" if p < 0.001 else f"{p:.3f}",
    ]


def interval(row: dict[str, Any], name: str, between: str = ", ") -> str:
    """A number with its interval, as far as the seeds say one."""
    value, low, high = (row[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}{between}{high:.3f}]")


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_ESCAPED.get(char, char) for char in text)
