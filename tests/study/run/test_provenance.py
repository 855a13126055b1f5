"""Where a result comes from is found out without touching anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from isoplast.study.run._provenance import git_state, is_provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not there")


def git(folder: Path, *words: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    (tmp_path / "__init__.py").write_text("")
    git(tmp_path, "add", "__init__.py")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_state_of_a_checkout(checkout: Path) -> None:
    clean = git_state(checkout)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["changed"] is False
    (checkout / "__init__.py").write_text("1")
    assert git_state(checkout) == {**clean, "changed": True}


def test_the_index_is_not_written(checkout: Path) -> None:
    """`git status` refreshes it, under a lock that keeps others from committing."""
    os.utime(checkout / "__init__.py", (1, 1))  # the index is out of date about this
    index = checkout / ".git" / "index"
    before = index.stat()
    assert git_state(checkout) is not None
    after = index.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    index.with_name("index.lock").touch()  # somebody is committing
    assert git_state(checkout) is not None


def test_outside_of_a_checkout_there_is_none(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert git_state(tmp_path_factory.mktemp("elsewhere")) is None
    (checkout / "package").mkdir()
    (checkout / "package" / "__init__.py").touch()  # installed inside of somebody's checkout
    assert git_state(checkout / "package") is None


def test_an_origin_without_a_checkout_is_one() -> None:
    assert is_provenance({})
    assert is_provenance({"versions": {}, "threads": 1, "git": None, "data": {"note": "", "fingerprint": ""}})
    assert not is_provenance({"versions": {}, "threads": True, "data": {"note": "", "fingerprint": ""}})
