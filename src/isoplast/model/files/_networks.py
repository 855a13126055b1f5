"""Which networks a file holds: several may lie in it, beside averages of them and much that is no network."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoplast.model.files._stand_in import StandIn, entries_of, is_module

_DEPTH = 6  # of nested mappings: no trainer nests deeper
# Optimizers' tensors have the shapes of weights.
_BESIDE = re.compile(r"optim|sched|scaler|rng|replay|buffer|callback|grad|momentum", re.IGNORECASE)
_MOMENTS = frozenset(
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "sum", "z", "n")
)
_AVERAGE = re.compile(r"(^|_|\b)(ema|averaged?|avg|swa|shadow|teacher|target)(_|\b|$)", re.IGNORECASE)
_MODEL_WORDS = ("model", "state_dict", "model_state_dict", "module", "net", "network")
_WEIGHT = re.compile(r"(weight|kernel|lora_[ab])", re.IGNORECASE)
_PACKED = re.compile(r"(^|[._])(q?weight|w)(_packed|_q)?$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Network:
    """The weights of one network in a file.

    Attributes:
        where: the keys that lead to it, such as ("trainer", "model"); empty where it is the whole file.
        state: names and values; editing these tensors edits what was read.
        average_of: where the network lies that this is a running average of, or None.
    """

    where: tuple[Any, ...]
    state: dict[str, Any]
    average_of: tuple[Any, ...] | None = None

    @property
    def name(self) -> str:
        """The keys that lead to it as one word; empty where it is the whole file."""
        return "/".join(map(str, self.where))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `state` by name."""
        return {name: value for name, value in self.state.items() if isinstance(value, Tensor)}

    @property
    def unread(self) -> dict[str, str]:
        """Weights whose numbers cannot be measured, by name, with the reason."""
        found = {name: reason for name, value in self.state.items() if (reason := _hidden(name, value))}
        return dict(sorted(found.items()))

    @property
    def measured(self) -> dict[str, Any]:
        """The state without weights that cannot be measured, and without their scales and zeros."""
        owners = {_owner(name) for name in self.unread}
        return {name: value for name, value in self.state.items() if _owner(name) not in owners}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _hidden(name: str, value: Any) -> str:
    """Why a weight cannot be measured, or nothing."""
    if isinstance(value, StandIn):
        kind = value.name.rpartition(".")[2]
        return f"a {kind}, perhaps a part of a weight" if _WEIGHT.search(name) else ""
    if not isinstance(value, Tensor) or value.ndim < 2:
        return ""
    if value.is_meta:
        return "without numbers (device meta)"
    if value.layout != torch.strided:
        return f"stored as {str(value.layout).removeprefix('torch.')}"
    if value.is_quantized or (value.is_floating_point() and value.dtype.itemsize == 1):
        return f"quantised to {str(value.dtype).removeprefix('torch.')}"
    whole = (
        not value.is_floating_point()
        and not value.is_complex()
        and value.dtype not in (torch.int64, torch.bool)
    )
    return f"packed in {str(value.dtype).removeprefix('torch.')}" if whole and _PACKED.search(name) else ""


def find_networks(contents: Any) -> list[Network]:
    """All networks in the contents of a file, those with the most numbers first; averages behind the others.

    Mappings, sequences and stand-ins are looked into. A mapping counts that holds a matrix named like a
    weight, or, where none does, the one with the most numbers; the states of optimizers do not.
    """
    found = [(where, state) for where, state in _states(contents) if any(map(_is_matrix, state.values()))]
    named = [one for one in found if any(_is_weight(*item) for item in one[1].items())]
    chosen = named or sorted(found, key=lambda one: -_size(one[1]))[:1]
    networks = _without_averages([Network(where, state) for where, state in chosen])
    return sorted(
        networks, key=lambda one: (one.average_of is not None, not _is_model(one), -_size(one.state))
    )


def _is_model(network: Network) -> bool:
    return bool(network.where) and network.where[-1] in _MODEL_WORDS


def _is_matrix(value: Any) -> bool:
    if isinstance(value, StandIn):
        return "Tensor" in value.name
    return isinstance(value, Tensor) and value.ndim > 1


def _is_weight(name: str, value: Any) -> bool:
    return bool(_is_matrix(value) and _WEIGHT.search(name))


def _size(state: Mapping[str, Any]) -> int:
    return sum(value.numel() for value in state.values() if isinstance(value, Tensor))


def _states(contents: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """All mappings from names to tensors with the keys that lead to them, each once, the outermost first."""
    waiting: deque[tuple[tuple[Any, ...], Any]] = deque([((), contents)])
    seen: set[int] = set()
    while waiting:
        where, value = waiting.popleft()
        entries = entries_of(value)
        if entries is None or id(value) in seen or len(where) > _DEPTH:
            continue
        seen.add(id(value))
        state = {key: one for key, one in entries.items() if isinstance(key, str)}
        names = [key for key, one in state.items() if isinstance(one, Tensor)]
        if state and not _MOMENTS.issuperset(names):
            yield where, state
        if not is_module(value):
            waiting.extend(
                ((*where, key), one)
                for key, one in entries.items()
                if not isinstance(one, Tensor) and not (isinstance(key, str) and _BESIDE.search(key))
            )


def _without_averages(networks: list[Network]) -> list[Network]:
    """Mark those that are called averages and have the tensors of another network."""
    trained = [one for one in networks if not _is_average(one)]
    found = list(trained)
    for average in networks:
        if average in trained:
            continue
        same = [
            one for one in trained if _shapes(one) <= _shapes(average) or _shapes(average) <= _shapes(one)
        ]
        of = same[0].where if same else None
        found.append(Network(average.where, average.state, of))
    return found


def _is_average(network: Network) -> bool:
    counted = {"n_averaged", "num_updates"} & network.state.keys()
    return bool(counted) or any(isinstance(key, str) and _AVERAGE.search(key) for key in network.where)


def _shapes(network: Network) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the matrices, whatever stands before the names."""
    return frozenset(
        (name.removeprefix("module."), tuple(value.shape))
        for name, value in network.tensors.items()
        if value.ndim > 1
    )
