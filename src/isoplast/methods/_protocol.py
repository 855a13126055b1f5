"""What a remedy may do, and when: the hooks that a training loop calls without knowing the method."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._options import check_fields


@dataclasses.dataclass(frozen=True)
class About:
    """What is said about a method.

    Args:
        title: how people write its name.
        source: the paper, and the equation or section that defines the method.
        controls: which part of the singular-value spectrum of the weights it controls.
        told_of_tasks: whether it must be told where tasks begin (then `on_task` does something).
    """

    title: str
    source: str
    controls: str
    told_of_tasks: bool = False


@dataclasses.dataclass
class StepContext:
    """Where training stands right after an optimizer step. One object, updated in place.

    Args:
        model: the network, with the gradients of this step.
        optimizer: the optimizer that has just stepped.
        inputs: the batch, shape (batch, ...).
        targets: its classes, shape (batch,).
        loss: the loss that was minimised, detached, shape ().
        task: index of the task, from 0. Only methods with `told_of_tasks` may look at it.
        step: number of optimizer steps since the method took over, from 1.
    """

    model: nn.Module
    optimizer: Optimizer
    inputs: Tensor
    targets: Tensor
    loss: Tensor
    task: int
    step: int


@dataclasses.dataclass(frozen=True)
class TaskContext:
    """A task that is about to begin.

    Args:
        model: the network.
        optimizer: its optimizer.
        task: index of the task, from 0.
        inputs: the inputs of the task, shape (n, ...).
        targets: their classes, shape (n,).
    """

    model: nn.Module
    optimizer: Optimizer
    task: int
    inputs: Tensor
    targets: Tensor


@dataclasses.dataclass(frozen=True)
class Method:
    """A remedy: a frozen dataclass whose fields are its hyper-parameters, with its source's defaults.

    Every hook does nothing unless a method overrides it. Random numbers come from torch's global
    generator, which a run saves and restores; so is everything in `state`, which is all that a method
    may remember between calls. A method object therefore belongs to one run.

    Attributes:
        name: what `get` calls it.
        about: what is said about it.
        state: tensors and numbers to be saved with a checkpoint.
    """

    name: ClassVar[str]
    about: ClassVar[About]
    state: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, f"method {self.name}")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the network to train: the model itself, or one with another architecture."""
        return model

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return a fresh optimizer for all trainable parameters of the prepared model."""
        raise NotImplementedError

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return what is added to the task loss of a batch (inputs, targets), or None."""
        return None

    def after_step(self, step: StepContext) -> None:
        """Act after an optimizer step: resets, projections, clipping."""

    def on_task(self, task: TaskContext) -> None:
        """Act before a task begins; only for methods whose `about` says that they are told."""

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return the lines a user should read before a run of that many optimizer steps begins."""
        return []
