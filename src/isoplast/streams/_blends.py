"""A task that stands between two others."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.streams._numbers import uniform
from isoplast.streams._objectives import Classification, Objective
from isoplast.streams._views import Task, View, joined

_PARTS = (1001, 1002)  # of the random bits: which examples have changed, in training and held out
_Part = tuple[View, Tensor]


def mixed(first: Task, second: Task, share: float, source: Any, change: int) -> Task:
    """The task that has this share of its examples from the second; see `Stream`.

    Args:
        first, second: the two.
        share: in (0, 1).
        source: the sequence, whose bits say which examples change first.
        change: number of the change, for these bits.
    """
    parts: list[Any] = []
    for number, two in zip(_PARTS, _pairs(first, second), strict=True):
        if two is None:
            parts += [None, None]
            continue
        (before, old), (after, new) = two
        bits = source.bits(change, max(len(before), len(after)), number)
        chosen = torch.from_numpy(uniform(bits) < share)
        parts += [joined(before, after, chosen), joined(View(old), View(new), chosen).tensor()]
    return Task(first.index, *parts, objective=_both(first.objective, second.objective))


def interpolated(first: Task, second: Task, share: float) -> Task:
    """The task whose inputs, and numbers to be predicted, are on the line between those of two tasks.

    Args:
        first, second: the two, with the same examples in the same order.
        share: in (0, 1).

    Raises:
        IsoplastError: inputs are whole numbers, or classes change.
    """
    parts: list[Any] = []
    for two in _pairs(first, second):
        if two is None:
            parts += [None, None]
            continue
        (before, old), (after, new) = two
        same = old.shape == new.shape and (old.is_floating_point() or torch.equal(old, new))
        if not same or not before.source.is_floating_point():
            raise IsoplastError(
                "tasks with other classes, or inputs that are whole numbers, cannot be interpolated: "
                "set blend: mixture"
            )
        targets = weighted(old, new, share) if old.is_floating_point() else old
        parts += [View(weighted(before.tensor(), after.tensor(), share)), targets]
    return Task(first.index, *parts, objective=_both(first.objective, second.objective))


def weighted(first: Tensor, second: Tensor, share: float) -> Tensor:
    """(1 - share) first + share second, each rounded by itself, so that no machine fuses the sum."""
    return first * (1 - share) + second * share


def _pairs(first: Task, second: Task) -> list[tuple[_Part, _Part] | None]:
    """The examples of both, in training and held out; None where one has none."""
    found: list[tuple[_Part, _Part] | None] = [
        ((first.examples, first.targets), (second.examples, second.targets)),
        None,
    ]
    before, old, after, new = (
        first.test_examples,
        first.test_targets,
        second.test_examples,
        second.test_targets,
    )
    if before is not None and old is not None and after is not None and new is not None:
        found[1] = ((before, old), (after, new))
    return found


def _both(first: Objective | None, second: Objective | None) -> Objective | None:
    """Where outputs are masked, those that either task needs."""
    if isinstance(first, Classification) and isinstance(second, Classification):
        if first.active is None or second.active is None:
            return dataclasses.replace(first, active=None)
        return dataclasses.replace(first, active=tuple(sorted({*first.active, *second.active})))
    return first
