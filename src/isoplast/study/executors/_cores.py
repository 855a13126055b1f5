"""How many processors this process may really use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The number of cores: those the process may run on, fewer if its container has a quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if quota_file.exists():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)
