"""What an instrument needs of a network's outputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.model import outputs, refuse_batch_statistics, sample_count, take_samples


def are_classes(targets: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether targets are class numbers; else they are numbers like the outputs.

    Args:
        targets: class numbers shaped like the outputs without their last dimension, -100 where there is
            none, or floating-point numbers, as many as the outputs.
        shape: of the outputs, samples in front.

    Raises:
        IsoplastError: for targets that suit the outputs in neither way.
    """
    if targets.is_floating_point() and targets.numel() == math.prod(shape) and len(targets) == shape[0]:
        return False
    if targets.is_floating_point() or len(shape) < 2 or targets.shape != shape[:-1]:
        raise IsoplastError(
            f"targets of {targets.dtype} {tuple(targets.shape)} do not fit outputs {shape}: give class "
            f"numbers of shape {shape[:-1]} or numbers of the outputs' shape"
        )
    counted = targets[targets != -100]
    if bool(((counted < 0) | (counted >= shape[-1])).any()):
        raise IsoplastError(f"targets hold classes outside 0..{shape[-1] - 1}, the outputs of the model")
    return True


def check_outputs(network: nn.Module, found: Tensor, inputs: Any) -> None:
    """Refuse outputs without a row per sample, and samples that see each other.

    Args:
        network: in evaluation mode.
        found: its outputs.
        inputs: what it computed them from.

    Raises:
        IsoplastError: in one line.
    """
    n = sample_count(inputs)
    if not found.is_floating_point() or found.dim() == 0 or len(found) != n or found.numel() == 0:
        raise IsoplastError(
            f"the model returns {found.dtype} of shape {tuple(found.shape)} for {n} samples: "
            "it must return numbers with one row per sample"
        )
    refuse_batch_statistics(network)
    if n > 1:
        with torch.no_grad():
            alone = outputs(network, take_samples(inputs, slice(0, 1)))
        first = found[:1].detach()
        # Kernels for other batch sizes round differently; a batch statistic changes far more.
        allowed = 10 * torch.finfo(found.dtype).eps ** 0.5 * float(first.norm())
        if float((alone - first).norm()) > allowed:
            raise IsoplastError("the outputs of a sample depend on the other samples of its batch")
