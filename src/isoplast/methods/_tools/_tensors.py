"""Tensors in whatever a model takes and returns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and mappings, in their order.

    Example:
        >>> import torch
        >>> [t.shape[0] for t in tensors_in({"logits": torch.ones(2), "others": [torch.ones(3), None]})]
        [2, 3]
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def with_tensors(change: Callable[..., Tensor], value: Any, *others: Any) -> Any:
    """Nested lists, tuples and mappings with their tensors changed; all else is that of the first.

    Args:
        change: called with each tensor of `value` and those in the same places of `others`. value: nested
        lists, tuples (named ones too) and mappings, which become dicts unless they are some kind
            of dict.
        others: of the same structure.

    Example:
        >>> import torch
        >>> with_tensors(torch.add, (torch.tensor(1), "x"), (torch.tensor(2), "x"))
        (tensor(3), 'x')
    """
    if isinstance(value, Tensor):
        return change(value, *others)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value) if isinstance(value, dict) else {}
        for key, item in value.items():
            changed[key] = with_tensors(change, item, *(other[key] for other in others))
        return changed
    if isinstance(value, list | tuple):
        found = [with_tensors(change, *items) for items in zip(value, *others, strict=True)]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    return value
