"""What a claim about a training stack is, and how it is run: real processes, their logs as one block."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Claim:
    """One entry: a program that fails unless what it proves is true.

    Args:
        stack: the row of the support matrix.
        proves: the claim, as the matrix says it.
        program: "module:function" in the folder programs.
        settings: keyword arguments of the function, all of them JSON.
        processes: how many processes run it together, over gloo if there is more than one.
        limit: seconds until they are ended; twenty times what it takes on two idle cores.
        needs: packages without which the claim is skipped.
    """

    stack: str
    proves: str
    program: str
    settings: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    limit: int = 300
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        details = [f"{key}={value}" for key, value in self.settings.items()]
        return "-".join([self.program.replace(":", "-"), *details, f"x{self.processes}"]).replace(" ", "")

    def lacks(self) -> str:
        """Why it cannot run here, or an empty string."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"{', '.join(missing)}: not installed"
        if self.processes > 1 and not (dist.is_available() and dist.is_gloo_available()):
            return "torch has no gloo"
        return ""


@dataclass(frozen=True)
class Outcome:
    """How the processes of a claim ended: whether well, after how long, and what they said."""

    held: bool
    seconds: float
    log: str


def run(claim: Claim) -> Outcome:
    """Runs a claim's processes and waits for them, or ends them at the limit.

    Args:
        claim: the claim.

    Returns:
        Its outcome; the log holds the output of each process, one after the other.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stack-") as folder:
        started = [_start(claim, rank, Path(folder)) for rank in range(claim.processes)]
        try:
            codes = _wait(started, begun + claim.limit)
        finally:
            for process in started:
                _end(process)
        seconds = time.monotonic() - begun
        parts = [f"{claim.stack}: {claim.proves}\n{claim} after {seconds:.1f} s of at most {claim.limit} s"]
        for rank, code in enumerate(codes):
            said = Path(folder, f"log-{rank}").read_text(encoding="utf-8", errors="replace").rstrip()
            ending = "did not end" if code is None else f"exit code {code}"
            parts.append(f"--- process {rank}: {ending} ---\n{said}")
        return Outcome(codes == [0] * claim.processes, seconds, "\n".join(parts))


def _start(claim: Claim, rank: int, folder: Path) -> subprocess.Popen[bytes]:
    task = {
        "program": claim.program,
        "settings": claim.settings,
        "rank": rank,
        "processes": claim.processes,
        "folder": str(folder),
        "limit": claim.limit,
    }
    with open(folder / f"log-{rank}", "wb") as log:
        return subprocess.Popen(
            [sys.executable, str(HERE / "stack_process.py"), json.dumps(task)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


def _wait(started: list[subprocess.Popen[bytes]], until: float) -> list[int | None]:
    """The exit codes; where one process failed the others, which may wait for it for ever, get 5 seconds."""
    while any(process.poll() is None for process in started) and time.monotonic() < until:
        if any(process.poll() for process in started):
            until = min(until, time.monotonic() + 5)
        time.sleep(0.05)
    return [process.poll() for process in started]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that still runs, with all that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
