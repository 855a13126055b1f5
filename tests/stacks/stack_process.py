"""One process of a claim: joins the others over gloo and calls the claim's function, which raises or not."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# No framework asks the network, whatever it was told elsewhere.
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[name] = "1"

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402


def main(task: dict[str, Any]) -> None:
    """Runs the function with its settings; ``folder`` is one that all processes share."""
    sys.path.insert(0, str(Path(__file__).parent / "programs"))
    torch.set_num_threads(1)
    module, _, function = task["program"].partition(":")
    folder, processes = Path(task["folder"]), task["processes"]
    if processes > 1:
        # They meet in a file: a free port found beforehand may be taken by another test by then.
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting",
            rank=task["rank"],
            world_size=processes,
            timeout=datetime.timedelta(seconds=task["limit"]),
        )
    getattr(importlib.import_module(module), function)(folder=folder, **task["settings"])
    if dist.is_initialized():
        dist.barrier()  # a process that leaves early takes the others' connection with it
        dist.destroy_process_group()
        # A thread of gloo's is sometimes not joined when the interpreter goes ("terminate called without an
        # active exception"): all is done and said, so leave without waiting for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
