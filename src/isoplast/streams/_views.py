"""What a task is: maps into data that all tasks share, and the tensors they stand for."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isoplast.streams._objectives import Objective


@dataclass(frozen=True, eq=False)
class View:
    r"""Some rows of a shared tensor, their values in another order. Only the maps belong to it.

    .. math:: v_{ij} = s_{\mathrm{rows}_i, \mathrm{features}_j}

    Args:
        source: (n, ...), shared: never written.
        rows: int64 (m,), which of its rows; None: all.
        features: int64 (d,) with d values to a row: value j of a row is value `features[j]` of the source's
            row, both counted in row-major order; None: as they are.

    Example:
        >>> rows, features = torch.tensor([2, 0]), torch.tensor([1, 0])
        >>> View(torch.arange(6).reshape(3, 2), rows, features).tensor()
        tensor([[5, 4],
                [1, 0]])
    """

    source: Tensor = field(repr=False)
    rows: Tensor | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source if self.rows is None else self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.source.shape[1:])

    def take(self, rows: Tensor) -> View:
        """Some of these rows, int64 (k,)."""
        return View(self.source, rows if self.rows is None else self.rows[rows], self.features)

    def tensor(self, source: Tensor | None = None) -> Tensor:
        """The values, (m, ...): the source itself where nothing is mapped.

        Args:
            source: a copy of the source on another device.
        """
        found = self.source if source is None else source
        if self.rows is not None:
            found = found[self.rows.to(found.device)]
        if self.features is not None:
            flat = found.reshape(len(found), math.prod(self.shape))
            found = flat[:, self.features.to(found.device)].reshape(len(found), *self.shape)
        return found


class Task:
    """One thing to learn.

    Args:
        index: its place in the sequence, from 0.
        inputs: (n, ...), a tensor or a view. Tasks may share tensors: read them, never write into them.
        targets: what the sequence's objective takes: int64 (n,) for classification, floating (n, k) for
            regression, int64 (n, length) for language.
        test_inputs, test_targets: held-out examples where the sequence has any.
        objective: loss and score of this task, where they are not those of the sequence.

    Attributes:
        examples, test_examples: the inputs as views.
    """

    def __init__(
        self,
        index: int,
        inputs: Tensor | View,
        targets: Tensor,
        test_inputs: Tensor | View | None = None,
        test_targets: Tensor | None = None,
        *,
        objective: Objective | None = None,
    ) -> None:
        self.index = index
        self.examples = _view(inputs)
        self.targets = targets
        self.test_examples = None if test_inputs is None else _view(test_inputs)
        self.test_targets = test_targets
        self.objective = objective

    @functools.cached_property
    def inputs(self) -> Tensor:
        """The inputs, (n, ...)."""
        return self.examples.tensor()

    @functools.cached_property
    def test_inputs(self) -> Tensor | None:
        """The held-out inputs, or None."""
        return None if self.test_examples is None else self.test_examples.tensor()

    def __repr__(self) -> str:
        held_out = 0 if self.test_examples is None else len(self.test_examples)
        return f"Task({self.index}, {len(self.targets)} examples, {held_out} held out)"


def _view(inputs: Tensor | View) -> View:
    return inputs if isinstance(inputs, View) else View(inputs)


def joined(first: View, second: View, chosen: Tensor) -> View:
    """Rows of two views: `chosen`, bool (m,), takes the second's row; of views of unlike length both parts.

    Args:
        first, second: views of rows of the same shape.
        chosen: (max of both lengths,), for each place whether the second's row stands there.
    """
    (kept,) = (~chosen[: len(first)]).nonzero(as_tuple=True)
    (taken,) = chosen[: len(second)].nonzero(as_tuple=True)
    parts = first.take(kept), second.take(taken)
    places = None if len(first) != len(second) else torch.cat([kept, taken]).argsort()
    if first.source is second.source and first.features is None and second.features is None:
        rows = torch.cat([part.rows for part in parts if part.rows is not None])
        return View(first.source, rows if places is None else rows[places])
    values = torch.cat([part.tensor() for part in parts])
    return View(values, places)
