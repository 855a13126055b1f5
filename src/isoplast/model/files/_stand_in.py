"""Stand-ins for the Python objects in a pickle: they keep what it says of an object and run nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_OWN_PARTS = ("_parameters", "_buffers", "_modules")


class StandIn:
    """An object of a class that is not read here.

    Attributes:
        name: of its class or function.
        arguments: what it would have been made of.
        entries: what was put into it under keys, as into a mapping.
        state: what it would have been set to.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.entries: dict[Any, Any] = {}
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<stand-in for {self.name}>"


class Name:
    """A class or function that is not read here; calling it makes a stand-in for what it would return.

    Attributes:
        name: with its module.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> StandIn:
        return StandIn(self.name, arguments)


def entries_of(value: Any) -> Mapping[Any, Any] | None:
    """The entries of a mapping, a sequence (by place), or of an object that has such; None for others.

    Of a pickled module these are its tensors under the names that its state dict would have.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if not isinstance(value, StandIn):
        return None
    if is_module(value):
        return _state_dict(value)
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    return {**(state if isinstance(state, dict) else {}), **value.entries}


def is_module(value: Any) -> bool:
    """Whether a value stands for an nn.Module."""
    state = value.state if isinstance(value, StandIn) else None
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in _OWN_PARTS)


def _state_dict(module: StandIn) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    waiting, seen = [("", module)], set[int]()
    while waiting:
        prefix, one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        for part in ("_parameters", "_buffers"):
            for name, value in one.state[part].items():
                if isinstance(value, Tensor) and isinstance(name, str):
                    found[f"{prefix}{name}"] = value
        inner = [
            (f"{prefix}{name}.", child) for name, child in one.state["_modules"].items() if is_module(child)
        ]
        waiting[:0] = inner
    return found
