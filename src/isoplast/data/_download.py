"""Downloading a file of a data set, once, verified, and without leftovers."""

from __future__ import annotations

import http.client
import os
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

import filelock

from isoplast._core.errors import IsoplastError
from isoplast.data._files import DATA_VARIABLE

REFUSED = (
    f"nothing of it was kept; try again later, or put the file into the folder that {DATA_VARIABLE} names"
)
"""What to do when a download is not what was asked for."""

_OFFLINE: ContextVar[bool] = ContextVar("_OFFLINE", default=False)

_BLOCK = 1 << 20  # bytes per read of a download: 1 MiB, about 170 progress steps for CIFAR-10
_TIMEOUT = 60.0  # seconds without a byte before a download is given up


class NotHere(IsoplastError):
    """Data that would have to be downloaded, where nothing may be."""


@contextmanager
def offline() -> Iterator[None]:
    """Let nothing be downloaded while the block runs.

    Raises:
        NotHere: in the block, from whatever needs a file that is not on this machine.
    """
    before = _OFFLINE.set(True)
    try:
        yield
    finally:
        _OFFLINE.reset(before)


def download(url: str, target: Path, limit: int, verify: Callable[[bytes], object]) -> bytes:
    """Fetches a file to `target`, so that `target` only ever exists complete and verified.

    It is written aside and renamed. Of several processes that want it one fetches it and the others wait;
    what killed ones left aside is removed.

    Args:
        url: the official address.
        target: where the file will lie.
        limit: bytes; a longer answer is refused.
        verify: raises IsoplastError when the bytes are not the expected ones.

    Returns:
        The verified bytes.

    Raises:
        NotHere: in a block of `offline`.
        IsoplastError: the download failed, or `verify` refused it.
    """
    if _OFFLINE.get():
        raise NotHere(f"{target.name} is not on this machine: it would be downloaded from {url}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if os.path.lexists(target):  # another process has just fetched it
                data = target.read_bytes()
                verify(data)
                return data
            for left in target.parent.glob(f".{target.name}.*.part"):
                left.unlink()
            return _fetch_aside(url, target, limit, verify)
    except (OSError, http.client.HTTPException) as error:
        raise IsoplastError(
            f"cannot download {url} to {target} ({error}); "
            f"fetch it by hand and put it there, or into the folder that {DATA_VARIABLE} names"
        ) from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Only for one process at a time; the system lets go of the lock however that process ends."""
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _say(f"isoplast: another process is downloading {target}, waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_aside(url: str, target: Path, limit: int, verify: Callable[[bytes], object]) -> bytes:
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as out:
            data = _fetch(url, target, limit, out)
        verify(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return data


def _fetch(url: str, target: Path, limit: int, out: BinaryIO) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "isoplast"})
    _say(f"isoplast: downloading {url} to {target}")
    blocks: list[bytes] = []
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while block := response.read(_BLOCK):
            out.write(block)
            blocks.append(block)
            done += len(block)
            if done > limit:
                raise IsoplastError(f"{url}: longer than {limit:,} bytes; {REFUSED}")
            _show(done, total)
    return b"".join(blocks)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _show(done: int, total: int) -> None:
    # A log file gets the line above only; a terminal sees one line that counts up.
    if sys.stderr.isatty():
        size = f" of {total / 1e6:.1f}" if total else ""
        end = "\n" if done == total else ""
        print(f"\r  {done / 1e6:.1f}{size} MB", end=end, file=sys.stderr, flush=True)
