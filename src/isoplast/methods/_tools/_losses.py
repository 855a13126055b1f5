"""What a caller's loss returned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from isoplast._core.errors import IsoplastError


def losses(found: Any, who: str) -> Iterator[Tensor]:
    """The losses that a `Loss` returned, one after the other, each of shape ().

    Args:
        found: what it returned.
        who: what it is, for the error message.

    Raises:
        IsoplastError: for anything but tensors of one number, and for none at all.
    """
    if not isinstance(found, Iterable):
        raise _no_loss(who, found)
    number = 0
    for loss in [found] if isinstance(found, Tensor) else found:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise _no_loss(who, loss)
        number += 1
        yield loss if loss.dim() == 0 else loss.reshape(())
    if not number:
        raise IsoplastError(f"{who} yields no loss: give it at least one part of a batch")


def _no_loss(who: str, found: Any) -> IsoplastError:
    what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    return IsoplastError(f"{who} returns {what}: return the loss, a tensor of shape ()")
