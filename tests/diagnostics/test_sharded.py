"""Weights spread over processes: measured as whole ones are, or refused in one line; a monitor goes on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_processes import in_processes
from torch import Tensor, nn

from isoplast import Monitor, diagnose
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import (
    Churn,
    Updates,
    activity,
    curvature,
    gradients,
    inspect,
    jacobian,
    ntk,
    plasticity,
    repair_,
    weight_spectra,
)

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo"
)

RUNNING: dict[str, Callable[[nn.Module, Tensor, Tensor], Any]] = {
    "activity": lambda model, x, y: activity(model, x),
    "jacobian": lambda model, x, y: jacobian(model, x),
    "ntk": lambda model, x, y: ntk(model, x),
    "lanczos": lambda model, x, y: ntk(model, x, method="lanczos"),
    "curvature": lambda model, x, y: curvature(model, x, y),
    "gradients": lambda model, x, y: gradients(model, x, y),
    "plasticity": lambda model, x, y: plasticity(model, x),
    "churn": lambda model, x, y: Churn(model, x),
    "inspect": lambda model, x, y: inspect(model, x),
    "repair_": lambda model, x, y: repair_(model),
    "diagnose": lambda model, x, y: diagnose(model, x, y),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 3))


def check(world: int) -> None:
    """Train a sharded network beside a whole one, and measure both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = network()
    sharded = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (world,))
    for layer in (sharded[0], sharded[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    x, y = torch.randn(16, 20), torch.arange(16) % 3
    monitors, updates = [], []
    for model in (whole, sharded):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        measures = ["weights", "activity", "ntk", "plasticity"]
        monitor = Monitor(model, optimizer, measures=measures, inputs=x, warn=False)
        moved = Updates(model)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            monitor.step()
        monitor.measure()
        monitors.append(monitor)
        updates.append(moved.step().as_dict())
    parameters = [id(parameter) for parameter in sharded.parameters()]
    assert weight_spectra(sharded).as_dict() == weight_spectra(whole).as_dict()
    assert updates[0] == updates[1]
    assert inspect(sharded).as_dict() == inspect(whole).as_dict()
    for measure in RUNNING.values():
        with pytest.raises(IsoplastError, match=rf"sharded \(processes: {world}\)") as caught:
            measure(sharded, x, y)
        assert "\n" not in str(caught.value)
    assert [id(parameter) for parameter in sharded.parameters()] == parameters
    plain, own = monitors
    assert not plain.left_out
    assert set(own.left_out) == {"activity", "ntk", "plasticity"} | ({"weights"} if world > 1 else set())
    if world > 1:
        assert "call weight_spectra(model) on all of them at the same step" in own.left_out["weights"]
    else:
        assert own.records[-1]["weights/largest"] == plain.records[-1]["weights/largest"]


def test_one_process() -> None:
    in_processes(1, check, 1)


@pytest.mark.slow
def test_two_processes() -> None:
    in_processes(2, check, 2)


def test_flat_pieces_are_refused_in_one_line() -> None:
    in_processes(1, check_flat_pieces)


def check_flat_pieces() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(FullyShardedDataParallel(network(), device_id=torch.device("cpu")))
        for measure in (weight_spectra, Updates, lambda m: activity(m, torch.randn(4, 20))):
            with pytest.raises(IsoplastError, match="0 is wrapped in FullyShardedDataParallel") as caught:
                measure(model)
            assert "\n" not in str(caught.value)


def test_partitions_of_deepspeed_are_refused_in_one_line() -> None:
    model = network()
    model[0].weight.ds_id = 0
    with pytest.raises(IsoplastError, match=r"0\.weight is partitioned by DeepSpeed"):
        weight_spectra(model)


UNREADY: dict[str, Callable[[nn.Module, Tensor, Tensor], Any]] = {
    **RUNNING,
    "weights": lambda model, x, y: weight_spectra(model),
    "updates": lambda model, x, y: Updates(model),
    "monitor": lambda model, x, y: Monitor(model, inputs=x).step(),
    "initial": lambda model, x, y: weight_spectra(network(), initial=model),
}


@pytest.mark.parametrize("measure", UNREADY)
def test_parameters_without_values_are_refused_in_one_line(measure: str) -> None:
    x, y = torch.randn(16, 20), torch.arange(16) % 3
    lazy = nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.LazyLinear(3))
    with torch.device("meta"):
        meta = network()
    for model, message in ((lazy, r"2\.weight is not initialised yet: run one batch"), (meta, "meta device")):
        with pytest.raises(IsoplastError, match=message) as caught:
            UNREADY[measure](model, x, y)
        assert "\n" not in str(caught.value)
    lazy(x)
    if measure != "initial":
        UNREADY[measure](lazy, x, y)
