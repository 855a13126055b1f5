"""Owning a directory: one process at a time, for as long as the directory is the one that was locked."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from types import TracebackType

import filelock

from isoplast._core.errors import IsoplastError

LOCK = ".lock"
OWNER = ".owner"


class RunLocked(IsoplastError):
    """A directory that another process is working in."""


class DirectoryLock:
    """Owns a directory while the block runs. The lock ends with the process, however that ends.

    The lock is on a file that somebody may delete, and writing goes by path: `check` tells before a write
    whether the directory at that path is still the one that is owned.

    Args:
        directory: what to own; it must exist.
        patience: how many seconds to wait for another owner to leave.

    Raises:
        RunLocked: on entering, if another process owns it.
    """

    def __init__(self, directory: Path, patience: float = 0.0) -> None:
        self.directory = directory
        self._token = uuid.uuid4().hex
        self._lock = filelock.FileLock(directory / LOCK, timeout=patience)

    def __enter__(self) -> DirectoryLock:
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise RunLocked(
                f"{self.directory} is in use by another isoplast process: wait for it or stop it"
            ) from None
        (self.directory / OWNER).write_text(self._token)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the directory may be gone, and its lock with it
            self._lock.release()

    def check(self) -> None:
        """Make sure that the directory is still owned by this lock.

        Raises:
            RunLocked: it was deleted meanwhile, or is owned by another process that made it again.
        """
        try:
            found = (self.directory / OWNER).read_text()
        except OSError:
            found = ""
        if found != self._token:
            raise RunLocked(
                f"{self.directory} was deleted or replaced while this process was working in it: nothing "
                "more is written there; start it again"
            )


def is_locked(directory: Path) -> bool:
    """Whether some process owns the directory right now."""
    if not (directory / LOCK).exists():
        return False
    lock = filelock.FileLock(directory / LOCK)
    try:
        # Another reader holds it for an instant only: it is not the owner.
        lock.acquire(timeout=0.2, poll_interval=0.02)
    except filelock.Timeout:
        return True
    lock.release()
    return False
