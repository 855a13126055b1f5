"""The report of a study: one self-contained HTML page, and static figures for documents."""

from __future__ import annotations

from pathlib import Path

from isoplast._core.files import write_whole
from isoplast.report.data._headline import headline
from isoplast.report.data._isometry import isometry
from isoplast.report.data._method_runs import MethodRuns, method_runs
from isoplast.report.data._numbers import Scores, scores
from isoplast.report.data._source import read_source
from isoplast.report.figures._charts import score_chart, sweep_chart
from isoplast.report.figures._spectra import histograms
from isoplast.report.pages._inspection import inspection_page
from isoplast.report.pages._spectra import readings, spectra_page
from isoplast.report.pages._study import render
from isoplast.study import load_study

__all__ = [
    "MethodRuns",
    "Scores",
    "headline",
    "histograms",
    "inspection_page",
    "method_runs",
    "readings",
    "score_chart",
    "scores",
    "spectra_page",
    "sweep_chart",
    "write_report",
]


def write_report(study_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a study as one HTML file that needs nothing else, not even a network.

    The file is written aside and renamed: a reader sees the old page or the new one, never half of one.

    Args:
        study_dir: the directory that a study, or a single run, wrote.
        out: where the page goes; `study_dir/report.html` by default. A name that ends in .svg gets the
            main figure alone, for documents: accuracy per task, or against λ if the study sweeps it.

    Returns:
        The path of the page.

    Raises:
        IsoplastError: there is no study in the directory, or none of its tasks is finished.

    Example:
        >>> write_report(Path("runs/demo"))
        PosixPath('runs/demo/report.html')
    """
    found = method_runs(load_study(study_dir))
    target = out if out is not None else study_dir / "report.html"
    text = _figure(found) if target.suffix == ".svg" else render(read_source(study_dir), found)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, text.encode())
    return target


def _figure(found: list[MethodRuns]) -> str:
    swept = {one.strength for one in map(isometry, found) if one is not None}
    return sweep_chart(found) if len(swept) > 1 else score_chart(found)
