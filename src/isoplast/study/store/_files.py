"""Files that are whole or absent whatever happens, and locks that end with their owner."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole as write_whole


class RunLocked(IsoplastError):
    """A directory that another process is working in."""


def drop_aside(path: Path) -> None:
    """Remove what killed processes left aside of a file; only for who alone may write it."""
    for aside in path.parent.glob(f"{path.name}*.tmp"):
        aside.unlink(missing_ok=True)


def read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        IsoplastError: it holds something else; ends with the remedy.
    """
    try:
        contents = json.loads(path.read_bytes())
    except ValueError:
        contents = None
    if not isinstance(contents, dict):
        raise IsoplastError(f"{path} is damaged: {remedy}")
    return contents


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append one line of JSON per row and force them to disk.

    Returns:
        The size of the file in bytes.
    """
    lines = "".join(json.dumps(strict_json(row), allow_nan=False) + "\n" for row in rows)
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `append_rows` wrote; a torn last line is dropped, a missing file is empty.

    Raises:
        IsoplastError: a line other than the last is damaged.
    """
    remedy = "delete its directory and run again"
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")  # a whole line ends in a newline: what follows is torn
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise IsoplastError(f"{path} line {number} is damaged: {remedy}")
        rows.append(row)
    return rows


def truncate(path: Path, size: int) -> None:
    """Cut a file to the size that is known to be complete.

    Raises:
        IsoplastError: it is shorter than that, so something else has changed it.
    """
    with path.open("ab") as file:
        if file.tell() < size:
            raise IsoplastError(
                f"{path} has {file.tell()} bytes but its checkpoint knows {size}: "
                "delete its directory and run again"
            )
        file.truncate(size)
        os.fsync(file.fileno())


def strict_json(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they become the words "inf", "-inf", "nan", which float() reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return value


@contextmanager
def locked(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Own a directory while the block runs. The lock ends with the process, however that ends.

    Args:
        directory: what to own; it must exist.
        patience: how many seconds to wait for another owner to leave.

    Raises:
        RunLocked: another process owns it.
    """
    deadline = time.monotonic() + patience
    with (directory / ".lock").open("ab") as file:
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise RunLocked(f"{directory} is in use by another isoplast process: wait for it or stop it")
            time.sleep(0.05)
        yield


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(directory: Path) -> bool:
    """Whether some process owns the directory right now."""
    lock = directory / ".lock"
    if not lock.exists():
        return False
    # A shared lock: two readers do not take each other for the owner.
    with lock.open("rb") as file:
        return not _try_lock(file, fcntl.LOCK_SH)
