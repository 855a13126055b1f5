"""Finding, verifying and downloading the files of a data set.

A file is used only when its hash is known: whatever is parsed has been verified first, on the very bytes
that are parsed. Nothing here falls back silently from a damaged file to another one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from isoplast._core.errors import IsoplastError

DATA_VARIABLE = "ISOPLAST_DATA"
CACHE_VARIABLE = "ISOPLAST_CACHE"

# The remedy when a download is not what was asked for.
REFUSED = (
    f"nothing of it was kept; try again later, or put the file into the folder that {DATA_VARIABLE} names"
)

_BLOCK = 1 << 20  # bytes per read of a download: 1 MiB, about 170 progress steps for CIFAR-10
_TIMEOUT = 60.0  # seconds without a byte before a download is given up


@dataclass(frozen=True)
class KnownFile:
    """A file whose content is known.

    Args:
        name: the official file name.
        size: its length in bytes.
        digest: "sha256:..." where the project computed it, "md5:..." where that is what was published.
    """

    name: str
    size: int
    digest: str

    def matches(self, data: bytes) -> bool:
        """Whether `data` is this file, to the bit."""
        return digest(data, self.digest.partition(":")[0]) == self.digest


def digest(data: bytes, algorithm: str) -> str:
    """The hash of `data` as "algorithm:hex"."""
    return f"{algorithm}:{hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()}"


def identify(data: bytes, candidates: Sequence[KnownFile], where: str, remedy: str) -> KnownFile:
    """Which of the known files `data` is.

    Args:
        data: the whole file.
        candidates: at least one known file.
        where: the file as the message names it.
        remedy: what to do about a damaged file.

    Raises:
        IsoplastError: it is none of them; says whether it is too short.
    """
    for known in candidates:
        if known.matches(data):
            return known
    size = min(known.size for known in candidates)
    if len(data) < size:
        raise IsoplastError(f"{where}: truncated, {len(data):,} of {size:,} bytes; {remedy}")
    found = digest(data, candidates[0].digest.partition(":")[0])
    expected = " or ".join(known.digest for known in candidates)
    raise IsoplastError(f"{where}: wrong hash {found}, expected {expected}; {remedy}")


def read_bytes(path: Path, remedy: str) -> bytes:
    """The whole file.

    Raises:
        IsoplastError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise IsoplastError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def cache_folder() -> Path:
    """Where downloads are kept: `ISOPLAST_CACHE`, else ~/.cache/isoplast."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "isoplast"


def places(root: Path | None) -> list[Path]:
    """The folders to search, in order: `root`, `ISOPLAST_DATA`, the cache.

    Raises:
        IsoplastError: `root` or `ISOPLAST_DATA` names a folder that does not exist.
    """
    named = os.environ.get(DATA_VARIABLE)
    chosen = [("root", root)] if root is not None else []
    if named:
        chosen.append((DATA_VARIABLE, Path(named).expanduser()))
    for origin, folder in chosen:
        if not folder.is_dir():
            raise IsoplastError(f"{origin} names {folder}, which is no folder; correct it or leave it out")
    return [folder for _, folder in chosen] + [cache_folder()]


def first_existing(paths: Iterable[Path]) -> Path | None:
    """The first of the paths that exists."""
    return next((path for path in paths if path.exists()), None)


def download(url: str, target: Path, verify: Callable[[bytes], object]) -> bytes:
    """Fetches a file to `target`, so that `target` only ever exists complete and verified.

    The file is written aside under a name of its own and renamed at the end: several processes may fetch the
    same file at once, and an interruption leaves nothing behind.

    Args:
        url: the official address.
        target: where the file will lie.
        verify: raises IsoplastError when the bytes are not the expected ones.

    Returns:
        The verified bytes.

    Raises:
        IsoplastError: the download failed, or `verify` refused it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as out:
                data = _fetch(url, target, out)
            verify(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as error:
        raise IsoplastError(
            f"cannot download {url} to {target} ({error}); "
            f"fetch it by hand and put it there, or into the folder that {DATA_VARIABLE} names"
        ) from error
    return data


def _fetch(url: str, target: Path, out: BinaryIO) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "isoplast"})
    print(f"isoplast: downloading {url} to {target}", file=sys.stderr)
    blocks: list[bytes] = []
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while block := response.read(_BLOCK):
            out.write(block)
            blocks.append(block)
            done += len(block)
            _show(done, total)
    return b"".join(blocks)


def _show(done: int, total: int) -> None:
    # A log file gets the line above only; a terminal sees one line that counts up.
    if sys.stderr.isatty():
        size = f" of {total / 1e6:.1f}" if total else ""
        end = "\n" if done == total else ""
        print(f"\r  {done / 1e6:.1f}{size} MB", end=end, file=sys.stderr, flush=True)
