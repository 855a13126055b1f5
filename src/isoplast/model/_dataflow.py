"""Which values of a running network are features bent by a nonlinearity that no module or function names.

Each value that comes from a layer is followed from function to function. What a function that is not linear
in the features returns is a candidate; it is an activation once a layer reads it. So a gate of attention,
the root in a normalisation or a loss is none, however it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from isoplast._core import layer_kinds as kinds


@dataclasses.dataclass(eq=False)
class Candidate:
    """What a function made of features.

    Attributes:
        place: the running call of a module that it happened in.
        function: its name.
        tensor: what it returned.
        dim: the dimension of the units in it.
        layer: name of the layer that ran last before it.
        done: whether it was reported, or became part of something that was.
    """

    place: Any
    function: str
    tensor: Tensor
    dim: int
    layer: str
    done: bool = False


@dataclasses.dataclass(frozen=True)
class Features:
    """What is known of a value.

    Attributes:
        layers: numbers of the calls of layers that it comes from.
        watched: whether an activation behind them was reported.
        pending: the candidates in it, which were not.
    """

    layers: frozenset[int]
    watched: bool = False
    pending: tuple[Candidate, ...] = ()


class Dataflow:
    """The features among the values of a running network."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()
        self._calls = 0

    @property
    def begun(self) -> bool:
        """Whether a layer has run."""
        return self._calls > 0

    def of(self, tensor: Any) -> Features | None:
        """What is known of a value."""
        if not isinstance(tensor, Tensor) or tensor not in self._known:
            return None
        found: Features = self._known[tensor]
        return found

    def start(self, values: Any, *, watched: bool = False) -> None:
        """Follow values as the features of a new layer."""
        self._calls += 1
        for tensor in tensors(values):
            self._known[tensor] = Features(frozenset([self._calls]), watched)

    def watch(self, tensor: Tensor) -> None:
        """Note that a value was reported, with all that it was made from."""
        found = self.of(tensor) or Features(frozenset())
        for candidate in found.pending:
            candidate.done = True
        self._known[tensor] = dataclasses.replace(found, watched=True, pending=())

    def overwritten(self, function: str, args: Sequence[Any]) -> Iterator[Candidate]:
        """The candidates that a function is about to overwrite."""
        if args and (function == "__setitem__" or (function.endswith("_") and not function.startswith("__"))):
            found = self.of(args[0])
            yield from (c for c in (found.pending if found else ()) if c.tensor is args[0] and not c.done)

    def read(self, values: Any) -> Iterator[Candidate]:
        """The candidates in values that a layer reads."""
        for tensor in tensors(values):
            found = self.of(tensor)
            yield from (candidate for candidate in (found.pending if found else ()) if not candidate.done)

    def follow(self, function: str, given: Any, output: Any, make: Mapping[str, Any]) -> None:
        """Note what a function has made of features.

        Args:
            function: its name.
            given: its arguments.
            output: what it returned.
            make: the fields of a candidate that the caller knows.
        """
        known = [(tensor, found) for tensor in tensors(given) if (found := self.of(tensor))]
        if function in kinds.MAP_FUNCTIONS:
            self._map(function, given, output, len(known))
        elif known and function not in kinds.UNRELATED_FUNCTIONS:
            results = tensors(given)[:1] if function == "__setitem__" else tensors(output)
            for result in results:
                self._known[result] = self._after(function, known, result, make)

    def _map(self, function: str, given: Any, output: Any, features: int) -> None:
        """A product with a matrix is a layer, unless both sides are features: the scores of attention."""
        if features < 2 or any(is_parameter(tensor) for tensor in tensors(given)):
            self.start(output)

    def _after(
        self, function: str, known: list[tuple[Tensor, Features]], result: Tensor, make: Mapping[str, Any]
    ) -> Features:
        # Factors that are spread over the units are gates, scales and statistics: linear in what they scale.
        same = [(tensor, found) for tensor, found in known if tensor.shape == result.shape]
        if not same or function in kinds.LINEAR_FUNCTIONS | kinds.JOINTS:
            here = _joined([found for _, found in known])
            parts = function in kinds.JOINTS and all(found.pending for _, found in known)
            return self._bent(function, result, here, make) if parts and _of_one_layer(known) else here
        here = _joined([found for _, found in same])
        decides = any(tensor.dtype == torch.bool for tensor, _ in same)
        if function in kinds.SELECTIONS and not decides:
            return here
        if function in kinds.LINEAR_SUMS:
            bent = len(same) > 1 and here.pending and _of_one_layer(same)
            return self._bent(function, result, here, make) if bent else here
        if function in kinds.SCALINGS and len(same) == 1:
            return here
        scaled = function in kinds.SCALINGS and any(found.watched for _, found in same)
        return dataclasses.replace(here, watched=True) if scaled else self._bent(function, result, here, make)

    def _bent(self, function: str, result: Tensor, here: Features, make: Mapping[str, Any]) -> Features:
        if here.watched or not result.is_floating_point():
            return here
        return dataclasses.replace(here, pending=(Candidate(function=function, tensor=result, **make),))


def _joined(found: Sequence[Features]) -> Features:
    layers = frozenset(layer for one in found for layer in one.layers)
    pending = tuple(dict.fromkeys(candidate for one in found for candidate in one.pending))
    return Features(layers, all(one.watched for one in found), pending)


def _of_one_layer(known: Sequence[tuple[Tensor, Features]]) -> bool:
    """Whether values are made of the same units."""
    return len({found.layers for _, found in known}) == 1


def tensors(values: Any) -> list[Tensor]:
    """The tensors in arguments or results, down to lists in lists."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, tuple | list):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def is_parameter(tensor: Any) -> bool:
    """Whether a value is a weight instead of features."""
    return isinstance(tensor, nn.Parameter) or isinstance(getattr(tensor, "_base", None), nn.Parameter)
