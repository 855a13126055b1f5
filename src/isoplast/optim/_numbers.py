"""Settings as Python's own numbers, whatever kind of number they were given as.

numpy's numbers (of a sweep, of a scheduler) would end up in checkpoints that
``torch.load(weights_only=True)`` refuses.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's numbers and tuples, also inside tuples and lists."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
        return plain(tuple(value)) if isinstance(value, list) else value
    if type(value) in (tuple, list):
        return type(value)(plain(item) for item in value)
    return value


def plain_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a parameter group with :func:`plain` settings; its parameters are the same objects."""
    return {key: value if key.startswith("param") else plain(value) for key, value in group.items()}


def plain_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an optimizer's state dict with :func:`plain` settings in its groups."""
    return {**state_dict, "param_groups": [plain_settings(group) for group in state_dict["param_groups"]]}


def number(name: str, value: Any) -> float:
    """A setting as a float.

    Raises:
        TypeError: for what is no real number, or more than one.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    value = plain(value)
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return float(value)


def whole(value: Any, least: int) -> int | None:
    """A setting as an int, or None if it is no whole number >= least (True and 2.0 are none)."""
    value = plain(value)
    return value if type(value) is int and value >= least else None


def blocks(value: Any) -> int | tuple[int, ...]:
    """A split as a number of blocks or a tuple of row counts; negative ones are blocks of columns.

    Raises:
        ValueError: for anything else, and for counts of different signs.
    """
    value = plain(value)
    if type(value) is int and value:
        return value
    counts = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    whole_numbers = all(type(count) is int for count in counts)
    if not counts or not whole_numbers or (min(counts) < 1 and max(counts) > -1):
        raise ValueError(
            f"Invalid isometry_split value: {value} (a number of blocks, or their row counts, >= 1; all "
            "negative for blocks of columns)"
        )
    return counts
