"""Which of the inputs the expensive instruments look at, so that no network makes them endless."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.model import sample_count, take_samples

# A kernel of fewer samples says little.
_FEWEST = 4
# Iterations for a network too large for all singular values keep 2 * 60 vectors as long as an input or an
# output for each sample: 60 MiB with so many numbers in the inputs together.
_JACOBIAN_NUMBERS = 2**17


def for_kernel(inputs: Any, outputs: int, samples: int, size: int) -> Any:
    """The first samples for an NTK, without repetitions where they are one tensor: those make it singular.

    Args:
        inputs: as the model takes them.
        outputs: numbers per sample that the model returns.
        samples: how many are wanted.
        size: rows that the kernel, samples * outputs, may have.

    Raises:
        IsoplastError: if fewer than four samples, or than there are, make a kernel of that size.
    """
    wanted = min(samples, sample_count(inputs))
    rows = min(wanted, size // outputs)
    if rows < min(_FEWEST, wanted):
        raise IsoplastError(
            f"{outputs} outputs per sample make a kernel of more than {size} rows: call ntk(model, inputs, "
            'method="lanczos")'
        )
    if not isinstance(inputs, Tensor):
        return take_samples(inputs, slice(rows))
    return inputs[_distinct(inputs[: 4 * rows])[:rows]]


def _distinct(inputs: Tensor) -> Tensor:
    """The rows that repeat no earlier one."""
    _, same = torch.unique(inputs.flatten(1), dim=0, return_inverse=True)
    earlier = (same[:, None] == same).tril(-1).any(1)
    return torch.nonzero(~earlier).flatten()


def for_jacobian(inputs: Any, samples: int) -> Any:
    """The first samples for a Jacobian, fewer of large ones."""
    size = inputs[0].numel() if isinstance(inputs, Tensor) else 1
    return take_samples(inputs, slice(max(1, min(samples, _JACOBIAN_NUMBERS // max(size, 1)))))
