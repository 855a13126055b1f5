"""The training step before 0.1, for code that calls it. Goes with 0.2."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method
from isoplast.methods._training import Training

_TRAININGS: WeakKeyDictionary[Optimizer, Training] = WeakKeyDictionary()


def train_step(
    method: Method,
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[Any, Any], Tensor],
    batch: tuple[Any, Any],
    step: int,
) -> Tensor:
    """One training step of a method on a batch; `isoplast.methods.training` is the way to do it.

    Args:
        method, model, optimizer: what `Training` is made of.
        loss: the task loss of (outputs, targets).
        batch: inputs and targets.
        step: not used: the training counts its steps.

    Returns:
        The task loss before the step, detached.
    """
    if optimizer not in _TRAININGS:
        message = "train_step goes with isoplast 0.2: use isoplast.methods.training(...) and its step(...)"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        _TRAININGS[optimizer] = Training(method, model, optimizer)
    inputs, targets = batch
    return _TRAININGS[optimizer].step(lambda: loss(model(inputs), targets), inputs=inputs)
