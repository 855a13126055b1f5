"""A few hundred damaged and hostile files: each is opened, or refused in one line, at little cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile_files
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What a fresh interpreter made of all files: name, function, message, seconds, kilobytes, events."""
    folder, out = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("out") / "results.json"
    for name, content in (*hostile_files.crafted(), *hostile_files.damaged(40)):
        (folder / name).write_bytes(content)
    before = {path.name for path in folder.iterdir()}
    words = [sys.executable, str(HERE / "hostile_files.py"), str(folder), str(out)]
    subprocess.run(words, check=True)
    assert {path.name for path in folder.iterdir()} == before, "a file was written: code ran"
    found: list[list[Any]] = json.loads(out.read_text())
    assert {name for name, *_ in found} == before
    assert len(found) > 900
    return found


def test_no_traceback_and_one_short_line_that_a_terminal_can_show(results: list[list[Any]]) -> None:
    for name, read, message, *_ in results:
        assert message is None or not message.startswith("a traceback"), f"{read} {name}: {message}"
        assert message is None or (message.isprintable() and len(message) <= 400), (
            f"{read} {name}: {message!r}"
        )


def test_nothing_is_executed(results: list[list[Any]]) -> None:
    assert {event for result in results for event in result[5]} == set()


def test_little_memory_is_taken(results: list[list[Any]]) -> None:
    """Of all files together, as the most that was taken at any time."""
    name, read, _, _, kilobytes, _ = max(results, key=lambda result: result[4])
    assert kilobytes < 1 << 20, f"{read} {name}"


def test_little_time_is_taken(results: list[list[Any]]) -> None:
    """Of the processor: at most 1.2 s are measured; those that grow exponentially would take years."""
    name, read, _, seconds, *_ = max(results, key=lambda result: result[3])
    assert seconds < 5, f"{read} {name}"


def test_sound_files_are_opened(results: list[list[Any]]) -> None:
    opened = {name for name, read, message, *_ in results if read == "read_checkpoint" and message is None}
    assert {"zip sound.pt", "old sound.pt", "zip device.pt", "zip attributes.pt"} <= opened
    # A damaged file may open where the bytes that changed mean nothing, or another sound value.
    hostile = {
        name for name in opened if name.startswith(("zip code", "old code", "zip storage", "zip tower"))
    }
    assert hostile == {"zip towers in values.pt"}  # where nobody hashes or prints them
