"""Wrappers that flatten or hide the weights: refused, with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from common import adamo, mlp
from torch import Tensor, nn
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


def fsdp1(original: bool, partly: bool, **_: Any) -> None:
    """FSDP1's flat parameters and its 1-d views of them; also where one layer keeps its shape."""
    for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP):
        model = mlp(dtype=torch.float32)
        kept = [model[0]] if partly else None
        wrapped = FullyShardedDataParallel(
            model,
            use_orig_params=original,
            sharding_strategy=strategy,
            ignored_modules=kept,
            device_id=torch.device("cpu"),
        )
        must_refuse(wrapped, "FSDP1", "fully_shard")


def whole_on_one(**_: Any) -> None:
    """NO_SHARD with the original parameters keeps their shapes: then all matrices are there."""
    wrapped = FullyShardedDataParallel(
        mlp(dtype=torch.float32),
        use_orig_params=True,
        sharding_strategy=ShardingStrategy.NO_SHARD,
        device_id=torch.device("cpu"),
    )
    assert adamo(wrapped).report().matrices == 3


def deepspeed(**_: Any) -> None:
    """What DeepSpeed hands an optimizer: flat partitions of ZeRO 1 and 2, placeholders of ZeRO 3."""
    whole: list[Tensor] = list(mlp().parameters())
    flat = torch.cat([p.detach().flatten() for p in whole])
    partition = nn.Parameter(flat[: flat.numel() // 2])
    placeholders = []
    for p in whole:
        placeholder = nn.Parameter(torch.empty(0))
        placeholder.ds_shape = p.shape  # type: ignore[attr-defined]
        placeholders.append(placeholder)
    a_matrix = nn.Parameter(torch.eye(3))
    for handed in ([partition], placeholders, [*placeholders, a_matrix]):
        model = nn.Module()
        for index, p in enumerate(handed):
            model.register_parameter(f"p{index}", p)
        must_refuse(model, "DeepSpeed")
