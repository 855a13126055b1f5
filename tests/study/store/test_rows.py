"""Files and locks: nothing half-written, nothing lost, nobody beside the owner."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplast._core.errors import IsoplastError
from isoplast._core.files import write_whole
from isoplast.study.store import _files
from isoplast.study.store._lock import DirectoryLock, RunLocked, is_locked

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


@pytest.mark.parametrize("line", ['{"task"', "3", "[]", '{"task": 1}', '{"task": 1, "crc": "00000000"}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    _files.append_rows(file, [{"task": 0}])
    with file.open("a") as damaged:
        damaged.write(f"{line}\n")
    _files.append_rows(file, [{"task": 2}])
    with pytest.raises(IsoplastError, match=r"metrics.jsonl line 2 is damaged, or was changed after it was"):
        _files.read_rows(file)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_row_is_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    file = tmp_path_factory.mktemp("flipped") / "metrics.jsonl"
    _files.append_rows(file, ROWS)
    contents = bytearray(file.read_bytes())
    place %= len(contents)
    contents[place] ^= 1 << bit
    file.write_bytes(bytes(contents))
    try:
        found = _files.read_rows(file)
    except IsoplastError:
        return
    assert found == ROWS[: len(found)]  # a newline that is gone makes a line a torn one: it is dropped
    assert len(found) < len(ROWS)


def test_a_row_is_forced_to_disk_after_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, original = tmp_path / "metrics.jsonl", os.fsync
    forced: list[tuple[int, int]] = []

    def spy(descriptor: int) -> None:
        forced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    size = _files.append_rows(file, ROWS)
    assert (file.stat().st_ino, size) in forced


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
    write_whole(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_two_processes_that_replace_the_same_file_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, original = tmp_path / "spec.yaml", os.fsync

    def meanwhile(descriptor: int) -> None:  # another process writes the file while this one is at it
        monkeypatch.setattr(os, "fsync", original)
        write_whole(file, b"theirs")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(file, b"ours")
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
    assert not is_locked(tmp_path)
    with DirectoryLock(tmp_path):
        assert is_locked(tmp_path)
        with (
            pytest.raises(RunLocked, match="in use by another isoplast process"),
            DirectoryLock(tmp_path),
        ):
            pytest.fail("two owners")
    assert not is_locked(tmp_path)


HOLD = (
    "import pathlib, sys, time; from isoplast.study.store._lock import DirectoryLock\n"
    "with DirectoryLock(pathlib.Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
)


def test_a_lock_ends_with_a_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    assert is_locked(tmp_path)
    with pytest.raises(RunLocked), DirectoryLock(tmp_path):
        pytest.fail("two owners")
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with DirectoryLock(tmp_path):
        pass


def test_somebody_who_waits_gets_the_lock_of_a_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    killer = threading.Timer(0.3, owner.kill)
    killer.start()
    with DirectoryLock(tmp_path, patience=30):
        pass
    killer.join()
    owner.wait()
    owner.stdout.close()


def test_readers_do_not_take_each_other_for_the_owner(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path):
        pass
    found: list[bool] = []
    readers = [threading.Thread(target=lambda: found.append(is_locked(tmp_path))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found == [False] * 8


def test_an_owner_knows_when_its_directory_was_taken_away(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    with DirectoryLock(place) as lock:
        lock.check()
        shutil.rmtree(place)
        with pytest.raises(RunLocked, match="was deleted or replaced while this process was working in it"):
            lock.check()
        place.mkdir()
        with DirectoryLock(place) as other:  # made again by somebody else, who owns what is there now
            other.check()
            with pytest.raises(RunLocked, match="deleted or replaced"):
                lock.check()
        with pytest.raises(RunLocked, match="deleted or replaced"):
            lock.check()
