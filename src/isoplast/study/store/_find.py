"""Finding results: the directories of studies and runs below a folder, and the runs of a directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from isoplast._core.errors import IsoplastError
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._index import read_index


def find_results(folder: str | Path) -> list[Path]:
    """The directories of results at or below a folder, sorted: of studies, of single runs, of groups of runs.

    What lies below one of them is not searched, and neither are hidden folders and links.

    Args:
        folder: where to look.

    Raises:
        IsoplastError: there is no such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise IsoplastError(f"{folder} is no folder: name one that holds results, such as runs")
    return list(_below(path))


def holds_results(path: Path) -> bool:
    """Whether a directory is that of a study, of a run, or of runs without a study."""
    if (path / "spec.yaml").is_file() or any(path.glob("*/spec.yaml")):
        return True
    try:
        return read_index(path) is not None
    except IsoplastError:  # an index.json of somebody else
        return False


def _below(path: Path) -> Iterator[Path]:
    if holds_results(path):
        yield path
        return
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _below(Path(entry.path))


def run_directories(path: Path) -> list[RunDirectory]:
    """The runs at a path: in the study's order where there is an index, else by name.

    Raises:
        IsoplastError: there are none, or the index is damaged.
    """
    if (path / "spec.yaml").exists():
        return [RunDirectory(path)]
    index = read_index(path)
    names = index.runs if index else sorted(spec.parent.name for spec in path.glob("*/spec.yaml"))
    if not names:
        raise IsoplastError(f"{path} holds no results: give the directory of a study or of a run")
    return [RunDirectory(path / name) for name in names if (path / name / "spec.yaml").exists()]


def all_runs(path: Path) -> list[RunDirectory]:
    """Every run that lies in a directory of results, damaged ones and those of an older study too."""
    if (path / "spec.yaml").exists():
        return [RunDirectory(path)]
    names = {spec.parent.name for spec in path.glob("*/spec.yaml")}
    with contextlib.suppress(IsoplastError):  # of a damaged index the runs are found all the same
        index = read_index(path)
        names |= {name for name in (index.runs if index else ()) if _lies_in(path, name)}
    return [RunDirectory(path / name) for name in sorted(names)]


def _lies_in(path: Path, name: str) -> bool:
    """Whether a name from an index is that of a folder in this one, and leads nowhere else."""
    return Path(name).name == name and name not in (".", "..") and (path / name).is_dir()


def disk_use(path: Path) -> tuple[int, float]:
    """Bytes of all files in a directory, and when one of them last changed, in seconds since the epoch.

    Locks, which a look at a run may touch, are not counted.
    """
    count, changed = 0, 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            if name.startswith("."):
                continue
            try:
                found = os.stat(os.path.join(folder, name), follow_symlinks=False)
            except FileNotFoundError:  # a running study replaces its files
                continue
            count, changed = count + found.st_size, max(changed, found.st_mtime)
    return count, changed
