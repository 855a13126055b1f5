"""Ranges of settings, checked where a method is made."""

from __future__ import annotations

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method


def at_least(method: Method, low: float, *fields: str) -> None:
    """Raise unless these fields are None or >= low."""
    for field in fields:
        value = getattr(method, field)
        if value is not None and value < low:
            wanted = "must not be negative" if low == 0 else f"must be at least {low:g}"
            raise IsoplastError(f"{field} of method {method.name} is {value}: it {wanted}")


def positive(method: Method, *fields: str) -> None:
    """Raise unless these fields are None or > 0."""
    for field in fields:
        value = getattr(method, field)
        if value is not None and value <= 0:
            raise IsoplastError(f"{field} of method {method.name} is {value}: it must be positive")


def fraction(method: Method, *fields: str, above_zero: bool = False, below_one: bool = False) -> None:
    """Raise unless these fields are in [0, 1], without its ends where they are excluded."""
    for field in fields:
        value = getattr(method, field)
        if not 0 <= value <= 1 or (above_zero and value == 0) or (below_one and value == 1):
            interval = ("(" if above_zero else "[") + "0, 1" + (")" if below_one else "]")
            raise IsoplastError(f"{field} of method {method.name} is {value}: it must be in {interval}")


def moments(method: Method, betas: tuple[float, float], eps: float) -> None:
    """Raise unless the settings that all Adams share are in range."""
    for index, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise IsoplastError(f"betas[{index}] of method {method.name} is {beta}: it must be in [0, 1)")
    if eps < 0:
        raise IsoplastError(f"eps of method {method.name} is {eps}: it must not be negative")
