"""Strict JSON from files that may hold anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoplast._core.errors import IsoplastError
from isoplast._core.files import read_json, write_whole


def test_reads_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, '{"a": [1, 2.5e-3, null, true, "é"]}'.encode())
    assert read_json(path) == {"a": [1, 0.0025, None, True, "é"]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"[1e400]",
        b"[-1e999]",
        b"[NaN]",
        b"[Infinity]",
        b"[" + b"9" * 5000 + b"]",
        b'"\xff\xfe"',
        b'{"a": 1}\0',
        b'["\x1b[2J"]',
        b"1" + b"0" * 400 + b".5",
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(IsoplastError, match=r"a\.json is damaged: ") as error:
        read_json(path)
    assert str(error.value).isprintable()


def test_what_cannot_be_read_and_what_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(IsoplastError, match="cannot be read: No such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(IsoplastError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    with (tmp_path / "b.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(IsoplastError, match="are too many"):
        read_json(tmp_path / "b.json")
