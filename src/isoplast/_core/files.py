"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: Path, contents: bytes) -> None:
    """Replace a file's contents at once: written aside, forced to disk, renamed.

    The file aside has a name of its own: two processes that replace the same file do not meet.

    Raises:
        OSError: the disk is full or the file cannot be written; the old file stays, nothing is left aside.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """Force a directory's entries to disk: until then a rename may be lost with the power."""
    if os.name == "nt":  # Windows opens no directory; its renames go through the journal of the file system
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
