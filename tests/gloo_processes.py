"""Processes of one gloo group on this machine, for tests of sharded weights."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """Calls ``work(*arguments)`` on every rank of a group of its own, and raises what one of them raises.

    Args:
        world: the number of processes.
        work: a function of a module, which finds its rank by ``dist.get_rank()``.
        arguments: what it takes; to hand something back it writes a file.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_in_group, (world, folder, work, arguments), world)  # type: ignore[no-untyped-call]


def _in_group(
    rank: int, world: int, folder: str, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    # They meet in a file: a free port found beforehand may be taken by another test by then.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    work(*arguments)
    dist.barrier()
    dist.destroy_process_group()
    # The device mesh keeps its group, and the group its two threads ("pt_gloo_runloop" is in the list of
    # threads after destroy_process_group and gc.collect). One that asks for the interpreter's lock when that
    # is gone ends the process by SIGABRT, "terminate called without an active exception": so the
    # interpreter is not taken down here.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
