"""Batches of samples in whatever form a model takes them: a tensor, a tuple or a mapping of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.model._sharded import whole


def sample_count(samples: Any, what: str = "inputs") -> int:
    """The number of samples: the common first dimension of all tensors.

    Raises:
        IsoplastError: if there is no sample, or the tensors disagree about their number.
    """
    sizes = {len(tensor) if tensor.ndim else 0 for tensor in _tensors(samples)}
    if len(sizes) != 1 or 0 in sizes:
        found = ", ".join(map(str, sorted(sizes))) or f"none in {type(samples).__name__}"
        raise IsoplastError(
            f"the {what} must be tensors with the same number of samples, at least one, along the first "
            f"dimension: found {found}"
        )
    return sizes.pop()


def take_samples(samples: Any, rows: Tensor | slice) -> Any:
    """The samples of the given rows, in the form of all samples; of any mapping as a dict."""
    if isinstance(samples, Tensor):
        return samples[rows.to(samples.device) if isinstance(rows, Tensor) else rows]
    if isinstance(samples, Mapping):
        return {key: take_samples(value, rows) for key, value in samples.items()}
    if isinstance(samples, tuple):
        return tuple(take_samples(value, rows) for value in samples)
    return samples


def usable(samples: Any) -> Any:
    """The samples without history, any mapping as a dict, tensors of inference mode as normal ones."""
    if isinstance(samples, Tensor):
        with torch.inference_mode(False):
            return samples.clone() if samples.is_inference() else samples.detach()
    if isinstance(samples, Mapping):
        return {key: usable(value) for key, value in samples.items()}
    if isinstance(samples, tuple):
        return tuple(usable(value) for value in samples)
    return samples


def refuse_non_finite(samples: Any) -> None:
    """Refuse inputs that are no numbers: all that follows from them would look like a collapsed network.

    Raises:
        IsoplastError: for a NaN or an infinity among them.
    """
    if not all(_sound(tensor) for tensor in _tensors(samples) if tensor.is_floating_point()):
        raise IsoplastError("the inputs hold NaN or infinities: clean them first")


def non_finite_names(state: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the tensors that hold a NaN or an infinity; masks of attention hold -inf by design.

    Args:
        state: tensors by name; what is no floating-point tensor does not count.
    """
    return tuple(
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not _sound(value)
    )


def _sound(tensor: Tensor) -> bool:
    tensor = whole(tensor)
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.values()
    if tensor.dtype.itemsize == 1:  # few operations know numbers of 8 bits
        tensor = tensor.float()
    return bool(tensor.isfinite().all()) or is_mask(tensor)


def is_mask(tensor: Tensor) -> bool:
    """Whether a tensor is what attention adds to its scores: 0 where it may look and -inf elsewhere."""
    closed = tensor == -torch.inf
    some = tensor.ndim > 1 and bool(closed.any()) and not bool(closed.all())
    return some and bool((closed | (tensor == 0)).all())


def _tensors(samples: Any) -> list[Tensor]:
    if isinstance(samples, Tensor):
        return [samples]
    parts = (
        samples.values() if isinstance(samples, Mapping) else samples if isinstance(samples, tuple) else ()
    )
    return [tensor for part in parts for tensor in _tensors(part)]
