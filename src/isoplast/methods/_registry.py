"""The methods by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.registry import Registry
from isoplast._core.settings import converted
from isoplast.methods._combination import Combination, refuse_twice
from isoplast.methods._protocol import Method

METHODS: Registry[Method] = Registry("method", Method, "isoplast.methods")
register = METHODS.register


def names(*, installed: bool = False) -> list[str]:
    """List the methods that `get` knows.

    Args:
        installed: whether to list those of other installed packages too (entry points of the group
            `isoplast.methods`).

    Example:
        >>> "adamo" in names()
        True
    """
    return METHODS.names(installed=installed)


def get(name: str | Method, **settings: Any) -> Method:
    """Return a method with the given settings; what is left out keeps its source's default.

    Args:
        name: one of `names()`, the name of an entry point in the group `isoplast.methods`, or
            "package.module:Name" for a class of anybody's; or several of these joined by "+". A method that
            is an object already is returned as it is.
        settings: fields of the method; of a combination, fields of its parts. One that several parts have is
            written with the part's name in front, as in `get("l2init+shrink", **{"l2init.strength": 1e-2})`.

    Raises:
        IsoplastError: for an unknown name or setting (naming the nearest), a value out of range, a class that
            cannot be imported or is no method, and for parts of a combination that would fight.

    Example:
        >>> get("adamw", weight_decay=0.1)
        AdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.1)
    """
    if isinstance(name, Method):
        if settings:
            raise IsoplastError(
                f"method {name.name} is an object with its settings: give {min(settings)} to it"
            )
        return name
    if not isinstance(name, str):
        raise IsoplastError(f"method is {name!r}: give a name, or an object of a class derived from Method")
    kinds = [METHODS.find(part) for part in name.split("+")]
    if len(kinds) == 1:
        return kinds[0](**converted(kinds[0], f"method {kinds[0].name}", settings))
    refuse_twice([kind.name for kind in kinds])
    return Combination(tuple(_part(kind, kinds, name, settings) for kind in kinds))


def _part(kind: type[Method], kinds: list[type[Method]], name: str, settings: dict[str, Any]) -> Method:
    own: dict[str, Any] = {}
    for key, value in settings.items():
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
