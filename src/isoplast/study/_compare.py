"""Written specifications side by side: what they have in common, and what differs."""

from __future__ import annotations

import json
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


def by_problem(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The runs of each problem, a stream with its data: scores of one say nothing of those of another.

    Args:
        specs: written specifications by run.

    Returns:
        The runs by the problem in words: the names of stream and data, with what tells it from the others.

    Example:
        >>> specs = {run: {"stream": {"name": "s", "tasks": tasks}} for run, tasks in (("a", 2), ("b", 3))}
        >>> by_problem(specs)
        {'s, tasks 2': ['a'], 's, tasks 3': ['b']}
    """
    groups: dict[str, list[str]] = {}
    for run, spec in specs.items():
        key = json.dumps([spec["stream"], spec.get("data")], sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    found = [specs[runs[0]] for runs in groups.values()]
    settings = [flat_settings({key: one[key] for key in ("stream", "data") if one.get(key)}) for one in found]
    names = {("stream",), ("data",)}
    told = [path for path in varying(settings) if path not in names]
    words = [
        ", ".join(
            [
                *(str(one[path]) for path in sorted(names, reverse=True) if path in one),
                *(f"{path[-1]} {one[path]}" for path in told if one.get(path) is not None),
            ]
        )
        for one in settings
    ]
    return dict(zip(words, groups.values(), strict=True))
