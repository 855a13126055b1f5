"""Weights that are spread over processes: which they are, and how they become whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError

if TYPE_CHECKING:
    from typing import TypeGuard

    from torch.distributed.tensor import DTensor

# Wrappers that leave flat pieces of the weights in their place, which nothing here can put together.
_FLATTENING = ("FullyShardedDataParallel",)


def _is_dtensor(tensor: Any) -> TypeGuard[DTensor]:
    # Nobody can hold one before that module is loaded, and loading it takes a second.
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy put together of its pieces.

    That is communication: every process that holds a piece has to call it.
    """
    if _is_dtensor(tensor):
        with torch.no_grad():
            return tensor.full_tensor()
    return tensor


def whole_parameter(parameter: nn.Parameter) -> nn.Parameter:
    """A parameter put together of its pieces, with what a layer noted on it; communication, as `whole`."""
    found = nn.Parameter(whole(parameter), requires_grad=parameter.requires_grad)
    vars(found).update(vars(parameter))
    return found


def sharded_names(network: nn.Module) -> dict[str, int]:
    """The parameters that are spread over processes (FSDP2, tensor parallel), with the number of these."""
    named = network.named_parameters()
    return {name: p.device_mesh.size() for name, p in named if _is_dtensor(p)}


def refuse_sharded(network: nn.Module) -> None:
    """Refuse a network whose weights are not whole on this process.

    Raises:
        IsoplastError: in one line.
    """
    refuse_flattened(network)
    for name, processes in sharded_names(network).items():
        raise IsoplastError(
            f"{name} is sharded (processes: {processes}): measure a whole copy of the network; "
            "weight_spectra and update_ratio take sharded weights, called on all processes at once"
        )


def refuse_flattened(network: nn.Module) -> None:
    """Refuse a network whose weights a wrapper has replaced by flat pieces (FSDP1, DeepSpeed ZeRO 3).

    Raises:
        IsoplastError: in one line.
    """
    for name, module in network.named_modules():
        if type(module).__name__ in _FLATTENING:
            raise IsoplastError(
                f"{name or 'the model'} is wrapped in {type(module).__name__}, which keeps flat pieces of "
                "weights: use fully_shard, or measure a whole copy of the network"
            )
    for name, parameter in network.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise IsoplastError(
                f"{name} is partitioned by DeepSpeed: measure a whole copy of the network, or a checkpoint"
            )
