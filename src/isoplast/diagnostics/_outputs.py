"""What an instrument needs of a network's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.model import outputs, refuse_batch_statistics, sample_count, take_samples


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
