"""Removing runs, and what a study wrote beside them; never a file of somebody else."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from isoplast._core.errors import IsoplastError
from isoplast.study.store import _files
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._find import holds_results
from isoplast.study.store._lock import LOCK, OWNER, DirectoryLock, RunLocked, is_locked

_OF_A_STUDY = ("index.json", "study.yaml", "report.html")


def remove_runs(path: Path, runs: Sequence[RunDirectory], *, whole: bool = False) -> list[Path]:
    """Remove runs of a study, or the whole study.

    The study keeps its index, so that the same `isoplast study` does the removed runs again.

    Args:
        path: the directory of a study, of runs without one, or of the single run in `runs`.
        runs: which.
        whole: whether the study's own files go too, and its directory, if nothing else is left in it.

    Returns:
        What was left of a directory that was to go whole: files that isoplast did not write.

    Raises:
        IsoplastError: there are no results at that path, or it is a link.
        RunLocked: a process is working in it, or in one of the runs; nothing has been removed then.
    """
    for folder in (path, *(run.path for run in runs)):
        if folder.is_symlink():
            raise IsoplastError(f"{folder} is a link: remove what it leads to, or the link itself")
    if not holds_results(path):
        raise IsoplastError(f"{path} is no study and no run: nothing of it is removed")
    with contextlib.ExitStack() as locks:
        if path not in [run.path for run in runs]:
            locks.enter_context(DirectoryLock(path))
        for run in runs:
            if is_locked(run.path):
                raise RunLocked(f"{run.path} is in use by another isoplast process: wait for it or stop it")
        for run in runs:
            shutil.rmtree(run.path)
        if whole:
            for name in _OF_A_STUDY:
                _files.drop_aside(path / name)
                (path / name).unlink(missing_ok=True)
    left = [path] if path.exists() else []
    if whole and left:
        for name in (LOCK, OWNER):
            (path / name).unlink(missing_ok=True)
        left = sorted(path.iterdir())
        if not left:
            path.rmdir()
    return left if whole else []
