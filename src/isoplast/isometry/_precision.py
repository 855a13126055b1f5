"""The precision in which Gram matrices are formed, and strengths on their device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def working(tensor: Tensor) -> Tensor:
    """The tensor in the precision of its Gram matrix: float32 for half precision, else its own.

    A bfloat16 Gram has relative error 2^-9 per entry while Gram - I is of order 1e-2 near isometry:
    nothing would be left of it.
    """
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, so that a Gram formed inside a user's autocast region is not rounded."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a 0-d tensor of the dtype and device of another, without making the host wait.

    A number is filled in on the device: a copy from the host's memory would wait for all that runs there, and
    could not be captured in a CUDA graph.
    """
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype, non_blocking=True)
    return torch.full((), value, dtype=like.dtype, device=like.device)
