"""Finding and verifying the files of a data set.

A file is used only when its hash is known: whatever is parsed has been verified first, on the very bytes
that are parsed. Nothing here falls back silently from a damaged file, or a link to nowhere, to another one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoplast._core.errors import IsoplastError

DATA_VARIABLE = "ISOPLAST_DATA"
CACHE_VARIABLE = "ISOPLAST_CACHE"


@dataclass(frozen=True)
class KnownFile:
    """A file whose content is known.

    Args:
        name: its file name.
        size: its length in bytes; None where only its hash was published.
        digest: "sha256:..." where the project or a manifest says it, "md5:..." where that is what was
            published.
    """

    name: str
    size: int | None
    digest: str

    def fits(self, size: int) -> bool:
        """Whether it may have this size."""
        return self.size is None or self.size == size

    def matches(self, data: bytes) -> bool:
        """Whether `data` is this file, to the bit."""
        return self.fits(len(data)) and digest(data, self.digest.partition(":")[0]) == self.digest


def digest(data: bytes, algorithm: str) -> str:
    """The hash of `data` as "algorithm:hex"."""
    return f"{algorithm}:{hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()}"


def identify(data: bytes, candidates: Sequence[KnownFile], where: str, advice: str) -> KnownFile:
    """Which of the known files `data` is.

    Args:
        data: the whole file.
        candidates: at least one known file.
        where: the file as the message names it.
        advice: what to do about a damaged file.

    Raises:
        IsoplastError: it is none of them; says whether its length or its hash is wrong.
    """
    for known in candidates:
        if known.matches(data):
            return known
    same = [known for known in candidates if known.fits(len(data))]
    if not same:
        raise _wrong_size(len(data), candidates, where, advice)
    found = digest(data, same[0].digest.partition(":")[0])
    expected = " or ".join(_short(known.digest) for known in same)
    raise IsoplastError(f"{where}: wrong hash {_short(found)}, expected {expected}; {advice}")


def _short(digest: str) -> str:
    return f"{digest[:19]}..."


def read_known(path: Path, candidates: Sequence[KnownFile], advice: str) -> tuple[bytes, KnownFile]:
    """The bytes of a file, and which of the known ones it is. A file of another size is not even read.

    Raises:
        IsoplastError: it cannot be read, or is none of them.
    """
    size = file_size(path, advice)
    if not any(known.fits(size) for known in candidates):
        raise _wrong_size(size, candidates, str(path), advice)
    data = read_bytes(path, advice)
    return data, identify(data, candidates, str(path), advice)


def file_size(path: Path, advice: str) -> int:
    """The size of a file in bytes.

    Raises:
        IsoplastError: it cannot be read, or is no file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror, advice) from None
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, "it is no file", advice)
    return found.st_size


def read_bytes(path: Path, advice: str) -> bytes:
    """The whole file.

    Raises:
        IsoplastError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror, advice) from None


def _unreadable(path: Path, reason: str | None, advice: str) -> IsoplastError:
    where = f"{path}, a link to {os.readlink(path)}" if path.is_symlink() else str(path)
    return IsoplastError(f"{where}: cannot be read ({reason}); {advice}")


def _wrong_size(size: int, candidates: Sequence[KnownFile], where: str, advice: str) -> IsoplastError:
    sizes = sorted({known.size for known in candidates if known.size is not None})
    if size < sizes[0]:
        return IsoplastError(f"{where}: truncated, {size:,} of {sizes[0]:,} bytes; {advice}")
    expected = " or ".join(f"{known:,}" for known in sizes)
    return IsoplastError(f"{where}: wrong size, {size:,} bytes, expected {expected}; {advice}")


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


def lies_there(path: Path) -> bool:
    """Whether something of that name lies there, be it a link to nowhere: that is no reason to download."""
    return os.path.lexists(path)


def first_there(paths: Iterable[Path]) -> Path | None:
    """The first of the paths where something lies."""
    return next(filter(lies_there, paths), None)
