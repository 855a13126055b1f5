"""Files and locks: nothing half-written, nothing lost, nobody beside the owner."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplast._core.errors import IsoplastError
from isoplast.study.store import _files

ROWS = [{"task": 0, "accuracy": 0.5}, {"task": 1, "accuracy": 0.25, "names": ["a", "ü"]}]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert _files.read_rows(file) == []
    _files.append_rows(file, ROWS[:1])
    size = _files.append_rows(file, ROWS[1:])
    assert size == file.stat().st_size
    assert _files.read_rows(file) == ROWS


def test_numbers_that_json_does_not_know_become_words_that_float_reads(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    _files.append_rows(file, [{"condition": [math.inf, -math.inf, 1.0], "loss": math.nan}])
    row = _files.read_rows(file)[0]
    assert [float(value) for value in row["condition"]] == [math.inf, -math.inf, 1.0]
    assert math.isnan(float(row["loss"]))
    assert "NaN" not in file.read_text()


@given(cut=st.integers(0, 200))
def test_a_line_torn_anywhere_is_dropped_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    file = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    sizes = [0, *(_files.append_rows(file, [row]) for row in ROWS)]
    whole = file.read_bytes()
    file.write_bytes(whole[: min(cut, len(whole))])
    complete = sum(size <= min(cut, len(whole)) for size in sizes) - 1
    assert _files.read_rows(file) == ROWS[:complete]


@pytest.mark.parametrize("line", ['{"task"', "3", "[]"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"task": 0}}\n{line}\n{{"task": 2}}\n')
    with pytest.raises(IsoplastError, match=r"metrics.jsonl line 2 is damaged: delete its directory"):
        _files.read_rows(file)


def test_truncate_cuts_what_is_not_known_to_be_complete(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    size = _files.append_rows(file, ROWS[:1])
    _files.append_rows(file, ROWS[1:])
    _files.truncate(file, size)
    assert _files.read_rows(file) == ROWS[:1]
    with pytest.raises(IsoplastError, match="its checkpoint knows"):
        _files.truncate(file, size + 1)


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "checkpoint.pt"
    _files.write_whole(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        _files.write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_two_processes_that_replace_the_same_file_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, original = tmp_path / "spec.yaml", os.fsync

    def meanwhile(descriptor: int) -> None:  # another process writes the file while this one is at it
        monkeypatch.setattr(os, "fsync", original)
        _files.write_whole(file, b"theirs")

    monkeypatch.setattr(os, "fsync", meanwhile)
    _files.write_whole(file, b"ours")
    assert file.read_bytes() == b"ours"
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_what_a_killed_process_left_aside_is_dropped(tmp_path: Path) -> None:
    for name in ("status.json", "status.json.0a1b.tmp", "status.json.tmp", "spec.yaml.0a1b.tmp"):
        (tmp_path / name).write_text("half of")
    _files.drop_aside(tmp_path / "status.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.yaml.0a1b.tmp", "status.json"]


@pytest.mark.parametrize("contents", [b"", b'{"a": 1', b"[1]", b"\xff"])
def test_json_that_is_no_mapping_is_named_with_the_remedy(tmp_path: Path, contents: bytes) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(contents)
    with pytest.raises(IsoplastError, match=r"index.json is damaged: delete it$"):
        _files.read_mapping(file, "delete it")


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    assert not _files.is_locked(tmp_path)
    with _files.locked(tmp_path):
        assert _files.is_locked(tmp_path)
        with (
            pytest.raises(_files.RunLocked, match="in use by another isoplast process"),
            _files.locked(tmp_path),
        ):
            pytest.fail("two owners")
    assert not _files.is_locked(tmp_path)


def test_a_lock_ends_with_a_killed_owner(tmp_path: Path) -> None:
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1] + '/.lock', 'ab')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('mine', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    assert _files.is_locked(tmp_path)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with _files.locked(tmp_path):
        pass


def test_somebody_who_waits_gets_the_lock_of_a_killed_owner(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("ab") as file:
        assert _files._try_lock(file, _files.fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:  # keeps the lock alive for a moment after its parent's copy is closed
            import time

            time.sleep(0.3)
            os._exit(0)
    assert _files.is_locked(tmp_path)
    with _files.locked(tmp_path, patience=30):
        pass
    os.waitpid(child, 0)
