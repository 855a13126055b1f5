"""DistributedDataParallel and ZeroRedundancyOptimizer: whole parameters on every process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from common import MODES, SETTINGS, adamo, alone, batch, mine, mlp, must_act, must_be_equal, train
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from isoplast import AdamO
from isoplast.integrations import zero_redundancy_optimizer


def equal(**_: Any) -> None:
    """Each process trains on its part of the batch; the averaged gradients are those of the whole."""
    for every in MODES:
        must_act({"isometry_every": every})
        model = mlp()
        wrapped = DistributedDataParallel(model)
        train(wrapped, adamo(wrapped, isometry_every=every), *map(mine, batch()))
        must_be_equal(model, alone(mlp(), isometry_every=every))


def same_bits(**_: Any) -> None:
    """In float32, where sums depend on their order, the processes still hold the same bits."""
    model = DistributedDataParallel(mlp(dtype=torch.float32))
    inputs, targets = batch()
    train(model, adamo(model), mine(inputs.float()), mine(targets))
    same_on_all(model)


def same_on_all(model: nn.Module) -> None:
    """Fails unless all processes hold the same bits."""
    for parameter in model.parameters():
        copies = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, parameter.detach())
        assert all(torch.equal(copy, parameter) for copy in copies)


class Branches(nn.Module):
    """A trunk, and a branch for each process: a process has no gradient of the others' branches."""

    def __init__(self, used: list[int]) -> None:
        super().__init__()
        self.trunk, self.head = mlp((20, 12)), mlp((12, 3))
        self.branches = nn.ModuleList(mlp((12, 12)) for _ in range(4))
        self.used = used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trunk = self.trunk(x).relu()
        parts = [
            self.branches[use](part) for use, part in zip(self.used, trunk.chunk(len(self.used)), strict=True)
        ]
        return self.head(torch.cat(parts))


def missing_gradients(**_: Any) -> None:
    """A branch that some processes use is trained everywhere; one that nobody uses rests."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    model = Branches([rank])
    reference = Branches(list(range(processes)))
    for network in (model, reference):
        network.trunk.requires_grad_(False)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    train(wrapped, adamo(wrapped), *map(mine, batch()))
    train(reference, adamo(reference), *batch())
    must_be_equal(model, reference)
    started = Branches([])
    assert torch.equal(model.trunk[0].weight, started.trunk[0].weight)
    for index, branch in enumerate(model.branches):
        moved = not torch.equal(branch[0].weight, started.branches[index][0].weight)
        assert moved == (index < processes)


def zero(**_: Any) -> None:
    """Each process steps the parameters that it owns; some own no matrix, some nothing at all."""
    for widths in ([20, 33, 17, 3], [20, 3]):
        model = mlp(widths)
        train_sharded(model, isometry_every=1)
        must_be_equal(model, alone(mlp(widths), isometry_every=1))
    zero_of_torch()
    zero_in_turns()


def train_sharded(model: nn.Module, steps: int = 12, **settings: Any) -> None:
    wrapped = DistributedDataParallel(model)
    optimizer = zero_redundancy_optimizer(wrapped, **{**SETTINGS, **settings})
    train(wrapped, optimizer, *map(mine, batch()), steps=steps)


def zero_in_turns() -> None:
    """A process spreads the turns over the matrices that it owns: other steps, the same equilibrium."""
    far = deviation(alone(mlp(), steps=100, isometry=0.0))
    near = deviation(alone(mlp(), steps=100, isometry_every=1))
    for every in ("auto", 3):
        model = mlp()
        train_sharded(model, steps=100, isometry_every=every)
        same_on_all(model)
        assert abs(deviation(model) - near) < 0.1 * far, (deviation(model), near, far)


def deviation(model: nn.Module) -> float:
    """The largest distance of a singular value from one."""
    matrices = [p.detach() for p in model.parameters() if p.ndim == 2]
    return max((torch.linalg.svdvals(matrix) - 1).abs().max().item() for matrix in matrices)


def zero_of_torch() -> None:
    """torch's own call with AdamO's class, where every process owns a matrix."""
    model = mlp((20, 33, 17, 12, 9, 8, 7, 6, 3))
    wrapped = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), AdamO, **SETTINGS, isometry_every=1)
    train(wrapped, optimizer, *map(mine, batch()))
    must_be_equal(model, alone(mlp((20, 33, 17, 12, 9, 8, 7, 6, 3)), isometry_every=1))
