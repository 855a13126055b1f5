"""The methods by name."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.settings import converted
from isoplast.methods._combination import Combination
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
        >>> "adamo" in names()
        True
    """
    return sorted(_METHODS)


def get(name: str, **hyper: Any) -> Method:
    """Return a method with the given hyper-parameters; what is left out keeps its source's default.

    Args:
        name: one of `names()`, or several of them joined by "+".
        hyper: fields of the method; of a combination, fields of its parts. One that several parts have is
            written with the part's name in front, as in `get("l2init+shrink", **{"l2init.strength": 1e-2})`.

    Raises:
        IsoplastError: for an unknown name or hyper-parameter (naming the nearest), a value out of range, and
            for parts of a combination that would fight.

    Example:
        >>> get("adamw", weight_decay=0.1)
        AdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.1)
    """
    kinds = [_kind(part) for part in name.split("+")]
    if len(kinds) == 1:
        return kinds[0](**converted(kinds[0], f"method {name}", hyper))
    twice = next((kind.name for index, kind in enumerate(kinds) if kind in kinds[:index]), None)
    if twice is not None:
        raise IsoplastError(f"method {name!r} names {twice} twice: once is enough")
    return Combination(tuple(_part(kind, kinds, name, hyper) for kind in kinds))


def _kind(name: str) -> type[Method]:
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]


def _part(kind: type[Method], kinds: list[type[Method]], name: str, hyper: dict[str, Any]) -> Method:
    own: dict[str, Any] = {}
    for key, value in hyper.items():
        owners = _owners(key, kinds)
        if not owners:
            known = [field for other in kinds for field in _fields(other)]
            raise unknown(f"setting of method {name}", key, known)
        if len(owners) > 1:
            written = " or ".join(f"{owner.name}.{key}" for owner in owners)
            raise IsoplastError(f"{key} of method {name} could be that of several parts: write {written}")
        if owners[0] is kind:
            own[key.rpartition(".")[2]] = value
    return kind(**converted(kind, f"method {kind.name}", own))


def _owners(key: str, kinds: list[type[Method]]) -> list[type[Method]]:
    """The parts that a setting can be meant for."""
    part, _, field = key.rpartition(".")
    return [kind for kind in kinds if part in ("", kind.name) and field in _fields(kind)]


def _fields(kind: type[Method]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]
