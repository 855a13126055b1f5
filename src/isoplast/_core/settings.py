"""Settings as plain values: checked against the fields of a dataclass, in one canonical form."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import shown

Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""Names and values, sorted by name: the hashable form of a mapping of settings."""

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a word",
    type(None): "nothing",
}


def converted(cls: type, owner: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the fields of a dataclass want them: 1 becomes 1.0 for a float, a list a tuple, a
    number of numpy or torch one of Python.

    So that equal settings are equal values however they were written, and a wrong one is found before
    anything starts.

    Args:
        cls: a dataclass whose fields are annotated with bool, int, float, str, None, Literal, fixed-length
            tuples and unions of them.
        owner: what has these settings, for the error message ("method adamo").
        values: some of the fields by name.

    Raises:
        IsoplastError: for a name that is no field, and for a value of another type or not finite.

    Example:
        >>> @dataclasses.dataclass
        ... class Adam:
        ...     eps: float = 1e-8
        >>> converted(Adam, "method adam", {"eps": 1})
        {'eps': 1.0}
        >>> converted(Adam, "method adam", {"eps": np.logspace(-8, -6, 3)[1]})
        {'eps': 1e-07}
    """
    hints = _hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for name in values:
        if not known:
            raise IsoplastError(f"{owner} has no settings: leave {shown(name)} out")
        if name not in known:
            raise unknown(f"setting of {owner}", name, known)
    return {name: _convert(value, hints[name], f"{name} of {owner}") for name, value in values.items()}


def check_fields(instance: Any, owner: str) -> None:
    """Convert all fields of a (frozen) dataclass instance in place; for its `__post_init__`."""
    fields = [field.name for field in dataclasses.fields(instance) if field.init]
    values = {name: getattr(instance, name) for name in fields}
    for name, value in converted(type(instance), owner, values).items():
        object.__setattr__(instance, name, value)


def settings_of(instance: Any) -> Settings:
    """All settings of a dataclass instance in canonical form.

    A setting that is None by default and None here is left out, so that a new optional setting does not
    change what older specifications are called.
    """
    fields = [field for field in dataclasses.fields(instance) if field.init]
    values = {field.name: getattr(instance, field.name) for field in fields}
    absent = {field.name for field in fields if values[field.name] is None and field.default is None}
    return tuple(sorted((name, value) for name, value in values.items() if name not in absent))


def takes_list(cls: type, name: str) -> bool:
    """Whether a field of a dataclass takes a list of values; False for a name that is no field."""
    return any(get_origin(choice) is tuple for choice in _choices(_hints(cls).get(name)))


def plain(value: Any) -> Any:
    """A number or vector of numpy or torch as Python writes it; anything else as it is.

    So that what came out of a sweep (`np.logspace`, a scheduler) is hashed, compared and saved like the
    number that somebody typed.

    Example:
        >>> plain(np.float64(0.5)), plain(np.bool_(True)), plain(np.arange(2)), plain("word")
        (0.5, True, [0, 1], 'word')
    """
    if isinstance(value, np.generic | np.ndarray) and value.ndim <= 1:
        return float(value) if isinstance(value, np.longdouble) else value.tolist()
    if isinstance(value, Tensor) and value.ndim <= 1 and not value.is_meta:
        return value.detach().tolist()
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _convert(value: Any, hint: Any, what: str) -> Any:
    value = plain(value)
    for choice in _choices(hint):
        fits, result = _fit(value, choice)
        if fits:
            return result
    wanted = " or ".join(_describe(choice) for choice in _choices(hint) if choice is not type(None))
    raise IsoplastError(f"{what} is {shown(value)}: it must be {wanted}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fit(value: Any, kind: Any) -> tuple[bool, Any]:
    value = plain(value)
    if get_origin(kind) is Literal:
        # 1 equals True and 1.0 for Python, but they are three settings.
        return any(value == one and type(value) is type(one) for one in get_args(kind)), value
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            return False, value
        fits = [_fit(item, item_kind) for item, item_kind in zip(value, kinds, strict=True)]
        return all(good for good, _ in fits), tuple(item for _, item in fits)
    if kind is float:
        return _fit_float(value)
    return type(value) is kind, value


def _fit_float(value: Any) -> tuple[bool, Any]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False, value
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False, value
    return math.isfinite(number), number


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(value) for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))}"
    return _WORDS[kind]
