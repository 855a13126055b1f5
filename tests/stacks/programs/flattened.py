"""Wrappers that flatten or hide the weights: refused, with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from common import adamo, mlp
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

from isoplast import AdamO, attach

# Every way to hand an optimizer the parameters of a model.
WAYS: dict[str, Callable[[nn.Module], object]] = {
    "AdamO(parameters)": lambda model: AdamO(model.parameters()),
    "AdamO(named parameters)": lambda model: AdamO(model.named_parameters()),
    "AdamO(param_groups)": adamo,
    "attach": lambda model: attach(torch.optim.SGD(model.parameters(), lr=0.1)),
}


def must_refuse(model: nn.Module, *words: str, ways: Iterable[str] = WAYS) -> None:
    """Fails unless every way raises one line with these words, and leaves no hook on the optimizer."""
    for way in ways:
        try:
            WAYS[way](model)
        except ValueError as error:
            line = str(error)
            assert "\n" not in line, line
            for word in words:
                assert re.search(word, line), f"{way} says {line!r}, not {word!r}"
        else:
            raise AssertionError(f"{way} accepted {[tuple(p.shape) for p in model.parameters()]}")


def fsdp1(**_: Any) -> None:
    """FSDP1's flat parameters and its 1-d views of them; also where one layer keeps its shape."""
    for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP):
        for original in (False, True):
            for partly in (False, True):
                model = mlp(dtype=torch.float32)
                wrapped = FullyShardedDataParallel(
                    model,
                    use_orig_params=original,
                    sharding_strategy=strategy,
                    ignored_modules=[model[0]] if partly else None,
                    device_id=torch.device("cpu"),
                )
                must_refuse(wrapped, "FSDP1", "fully_shard")
    whole = FullyShardedDataParallel(
        mlp(dtype=torch.float32),
        use_orig_params=True,
        sharding_strategy=ShardingStrategy.NO_SHARD,
        device_id=torch.device("cpu"),
    )
    assert adamo(whole).report().matrices == 3  # the original parameters, with their shapes


def deepspeed(**_: Any) -> None:
    """What DeepSpeed hands an optimizer: placeholders of ZeRO 3, flat partitions of ZeRO 1 and 2."""
    placeholders = []
    for p in mlp().parameters():
        placeholder = nn.Parameter(torch.empty(0))
        placeholder.ds_shape = p.shape  # type: ignore[attr-defined]
        placeholders.append(placeholder)
    for handed in (placeholders, [*placeholders, nn.Parameter(torch.eye(3))]):
        model = nn.Module()
        for index, p in enumerate(handed):
            model.register_parameter(f"p{index}", p)
        must_refuse(model, "DeepSpeed", "fully_shard")
    _partitions()


def _partitions() -> None:
    """ZeRO 1 and 2 put their partitions into an optimizer that exists: found out in its first step."""
    for make in (AdamO, lambda params, lr: attached(torch.optim.AdamW(params, lr=lr))):
        model = mlp()
        optimizer = make(model.parameters(), lr=1e-3)
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
        optimizer.param_groups[0]["params"] = [flat]
        flat.grad = torch.ones_like(flat)
        with pytest.raises(ValueError, match="DeepSpeed"):
            optimizer.step()


def attached(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer with an attachment."""
    attach(optimizer)
    return optimizer
