"""Where a result comes from: versions, source state, machine, cost."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import isoplast

try:
    import resource
except ModuleNotFoundError:  # Windows has none
    resource = None  # type: ignore[assignment]

_PACKAGES = ("torch", "numpy", "scikit-learn", "polars")


def provenance(device: torch.device, threads: int, parts: Iterable[str] = ()) -> dict[str, Any]:
    """What a result may depend on beside its specification.

    Args:
        device: where it trains.
        threads: of torch.
        parts: names of the run's parts; of those that are imported ("package.module:Name") the source counts.
    """
    return {
        "versions": versions(),
        "git": git_state(Path(isoplast.__file__).parent),
        "machine": platform.node(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
        "modules": module_sources(parts),
    }


def is_provenance(found: Mapping[str, Any]) -> bool:
    """Whether a mapping from a file is what `provenance` gives, with the data; or empty, before a start."""
    git = found.get("git")
    data = found.get("data")
    return not found or (
        _is_words(found.get("versions"))
        and _is_words(found.get("modules", {}))
        and type(found.get("threads")) is int
        and (git is None or (isinstance(git, Mapping) and isinstance(git.get("commit"), str)))
        and (git is None or isinstance(git.get("changed"), bool))
        and isinstance(data, Mapping)
        and all(isinstance(data.get(key), str) for key in ("note", "fingerprint"))
    )


def _is_words(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(word, str) for pair in value.items() for word in pair
    )


def versions() -> dict[str, str]:
    """The versions of Python, isoplast and the packages that compute or read results."""
    found = {"python": platform.python_version(), "isoplast": isoplast.__version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def module_sources(parts: Iterable[str]) -> dict[str, str]:
    """The sha256 of the source files that parts of a run were imported from, by module."""
    found = {}
    for part in parts:
        module = sys.modules.get(part.partition(":")[0]) if ":" in part else None
        file = getattr(module, "__file__", None)
        if module is not None and file is not None and Path(file).is_file():
            found[module.__name__] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of the checkout the package is imported from, and whether files differ; None outside one."""

    def git(*arguments: str) -> str:
        # Without its optional locks: a run must not keep somebody from committing.
        command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
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
        **{f"the source of {name}": digest[:12] for name, digest in origin.get("modules", {}).items()},
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
    """The most memory this process has used, in bytes: of the GPU where it trains on one; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB
