"""index.json: what a directory of results is about, and its runs in the study's order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from isoplast._core.errors import IsoplastError
from isoplast.study.store import _files


@dataclasses.dataclass(frozen=True)
class Index:
    """What index.json says.

    Args:
        name: the study.
        about: what it is for.
        runs: the names of the directories of its runs, in order.
    """

    name: str
    about: str
    runs: list[str]


def read_index(directory: Path) -> Index | None:
    """The index of a directory of results; None if it has none.

    Raises:
        IsoplastError: it is damaged.
    """
    path = directory / "index.json"
    if not path.exists():
        return None
    remedy = "delete it, and the same `isoplast study` writes it again"
    found = _files.read_mapping(path, remedy)
    try:
        index = Index(found["name"], found["about"], [run["id"] for run in found["runs"]])
    except (KeyError, TypeError):
        raise IsoplastError(f"{path} is damaged: {remedy}") from None
    right = all(isinstance(value, str) for value in (index.name, index.about, *index.runs))
    # Runs lie in this directory: a name that led elsewhere would have them read, and removed, there.
    if not right or not all(Path(name).name == name and name not in ("", "..") for name in index.runs):
        raise IsoplastError(f"{path} is damaged: {remedy}")
    return index
