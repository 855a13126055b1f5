"""The methods by name."""

from __future__ import annotations

from typing import Any, TypeVar

from isoplast._errors import unknown
from isoplast._options import converted
from isoplast.methods._protocol import Method

_METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])


def register(method: M) -> M:
    """Class decorator: makes a method known to `get` under its `name`."""
    _METHODS[method.name] = method
    return method


def names() -> list[str]:
    """List the methods that `get` knows.

    Example:
        >>> names()
        ['adam', 'adamo', 'adamw']
    """
    return sorted(_METHODS)


def get(name: str, **hyper: Any) -> Method:
    """Return a method with the given hyper-parameters; what is left out keeps its source's default.

    Args:
        name: one of `names()`.
        hyper: fields of the method.

    Raises:
        IsoplastError: for an unknown name or hyper-parameter (naming the nearest) and a value out of range.

    Example:
        >>> get("adamw", weight_decay=0.1)
        AdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.1)
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    method = _METHODS[name]
    return method(**converted(method, f"method {name}", hyper))
