"""Ranges of settings, checked where a dataclass of settings is made."""

from __future__ import annotations

from typing import Any

from isoplast._core.errors import IsoplastError


def at_least(instance: Any, owner: str, low: float, *fields: str) -> None:
    """Raise unless these fields are None or >= low.

    Args:
        instance: what has the fields.
        owner: who that is, for the message ("method adamo").
        low: the least value.
        fields: their names.
    """
    for field in fields:
        value = getattr(instance, field)
        if value is not None and value < low:
            wanted = "must not be negative" if low == 0 else f"must be at least {low:g}"
            raise IsoplastError(f"{field} of {owner} is {value}: it {wanted}")


def positive(instance: Any, owner: str, *fields: str) -> None:
    """Raise unless these fields are None or > 0."""
    for field in fields:
        value = getattr(instance, field)
        if value is not None and not value > 0:
            raise IsoplastError(f"{field} of {owner} is {value}: it must be positive")


def fraction(instance: Any, owner: str, *fields: str, below_one: bool = False) -> None:
    """Raise unless these fields are in [0, 1], or in [0, 1)."""
    for field in fields:
        value = getattr(instance, field)
        if not 0 <= value <= 1 or (below_one and value == 1):
            interval = "[0, 1)" if below_one else "[0, 1]"
            raise IsoplastError(f"{field} of {owner} is {value}: it must be in {interval}")
