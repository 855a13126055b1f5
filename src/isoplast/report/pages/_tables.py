"""The table of methods for papers and spreadsheets: ranked, with intervals and paired comparisons."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from isoplast._core.amounts import duration
from isoplast._core.errors import IsoplastError
from isoplast.report.data._method_runs import MethodRuns
from isoplast.report.html._document import NONE, Table
from isoplast.statistics import EXPLORATORY_BELOW
from isoplast.study import Ranking, load_runs, rank_methods

_ESCAPED = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"},
    **{"λ": r"$\lambda$", "→": r"$\rightarrow$", "±": r"$\pm$"},
}


def ranked(study_dir: Path, frame: pl.DataFrame, results: Sequence[MethodRuns]) -> dict[str, Ranking]:
    """The methods on each problem that was begun, compared with the first that the study names there.

    Args:
        study_dir: of the study.
        frame: its `load_study`.
        results: the same by method, of which the labels are taken.

    Returns:
        By the problem in words, "" where there is only one.

    Raises:
        IsoplastError: a problem cannot be ranked.
    """
    labels = {run: one.label for one in results for run in one.runs}

    def named(table: pl.DataFrame) -> pl.DataFrame:
        own = [labels.get(run, label) for run, label in table.select("run_id", "label").iter_rows()]
        return table.with_columns(label=pl.Series(own, dtype=pl.String))

    every = rank_methods(study_dir, named(frame), named(load_runs(study_dir)), compare=True)
    found = {one.problem if len(every) > 1 else "": one for one in every if one.label}
    for one in found.values():
        if one.table is None:
            raise IsoplastError(one.reason)
    return found


def _rows(ranking: Ranking) -> list[dict[str, Any]]:
    assert ranking.table is not None
    return ranking.table.rows(named=True)


def ranking_table(problem: str, ranking: Ranking) -> Table:
    """The table for the page."""
    words = [
        *filter(None, (problem, ranking.lead)),
        f"Mean {ranking.label} over all tasks, its interquartile mean, and the change from the first to the "
        f"last tenth of them; gain over {ranking.baseline}, paired by seed, p after Holm. Intervals: 95 %, "
        "over seeds; failed runs count as chance. Cost: mean wall time of a run",
        *filter(None, (ranking.data,)),
    ]
    caption = f"{'. '.join(words)}."
    if any(row["exploratory"] for row in _rows(ranking)):
        caption += f" Exploratory: fewer than {EXPLORATORY_BELOW} seeds or pairs."
    head: tuple[str, ...] = ("Method", "Mean", "IQM", "Late − early", "Gain", "p", "Cost", "Seeds", "Failed")
    rows = []
    for rank, row in enumerate(_rows(ranking), 1):
        numbers = [interval(row, name, ",\u00a0") or NONE for name in ("score", "iqm", "change", "gain")]
        p = row["p_adjusted"]
        said = NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
        cost = NONE if row["seconds"] is None else duration(row["seconds"])
        counts = (str(row["seeds"]), str(row["failed"]))
        rows.append([f"{rank}. {row['method']}", *numbers, said, cost, *counts])
    if not any(row["failed"] for row in _rows(ranking)):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return Table(caption, head, rows)


def ranking_csv(rankings: Mapping[str, Ranking]) -> bytes:
    """The tables as one, with the problem in front where there are several."""
    tables = []
    for problem, one in rankings.items():
        assert one.table is not None
        front = [pl.lit(problem).alias("problem")] if problem else []
        tables.append(one.table.select(*front, pl.all(), pl.lit(one.data).alias("data")))
    return as_csv(pl.concat(tables, how="diagonal"))


def as_csv(table: pl.DataFrame) -> bytes:
    """The table as CSV, all its numbers at full precision."""
    buffer = io.BytesIO()
    table.write_csv(buffer)
    return buffer.getvalue()


def as_latex(problem: str, ranking: Ranking) -> str:
    r"""The table as LaTeX (booktabs): the mean, the IQM, the change from early to late tasks, the gain."""
    head = (
        *("Method", "Seeds", f"Mean {escape(ranking.label)}", "IQM", "Late $-$ early"),
        *(f"Gain over {escape(ranking.baseline)}", "$p$ (Holm)"),
    )
    rows = [" & ".join(_cells(row)) + r" \\" for row in _rows(ranking)]
    few = f"*: exploratory, fewer than {EXPLORATORY_BELOW} seeds or pairs."
    notes = [f"Intervals: 95 per cent, over seeds. {few}"]
    notes = [f"{escape(said)}." for said in (problem, ranking.data) if said] + notes
    failed = {row["method"]: row["failed"] for row in _rows(ranking) if row["failed"]}
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
        *(rf"\multicolumn{{{len(head)}}}{{l}}{{\footnotesize {note}}} \\" for note in notes),
        r"\end{tabular}",
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
    """Text in one line as LaTeX prints it, also after a line break, which takes `[` and `*` for its own."""
    return "".join(_ESCAPED.get(char, char) for char in " ".join(text.split()))
