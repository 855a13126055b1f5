"""Where a result comes from: versions, source state, machine, cost."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import isoplast

_PACKAGES = ("torch", "numpy", "scikit-learn", "polars")


def provenance(device: torch.device, threads: int) -> dict[str, Any]:
    """What a result may depend on beside its specification."""
    return {
        "versions": versions(),
        "git": git_state(Path(isoplast.__file__).parent),
        "machine": platform.node(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
    }


def versions() -> dict[str, str]:
    """The versions of Python, isoplast and the packages that compute or read results."""
    found = {"python": platform.python_version(), "isoplast": isoplast.__version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of the checkout the package is imported from, and whether files differ; None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # A package that is merely installed inside somebody's checkout is not part of it.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def git_words(state: Mapping[str, Any] | None) -> str:
    """What `git_state` found, for people."""
    if state is None:
        return "installed, not a checkout"
    return f"commit {state['commit'][:12]}" + (" with changed files" if state["changed"] else "")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What results depend on and is not as it was: one line for each, such as "torch was 2.9 and is 2.10"."""
    old, new = _decisive(before), _decisive(now)
    names = dict.fromkeys((*new, *old))
    pairs = [(name, old.get(name, "absent"), new.get(name, "absent")) for name in names]
    return [f"{name} was {was} and is {is_now}" for name, was, is_now in pairs if was != is_now]


def _decisive(origin: Mapping[str, Any]) -> dict[str, str]:
    return {
        **origin["versions"],
        "the source of isoplast": git_words(origin["git"]),
        "the number of threads": str(origin["threads"]),
    }


def processor() -> str:
    """The model name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """The most memory this process has used so far, in bytes: of the GPU where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB
