"""How differently a network answers to neighbouring inputs: what its task asks of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_FEWEST, _MOST = 32, 512  # inputs


@torch.no_grad()
def roughness(inputs: Any, outputs: Tensor | None) -> float | None:
    r"""The share of inputs whose nearest neighbour gets another answer, over that of any two inputs.

    .. math:: r = \frac{P(a(x) \ne a(x_{nn}))}{P(a(x) \ne a(x'))}, \qquad
              r = \frac{E (f(x) - f(x_{nn}))^2}{2 \, \mathrm{Var} f} \ \text{for a single output}

    with the largest output a and Euclidean distances between the inputs: about 0 for a function that
    neighbours tell, about 1 where labels have to be memorised one by one.

    Args:
        inputs: a floating tensor (n, ...).
        outputs: of a network, (n, k).

    Returns:
        None for other inputs, fewer than 32, or outputs that are all the same.
    """
    neighbours = None if outputs is None else nearest(inputs)
    return None if neighbours is None or outputs is None else answers_apart(outputs, neighbours)


def nearest(inputs: Any) -> Tensor | None:
    """By row, the other row that is nearest among up to 512; None for what is no 32 rows of numbers."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or len(inputs) < _FEWEST:
        return None
    places = inputs[:_MOST].detach().flatten(1).double().cpu()
    return torch.cdist(places, places).fill_diagonal_(math.inf).argmin(1)


@torch.no_grad()
def answers_apart(outputs: Tensor, neighbours: Tensor) -> float | None:
    """The roughness of outputs (n, k), given the nearest neighbour of each input."""
    if outputs.ndim > 2 or len(outputs) < len(neighbours):
        return None
    count = len(neighbours)
    found = outputs[:count].detach().reshape(count, -1).double().cpu()
    if found.shape[1] == 1:
        spread = 2 * float(found.var())
        return float((found - found[neighbours]).square().mean()) / spread if spread > 0 else None
    answers = found.argmax(1)
    shares = torch.bincount(answers).double() / count
    chance = 1 - float(shares.square().sum())
    return float((answers != answers[neighbours]).double().mean()) / chance if chance > 0 else None
