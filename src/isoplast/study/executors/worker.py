"""One run in a process of its own: `python -m isoplast.study.executors.worker DIRECTORY --threads N`.

It is started by a study's executor, which holds the other ends of standard input and output. Standard output
carries one JSON object per line: progress, and the reason of a failure. Standard input carries nothing: it
ends when the executor is gone, however that happened, and then this process ends at once. That is safe at any
instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

from isoplast._core.errors import IsoplastError
from isoplast.study.executors._local import BUSY, DONE, FAILED, ORPHANED
from isoplast.study.run._execute import Progress, RunFailed, execute
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._files import RunLocked


def main(arguments: list[str] | None = None) -> int:
    """Run the run in a directory; returns the exit status."""
    parser = argparse.ArgumentParser(prog="isoplast.study.executors.worker", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed belongs in the log

    def on_progress(progress: Progress) -> None:
        try:
            events.write(json.dumps(dataclasses.asdict(progress)) + "\n")
        except BrokenPipeError:
            os._exit(ORPHANED)

    try:
        run = RunDirectory(options.directory).read_spec()
        execute(run, options.directory.parent, threads=options.threads, on_progress=on_progress)
    except RunLocked:
        return BUSY
    except (RunFailed, IsoplastError, OSError) as error:
        events.write(json.dumps({"failed": str(error)}) + "\n")
        return FAILED
    return DONE


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
