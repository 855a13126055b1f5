"""Written specifications side by side: what they have in common, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

SettingPath = tuple[str, ...]
Key = TypeVar("Key")

# The seed tells the runs of a method apart, the label is a name: neither is a setting of the method.
_NOT_SETTINGS = {("seed",), ("label",)}


def flat_settings(spec: Mapping[str, Any]) -> dict[SettingPath, Any]:
    """The settings of a written specification by their path, all but its seed and its label.

    A name stands for what holds it: ("method", "name") becomes ("method",).

    Example:
        >>> flat_settings({"method": {"name": "adamo", "isometry": 0.1}, "lr": 1e-3, "seed": 0})
        {('method',): 'adamo', ('method', 'isometry'): 0.1, ('lr',): 0.001}
    """
    return {path: value for path, value in _flat(spec, ()).items() if path not in _NOT_SETTINGS}


def _flat(spec: Mapping[str, Any], prefix: SettingPath) -> dict[SettingPath, Any]:
    found: dict[SettingPath, Any] = {}
    for key, value in spec.items():
        path = prefix if key == "name" and prefix else (*prefix, key)
        found |= _flat(value, path) if isinstance(value, Mapping) else {path: value}
    return found


def varying(settings: Sequence[Mapping[Key, Any]]) -> list[Key]:
    """The keys whose values are not the same in all settings, in order of appearance."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
