"""One run in a process of its own; see `Job.command` for how it is started.

Standard output carries one JSON object per line: progress, and the reason of a failure. Standard input
carries nothing: it ends when the executor is gone, however that happened, and then this process ends at once.
That is safe at any time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

from isoplast._core.errors import IsoplastError
from isoplast.study.run._execute import Progress, RunFailed, execute, module_path
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._lock import RunLocked

DONE, FAILED, LOCKED, ORPHANED = 0, 1, 75, 76  # exit status of a worker


def worker(events: int) -> int:
    """Do the run in the directory that the first argument names; returns the exit status.

    The second argument is the number of threads, the third the sinks as JSON.

    Args:
        events: file descriptor that events are written to.
    """
    folder, threads, sinks = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stream = os.fdopen(events, "w", buffering=1)

    def on_progress(progress: Progress) -> None:
        try:
            stream.write(json.dumps(dataclasses.asdict(progress)) + "\n")
        except BrokenPipeError:
            os._exit(ORPHANED)

    try:
        directory = RunDirectory(folder)
        with module_path(tuple(directory.read_settings().get("path", ()))):
            run = directory.read_spec()
        execute(run, folder.parent, threads=threads, sinks=sinks, on_progress=on_progress)
    except RunLocked:
        return LOCKED
    except (RunFailed, IsoplastError, OSError) as error:
        stream.write(json.dumps({"failed": str(error)}) + "\n")
        return FAILED
    return DONE


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(ORPHANED)
