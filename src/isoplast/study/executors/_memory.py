"""Memory of this machine, watched so that it is a run that ends and not the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil

_SHARE, _MOST = 0.05, 2**30  # what must stay free: this share of all memory, at most so many bytes
_CGROUP = Path("/sys/fs/cgroup")


def memory_left(cgroup: Path = _CGROUP) -> tuple[int, int]:
    """Bytes that processes can still take, and bytes in all: the machine's, or its container's if fewer."""
    machine = psutil.virtual_memory()
    left, total = machine.available, machine.total
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int((cgroup / "memory.max").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
        left, total = min(left, limit - used), min(total, limit)
    return left, total


def held(process: int) -> int:
    """Bytes in memory of a process and those it started; 0 if it is gone."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(process)
        total = parent.memory_info().rss
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
        return int(total)
    return 0


def too_large(processes: Sequence[int]) -> tuple[int, str] | None:
    """The process to end when memory is about to run out, and why; None as long as there is enough.

    It is the one that holds most, and none if even that holds less than what must stay free: then it is not
    these processes that fill the memory.

    Args:
        processes: numbers of the processes to choose from.
    """
    left, total = memory_left()
    reserve = min(_SHARE * total, _MOST)
    if left >= reserve or not processes:
        return None
    held_by = {process: held(process) for process in processes}
    largest = max(held_by, key=lambda process: held_by[process])
    if held_by[largest] < reserve:
        return None
    return largest, (
        f"out of memory: it held {_gib(held_by[largest])} when {_gib(left)} of {_gib(total)} were left; give "
        "fewer --jobs, or make the network or the data smaller"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
