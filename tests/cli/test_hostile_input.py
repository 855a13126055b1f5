"""A few hundred wrong inputs of every kind: each is refused in one line, at little cost, and nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow  # 25 s


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh interpreter made of all: case, status, output, errors, seconds, kilobytes, events."""
    folder, out = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("out") / "results.json"
    subprocess.run([sys.executable, str(HERE / "hostile_input.py"), str(folder), str(out)], check=True)
    assert not list(folder.rglob("owned")), "code of a file ran"
    found: dict[str, Any] = json.loads(out.read_text())
    assert len(found["results"]) > 600
    return found


def test_the_sound_input_works(found: dict[str, Any]) -> None:
    assert [status for _, status, *_ in found["results"][:2]] == [0, 0]


def test_one_short_line_and_status_two(found: dict[str, Any]) -> None:
    """Damage by chance may leave an input right; a run that fails has status 1.

    So has watching runs that nobody goes on with, which is no error.
    """
    for case, status, _, errors, *_ in found["results"]:
        assert status in (0, 1, 2), f"{case}: {status} {errors}"
        if status and not (status == 1 and case.startswith("watch ")):
            assert errors.count("\n") == 1, f"{case}: {errors}"
            assert len(errors) <= 401, f"{case}: {errors}"


def test_nothing_that_a_terminal_obeys_is_printed(found: dict[str, Any]) -> None:
    for case, _, output, errors, *_ in found["results"]:
        assert all(char.isprintable() or char == "\n" for char in output + errors), f"{case}: {output!r}"


def test_a_wrong_command_line_has_status_two(found: dict[str, Any]) -> None:
    for case, status, *_ in found["results"]:
        assert status == 2 or not case.startswith(("line ", "word ", "study ")), case


def test_nothing_is_executed(found: dict[str, Any]) -> None:
    assert [(case, events) for case, *_, events in found["results"] if events] == []


def test_little_memory_and_time_are_taken(found: dict[str, Any]) -> None:
    """Beyond the interpreter with torch, of all inputs together, and of the processor."""
    case, *_, kilobytes, _ = max(found["results"], key=lambda result: result[5])
    assert kilobytes - found["before"] < 1 << 20, case
    case, *_, seconds, _, _ = max(found["results"], key=lambda result: result[4])
    assert seconds < 5, case
