"""Sharded weights move as whole ones do: the Gram of a shard is not a shard of the Gram.

Two processes on one machine over gloo; FSDP2 shards rows, unevenly (33 and 17 rows on two ranks),
and leaves the second rank with one row of the last layer.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_processes import in_processes
from torch import nn

from isoplast import AdamO

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo"),
]
WORLD = 2


def train(every: Any, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.debug import CommDebugMode

    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 3))
    sharded = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in sharded:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    inputs, targets = torch.randn(16, 20), torch.randint(3, (16,))  # the same on both ranks
    for model in (whole, sharded):
        optimizer = AdamO(model.parameters(), lr=1e-2, isometry=0.3, isometry_every=every)
        assert optimizer.report().matrices == 3
        gathered = 0
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            with CommDebugMode() as comm:
                optimizer.step()
            gathered += comm.get_total_counts()
        # One all-gather for each turn of a matrix, and nothing between turns: three matrices act in every
        # step, in every one of three, or (lr * isometry = 3e-3: T = 1) in every step again.
        turns = {1: 60, "auto": 60, 3: 20}[every]
        assert gathered == (turns if model is sharded else 0), (gathered, turns)
    apart = max(
        (p.full_tensor() - q).abs().max().item()
        for p, q in zip(sharded.parameters(), whole.parameters(), strict=True)
    )
    Path(folder, f"{dist.get_rank()}").write_text(repr(apart))


@pytest.mark.parametrize("every", [1, "auto", 3])
def test_fsdp2_is_one_process(every: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_processes(WORLD, train, every, folder)
        apart = [float(Path(folder, str(rank)).read_text()) for rank in range(WORLD)]
    # The gathered gradients are averages of two equal ones: exact. So is everything after.
    assert apart == [0.0, 0.0]
