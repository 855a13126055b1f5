"""The report of a study: one self-contained HTML page, and static figures for documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast.report.data._headline import headline
from isoplast.report.data._method_runs import MethodRuns, fine_print, method_runs
from isoplast.report.data._numbers import Scores, scores
from isoplast.report.data._source import read_source
from isoplast.report.figures._charts import score_chart, sweep_chart, sweeps
from isoplast.report.figures._paper import (
    FORMATS,
    instruments_figure,
    paper_figures,
    score_figure,
    written,
)
from isoplast.report.figures._spectra import histograms
from isoplast.report.pages._inspection import inspection_page
from isoplast.report.pages._spectra import readings, spectra_page
from isoplast.report.pages._study import render
from isoplast.report.pages._tables import as_csv, as_latex, ranked, ranking_csv
from isoplast.study import Ranking, load_runs, load_study

__all__ = [
    "MethodRuns",
    "Scores",
    "fine_print",
    "headline",
    "histograms",
    "inspection_page",
    "instruments_chart",
    "method_runs",
    "readings",
    "score_chart",
    "scores",
    "spectra_page",
    "sweep_chart",
    "write_figures",
    "write_report",
]


_PAGES = (".html", ".htm")
_TABLES = (".csv", ".tex")
_KINDS = (*_PAGES, *(f".{kind}" for kind in FORMATS), *_TABLES)
_FILES = {*_KINDS, *(".jpg", ".jpeg", ".gif", ".eps", ".ps", ".txt", ".md", ".json", ".xlsx", ".zip")}


def write_report(study_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a study as one HTML file that needs nothing else, not even a network.

    The file is written aside and renamed: a reader sees the old one or the new one, never half of one.

    Args:
        study_dir: the directory that a study, or a single run, wrote.
        out: where the page goes; `study_dir/report.html` by default. A name that ends in .svg, .pdf or .png
            gets the main figure alone: the score per task, or as .svg against λ if the study sweeps it. One
            that ends in .csv or .tex gets the ranked table of methods.

    Returns:
        The path of what was written.

    Raises:
        IsoplastError: there is no study in the directory, none of its tasks is finished, or the name ends in
            something else.

    Example:
        >>> write_report(Path("runs/demo"))
        PosixPath('runs/demo/report.html')
    """
    target = out if out is not None else study_dir / "report.html"
    if target.suffix.lower() not in _KINDS:
        raise IsoplastError(f"a report is written as {', '.join(_KINDS)}, not as {target.name!r}: choose one")
    frame = load_study(study_dir)
    found = method_runs(frame, load_runs(study_dir))
    write_whole(_with_folder(target), _contents(target.suffix.lower(), study_dir, frame, found))
    return target


def write_figures(study_dir: Path, out: Path) -> list[Path]:
    """Write every figure of a study as .svg and .pdf, its tables as .csv and .tex, into a folder.

    `score`, `profile`, `sensitivity`, one figure for each instrument and `instruments` with all of them;
    `methods`: the ranked table, with intervals and comparisons paired by seed; `scores.csv`: a row for each
    run and task.

    Args:
        study_dir: the directory that a study, or a single run, wrote.
        out: the folder, made if need be.

    Returns:
        The paths of the files, in the order in which they were written.

    Raises:
        IsoplastError: there is no study in the directory, none of its tasks is finished, or the name is that
            of a file, such as figures.pdf.

    Example:
        >>> write_figures(Path("runs/demo"), Path("figures"))[0]
        PosixPath('figures/score.svg')
    """
    if out.suffix.lower() in _FILES:
        raise IsoplastError(f"{out.name!r} names a file: name a folder for the figures, or one file by --out")
    if out.exists() and not out.is_dir():
        raise IsoplastError(f"{out} is a file: name a folder for the figures")
    frame = load_study(study_dir)
    found = method_runs(frame, load_runs(study_dir))
    files: list[tuple[Path, bytes]] = []
    for name, figure in paper_figures(found):
        files += [(out / f"{name}.{kind}", written(figure, kind)) for kind in ("svg", "pdf")]
    tables = ranked(study_dir, frame, found)
    files += [(out / f"methods{kind}", _table(kind, tables)) for kind in _TABLES]
    files.append((out / "scores.csv", as_csv(load_study(study_dir, flat=True))))
    for path, contents in files:
        write_whole(_with_folder(path), contents)
    return [path for path, _ in files]


def instruments_chart(results: Sequence[MethodRuns]) -> str:
    """Every instrument that was read after each task, a panel each, as SVG text.

    Args:
        results: the methods of a study.

    Raises:
        IsoplastError: no instrument was read.

    Example:
        >>> Path("instruments.svg").write_text(instruments_chart(method_runs(load_study("runs/demo"))))
    """
    return written(instruments_figure(results), "svg").decode()


def _contents(kind: str, study_dir: Path, frame: pl.DataFrame, found: list[MethodRuns]) -> bytes:
    """What a file of that ending holds."""
    if kind == ".svg":
        return _figure(found).encode()
    if kind not in _PAGES + _TABLES:
        return written(score_figure(found), kind.removeprefix("."))
    tables = ranked(study_dir, frame, found)
    if kind in _TABLES:
        return _table(kind, tables)
    return render(read_source(study_dir), found, tables).encode()


def _table(kind: str, tables: Mapping[str, Ranking]) -> bytes:
    if kind == ".csv":
        return ranking_csv(tables)
    return "\n".join(as_latex(problem, one) for problem, one in tables.items()).encode()


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _figure(found: list[MethodRuns]) -> str:
    return sweep_chart(found) if sweeps(found) else score_chart(found)
