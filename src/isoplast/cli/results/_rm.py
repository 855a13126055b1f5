"""`isoplast rm`: removing a study, or some of its runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from isoplast._core.amounts import size
from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import escaped
from isoplast.cli._arguments import Directory, Flag
from isoplast.cli.results._show import results_directory
from isoplast.study import RunDirectory, all_runs, disk_use, remove_runs, run_directories

_Method = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]


def rm(directory: Directory, /, *, failed: Flag = False, method: _Method = None, yes: Flag = False) -> int:
    """Remove a study, a run, or some runs of a study; asks before.

    Removed runs are done again when their study is started again.

    Files that isoplast did not write stay.

    Args:
        directory: Directory of the results.
        failed: Only the runs that failed.
        method: Only the runs of this method: its label, or its name.
        yes: Do not ask.
    """
    directory = results_directory(directory)
    whole = not failed and method is None
    runs = all_runs(directory) if whole else _chosen(directory, failed, method)
    if not runs and not whole:
        print(escaped(f"no such runs in {directory}"))
        return 0
    used = sum(disk_use(path)[0] for path in ([directory] if whole else [run.path for run in runs]))
    count = f"{len(runs)} run{'s' * (len(runs) != 1)}"
    what = f"{count} of {directory}"
    if whole:
        what = str(directory) if [run.path for run in runs] == [directory] else f"{directory} with {count}"
    if not yes and not _agreed(f"remove {what}, {size(used)}?"):
        print("nothing is removed")
        return 0
    left = remove_runs(directory, runs, whole=whole)
    print(escaped(f"removed {what}, {size(used)}"))
    if left:
        names = ", ".join(path.name for path in left)
        print(escaped(f"{directory} stays, for files that isoplast did not write: {names}"))
    return 0


def _chosen(directory: Path, failed: bool, method: str | None) -> list[RunDirectory]:
    runs = [(run, run.read_settings()) for run in run_directories(directory)]
    if method is not None:
        names = {run.path: {str(spec.get("label", "")), str(spec["method"]["name"])} for run, spec in runs}
        known = set().union(*names.values())
        if method not in known:
            raise unknown("method", method, known)
        runs = [(run, spec) for run, spec in runs if method in names[run.path]]
    return [run for run, _ in runs if not failed or run.status().state == "failed"]


def _agreed(question: str) -> bool:
    """Whether somebody at the terminal says yes."""
    if not sys.stdin.isatty():
        raise IsoplastError(f"{question} Nobody can be asked here: give --yes")
    return input(escaped(f"{question} [y/N] ")).strip().lower() in ("y", "yes")
