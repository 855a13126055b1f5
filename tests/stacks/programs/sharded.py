"""fully_shard (FSDP2), tensor parallelism and meshes of two dimensions: parameters are DTensors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from common import MODES, SETTINGS, adamo, alone, batch, mine, mlp, must_be_equal, train, whole
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from isoplast import AdamO


def line() -> DeviceMesh:
    """All processes in a row."""
    return init_device_mesh("cpu", (dist.get_world_size(),))


def sharded(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """Every layer, and then the model, in the hands of fully_shard."""
    for layer in model:
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def equal(fused: list[bool | None], **_: Any) -> None:
    """Rows that do not divide evenly; Adam's step with foreach (None) and fused."""
    for kind in fused:
        _equal([20, 33, 17, 5], kind)


def _equal(widths: list[int], fused: bool | None = None) -> None:
    for every in MODES:
        model = sharded(mlp(widths), line())
        optimizer = adamo(model, isometry_every=every, fused=fused)
        assert optimizer.report().matrices == len(widths) - 1
        train(model, optimizer, *map(mine, batch(classes=widths[-1])))
        reference = mlp(widths)
        train(reference, adamo(reference, isometry_every=every), *batch(classes=widths[-1]))
        must_be_equal(model, reference)


def local_sizes(widths: list[int]) -> list[int]:
    """The numbers of rows of the first weight that the processes hold."""
    model = sharded(mlp(widths), line())
    weight = next(model.parameters())
    sizes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(sizes, weight.to_local().shape[0])
    return sizes


def empty_shards(widths: list[int], expected: list[int], **_: Any) -> None:
    """The shards are what the claim says they are, one of them empty, and nobody waits for ever."""
    assert local_sizes(widths) == expected, local_sizes(widths)
    _equal(widths)


def frozen(**_: Any) -> None:
    """A frozen layer and one that the loss does not reach stay as they are, on all processes."""
    model, reference = mlp((20, 33, 17, 17, 3)), mlp((20, 33, 17, 17, 3))
    for network in (model, reference):
        network[0].requires_grad_(False)
    started = copy.deepcopy(reference)
    model = sharded(model, line())
    train(_Skipping(model), adamo(model), *map(mine, batch()))
    train(_Skipping(reference), adamo(reference), *batch())
    must_be_equal(model, reference)
    for index in (0, 4):
        assert torch.equal(whole(model[index].weight), started[index].weight)
    assert not torch.equal(whole(model[2].weight), started[2].weight)


class _Skipping(nn.Module):
    """All of a Sequential but its fifth module."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = [layer for index, layer in enumerate(layers) if index != 4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def meshes(**_: Any) -> None:
    """Meshes of two by two."""
    hybrid()
    two_dimensions()


def hybrid() -> None:
    """Two replicas of two shards: placements [Replicate, Shard(0)]."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for every in MODES:
        model = sharded(mlp(), mesh)
        assert next(model.parameters()).placements == (Replicate(), Shard(0))
        train(model, adamo(model, isometry_every=every), *map(mine, batch()))
        must_be_equal(model, alone(mlp(), isometry_every=every))


def in_tensor_parallel(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """The first layer by columns, the second by rows, the head by columns with its outputs gathered."""
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(output_layouts=Replicate())}
    return parallelize_module(model, mesh, plan)


def tensor_parallel(**_: Any) -> None:
    """Weights in columns and in rows, an uneven head; every process sees the whole batch."""
    _tensor_parallel([20, 32, 17, 5])


def _tensor_parallel(widths: list[int]) -> None:
    for every in MODES:
        model = in_tensor_parallel(mlp(widths), line())
        assert model[0].weight.placements == (Shard(0),)
        assert model[2].weight.placements == (Shard(1),)
        train(model, adamo(model, isometry_every=every), *batch(classes=widths[-1]))
        reference = mlp(widths)
        train(reference, adamo(reference, isometry_every=every), *batch(classes=widths[-1]))
        must_be_equal(model, reference)


def two_dimensions() -> None:
    """fully_shard over tensor parallelism: [Shard(0), Shard(1)] and torch's strided shards of rows."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    inputs, targets = batch(classes=4)
    rows = mesh["data"].get_local_rank()
    for every in MODES:
        model = sharded(in_tensor_parallel(mlp((20, 32, 16, 4)), mesh["tensor"]), mesh["data"])
        assert model[2].weight.placements == (Shard(0), Shard(1))
        optimizer = adamo(model, isometry_every=every)
        train(model, optimizer, inputs.chunk(2)[rows], targets.chunk(2)[rows])
        reference = mlp((20, 32, 16, 4))
        train(reference, adamo(reference, isometry_every=every), inputs, targets)
        must_be_equal(model, reference)


# One all-gather for a matrix, whatever its shape and however it is sharded. Adding up the shards' parts of a
# tall matrix's Gram would send less, but its sums would depend on the number of processes: a run that is
# resumed by others would not go on to the same bits.
COLLECTIVES = {"all_gather_into_tensor": 1}
SHARDS: tuple[tuple[tuple[int, int], int], ...] = (((64, 16), 0), ((16, 64), 1), ((16, 64), 0), ((64, 16), 1))


@contextlib.contextmanager
def counted(expected: dict[str, int]) -> Iterator[None]:
    """Fails unless exactly these collectives, by their short names, are called inside."""
    with CommDebugMode() as mode:
        yield
    found: dict[str, int] = {}
    for operation, times in mode.get_comm_counts().items():
        name = str(operation).rpartition(".")[2]
        found[name] = found.get(name, 0) + times
    assert found == expected, f"{found} instead of {expected}"


def collectives(**_: Any) -> None:
    """What the exact steps of four kinds of shards send, and that steps without a turn send nothing."""
    for shape, dim in SHARDS:
        _collectives(shape, dim)
    quiet()


def _collectives(shape: tuple[int, int], dim: int) -> None:
    """The collectives of one exact step on one matrix, and that it is the step of the whole matrix."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64) / 4  # singular values near one
    gradient = torch.randn(*shape, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(distribute_tensor(matrix, line(), [Shard(dim)]))
    parameter.grad = distribute_tensor(gradient, line(), [Shard(dim)])
    one = nn.Parameter(matrix.clone())
    one.grad = gradient
    AdamO([one], **SETTINGS, isometry_every=1).step()
    optimizer = AdamO([parameter], **SETTINGS, isometry_every=1)
    with counted(COLLECTIVES):
        optimizer.step()
    assert isinstance(parameter, DTensor)
    assert parameter.placements == (Shard(dim),)
    assert (parameter.full_tensor() - one).abs().max() < 1e-12


def quiet() -> None:
    """While no matrix has its turn nothing is sent: over 24 steps each of 3 matrices is, once in 8."""
    model = sharded(mlp(), line())
    optimizer = adamo(model, isometry_every=8)
    train(model, optimizer, *map(mine, batch()), steps=1)
    for parameter in model.parameters():
        assert parameter.grad is not None
    gathered = 0
    silent = 0
    for _step in range(24):
        with CommDebugMode() as mode:
            optimizer.step()
        gathered += mode.get_total_counts()
        silent += mode.get_total_counts() == 0
    assert gathered == 9, f"{gathered} collectives"
    assert silent == 15, f"{silent} steps without one"
