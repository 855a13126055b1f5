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


def blended(first: Task, second: Task, share: float, source: Any, change: int, linear: bool) -> Task:
    """The task that has gone this share of the way from one to another; see `Stream`.

    Args:
        first, second: the two.
        share: in (0, 1).
        source: the sequence, whose bits say which examples change first.
        change: number of the change, for these bits.
        linear: whether inputs are interpolated; otherwise examples are mixed.

    Raises:
        IsoplastError: the two cannot be interpolated.
    """
    mix = _interpolated if linear else _mixed
    parts: list[Any] = []
    pairs = (
        (first.examples, first.targets, second.examples, second.targets),
        (first.test_examples, first.test_targets, second.test_examples, second.test_targets),
    )
    for part, (before, before_targets, after, after_targets) in zip(_PARTS, pairs, strict=True):
        if before is None or after is None or before_targets is None or after_targets is None:
            parts += [None, None]
            continue
        size = max(len(before), len(after))
        chosen = torch.from_numpy(uniform(source.bits(change, size, part)) < share)
        parts += mix(before, before_targets, after, after_targets, chosen, share)
    objective = _both(first.objective, second.objective)
    return Task(first.index, *parts, objective=objective)


def _mixed(
    first: View, first_targets: Tensor, second: View, second_targets: Tensor, chosen: Tensor, share: float
) -> tuple[View, Tensor]:
    targets = joined(View(first_targets), View(second_targets), chosen).tensor()
    return joined(first, second, chosen), targets


def _interpolated(
    first: View, first_targets: Tensor, second: View, second_targets: Tensor, chosen: Tensor, share: float
) -> tuple[View, Tensor]:
    """Both parts are rounded by themselves, so that no machine fuses the sum."""
    same = first_targets.shape == second_targets.shape
    if not same or (not first_targets.is_floating_point() and not torch.equal(first_targets, second_targets)):
        raise IsoplastError("tasks with other classes cannot be interpolated: set blend: mixture")
    inputs = first.tensor() * (1 - share) + second.tensor() * share
    if not first_targets.is_floating_point():
        return View(inputs), first_targets
    return View(inputs), first_targets * (1 - share) + second_targets * share


def _both(first: Objective | None, second: Objective | None) -> Objective | None:
    """Where outputs are masked, those that either task needs."""
    if isinstance(first, Classification) and isinstance(second, Classification):
        if first.active is None or second.active is None:
            return dataclasses.replace(first, active=None)
        return dataclasses.replace(first, active=tuple(sorted({*first.active, *second.active})))
    return first
