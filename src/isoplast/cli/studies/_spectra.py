"""`isoplast spectra`: every method measured, and the page that says what it holds."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from isoplast._core.files import write_whole
from isoplast.report import histograms, readings, spectra_page
from isoplast.study import load_runs, load_study

PAGE = "methods-through-isometry.md"


def write_spectra(directory: Path, out: Path | None = None) -> Path:
    """Write the page of a finished spectra study and its figure beside it.

    Args:
        directory: the results of the study.
        out: the page; by default `methods-through-isometry.md` in that directory. The figure has its name
            with .svg.

    Returns:
        The path of the page.

    Raises:
        IsoplastError: there are no results.
    """
    target = directory / PAGE if out is None else out
    figure = target.with_suffix(".svg")
    frame = load_study(directory)
    found = readings(frame)
    seconds = float(load_runs(directory)["seconds"].sum())
    first = frame.row(0, named=True)
    rates = frame.filter(pl.col("lr") != first["lr"]).select("method", "lr").unique(maintain_order=True)
    others = "".join(f", {name} {lr:g}" for name, lr in rates.iter_rows())
    scope = (
        f"Random labels on {first['data']} ({first['samples']} images), {first['tasks']} tasks of "
        f"{first['epochs']} epochs, batch {first['batch_size']}, lr {first['lr']:g}{others}, {first['net']} "
        f"with {first['depth']} hidden layers of {first['width']} units, orthogonal at initialisation; every "
        f"method at its defaults; {max(reading.seeds for reading in found)} seeds. All runs "
        f"together took {seconds / 60:.0f} minutes of one core."
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(figure, histograms(found).encode())
    write_whole(target, spectra_page(found, figure, "isoplast spectra", scope).encode())
    return target
