"""Distributed checkpoints: saved by some processes, loaded by others, without moving a weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from common import adamo, batch, mlp, train, whole
from sharded import line, sharded
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from isoplast import attach


@contextmanager
def world(processes: int, folder: Path, name: str, rank: int) -> Iterator[bool]:
    """The first so many processes as a group of their own; whether this process is one of them."""
    if rank < processes:
        meeting = f"file://{folder}/meeting-{name}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    yield rank < processes
    if rank < processes:
        dist.barrier()
        dist.destroy_process_group()


def network(seed: int) -> nn.Sequential:
    """A sharded network; another seed gives other weights."""
    model = mlp()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * seed)
    return sharded(model, line())


def optimizer_of(model: nn.Module, kind: str, every: Any) -> Optimizer:
    """AdamO, or SGD with momentum and an attachment."""
    if kind == "adamo":
        return adamo(model, isometry_every=every)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    attach(sgd, isometry=0.3, every=every)
    return sgd


def state(model: nn.Module, optimizer: Optimizer, options: StateDictOptions) -> dict[str, Any]:
    """What is saved."""
    weights, moments = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optimizer": moments}


def tensors(model: nn.Module) -> list[Tensor]:
    return [whole(parameter).detach().clone() for parameter in model.parameters()]


def resumed(folder: Path, **_: Any) -> None:
    """AdamO and an attachment, each amortisation, nested and flat optimizer states."""
    rank = dist.get_rank()
    dist.destroy_process_group()
    for kind, every, flat in (("adamo", 3, True), ("adamo", "auto", False), ("attached", 3, False)):
        place = folder / f"{kind}-{every}-{flat}"
        place.mkdir(exist_ok=True)
        _resumed(kind, every, flat, place, rank)


def _resumed(kind: str, every: Any, flat: bool, folder: Path, rank: int) -> None:
    """Saved by 2 processes, resumed by 4 and by 1: to the bits of the run that was not interrupted.

    All processes see the same batch, so that averages over 1, 2 and 4 of them are exact.
    """
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    with world(2, folder, "save", rank) as here:
        if here:
            model = network(0)
            optimizer = optimizer_of(model, kind, every)
            train(model, optimizer, *batch(), steps=6)
            dcp.save(state(model, optimizer, options), checkpoint_id=folder / "saved")
            train(model, optimizer, *batch(), steps=6)
            whole_run = tensors(model)
            if rank == 0:
                torch.save(whole_run, folder / "whole.pt")
    for processes in (4, 1):
        with world(processes, folder, f"load-{processes}", rank) as here:
            if here:
                model = network(1)
                optimizer = optimizer_of(model, kind, every)
                loaded = state(model, optimizer, options)
                dcp.load(loaded, checkpoint_id=folder / "saved")
                set_state_dict(
                    model,
                    optimizer,
                    model_state_dict=loaded["model"],
                    optim_state_dict=loaded["optimizer"],
                    options=options,
                )
                train(model, optimizer, *batch(), steps=6)
                for found, expected in zip(tensors(model), torch.load(folder / "whole.pt"), strict=True):
                    assert torch.equal(found, expected), (
                        f"{processes} processes: {(found - expected).abs().max()}"
                    )


def asking_moves_nothing(**_: Any) -> None:
    """torch fills the state of a fresh optimizer by a step of learning rate 0: that moves no weight."""
    for kind in ("adamo", "attached"):
        for every in (1, "auto", 3):
            model = network(0)
            before = tensors(model)
            optimizer = optimizer_of(model, kind, every)
            settings = copy.deepcopy([{**group, "params": None} for group in optimizer.param_groups])
            get_optimizer_state_dict(model, optimizer)
            for found, expected in zip(tensors(model), before, strict=True):
                assert torch.equal(found, expected)
            assert [{**group, "params": None} for group in optimizer.param_groups] == settings
