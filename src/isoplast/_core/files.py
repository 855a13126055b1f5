"""Files that are written whole or not at all, and JSON that is read strictly."""

from __future__ import annotations

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

from isoplast._core.errors import IsoplastError
from isoplast._core.text import one_line

_LARGEST_JSON = 64 << 20


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


def read_json(path: Path) -> Any:
    """The contents of a file of strict JSON.

    Raises:
        IsoplastError: it cannot be read, is larger than 64 MB, is not JSON, nests too deep, or holds a number
            that is not finite (NaN, 1e400); one line.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise IsoplastError(f"{path} is damaged: {size:,} bytes are too many")
        return json.loads(path.read_bytes(), parse_constant=_refused, parse_float=_finite)
    except OSError as error:
        raise IsoplastError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise IsoplastError(f"{path} is damaged: its values nest too deep") from None
    except IsoplastError:
        raise
    except ValueError as error:  # no JSON, no UTF-8, a whole number of more than 4300 digits
        raise IsoplastError(f"{path} is damaged: {error}") from None


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{one_line(text, 40)} is no finite number")
    return number
