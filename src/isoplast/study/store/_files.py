"""Rows of metrics: appended one by one, each with a checksum, and read back."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isoplast._core.errors import IsoplastError

_SUM = re.compile(rb', "crc": "([0-9a-f]{8})"\}$')


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
    except (ValueError, RecursionError):
        contents = None
    if not isinstance(contents, dict):
        raise IsoplastError(f"{path} is damaged: {remedy}")
    return contents


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append one line of JSON with a checksum per row, and force them to disk.

    Returns:
        The size of the file in bytes.
    """
    lines = b"".join(map(_line, rows))
    with path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(strict_json(row), allow_nan=False).encode()
    return text[:-1] + f', "crc": "{zlib.crc32(text):08x}"}}\n'.encode()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `append_rows` wrote; a torn last line is dropped, a missing file is empty.

    Raises:
        IsoplastError: a line other than the last is damaged, or was changed after it was written.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")  # a whole line ends in a newline: what follows is torn
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]


def read_new_rows(path: Path, offset: int, count: int) -> tuple[list[dict[str, Any]], int]:
    """The rows that a file has got since it was read, and the next offset.

    Args:
        path: the file.
        offset: up to where it was read, in bytes.
        count: how many rows that were.

    Raises:
        IsoplastError: a line is damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        whole, newline, _torn = file.read().rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    rows = [_row(path, number, line) for number, line in enumerate(lines, count + 1)]
    return rows, offset + len(whole) + len(newline)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    written = _SUM.search(line)
    text = line[: written.start()] + b"}" if written else b""
    if written is None or int(written[1], 16) != zlib.crc32(text):
        raise IsoplastError(
            f"{path} line {number} is damaged, or was changed after it was written: delete its directory and "
            "run again"
        )
    found: dict[str, Any] = json.loads(text)
    return found


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
