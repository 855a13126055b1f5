"""The training loop: a network, a method and one task after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from isoplast import nn
from isoplast.methods import Method, Training, training
from isoplast.streams import Task
from isoplast.study._spec import Run
from isoplast.study.run._instruments import Instruments, measure
from isoplast.study.run._random import order

_LOSS_INPUTS = 512  # of a new task, per forward pass, for methods that ask for its loss


class Diverged(Exception):
    """The loss is not finite any more; the message says where."""


class Trainer:
    """The network of a run with the method in force: all that changes while it trains.

    Args:
        run: what to run.
        input_shape: the shape of one input.
        classes: the number of classes.
        task: the next task to train on; it decides which method is in force.
    """

    def __init__(self, run: Run, input_shape: tuple[int, ...], classes: int, task: int = 0) -> None:
        self.run = run
        self.device = torch.device(run.device)
        model = nn.build(run.net, input_shape=input_shape, classes=classes, **dict(run.net_options))
        self.training = self._taking_over(run.make_method(), model)
        self.steps = 0
        if run.switch is not None and task > run.switch.task:
            self._switch()

    @property
    def model(self) -> torch.nn.Module:
        """The network."""
        return self.training.model

    @property
    def method(self) -> Method:
        """The method in force."""
        return self.training.method

    def _taking_over(self, method: Method, model: torch.nn.Module) -> Training:
        return training(method, model, lr=self.run.lr, device=self.device)

    def _switch(self) -> None:
        assert self.run.switch is not None
        self.training.release()
        self.training = self._taking_over(self.run.make_method(self.run.switch.task), self.training.model)

    def begin(self, task: Task) -> bool:
        """Get ready to train on a task; returns whether another method takes over."""
        switches = self.run.switch is not None and task.index == self.run.switch.task
        if switches:
            self._switch()
        self._task = task.index
        self._inputs, self._targets = task.inputs.to(self.device), task.targets.to(self.device)
        self.training.new_task(self._inputs, self._losses)
        return switches

    def _losses(self) -> Iterator[Tensor]:
        """The loss on the task that was begun, batch by batch."""
        for rows in torch.split(torch.arange(len(self._inputs), device=self.device), _LOSS_INPUTS):
            yield self._loss(self._inputs[rows], self._targets[rows])

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.model(inputs), targets)

    def train(self, epoch: int) -> None:
        """Train for one epoch on the task that was begun.

        Args:
            epoch: which pass over the task, from 0: it decides the order of the data.

        Raises:
            Diverged: the loss of some step is not finite.
        """
        inputs, targets = self._inputs, self._targets
        self.model.train()
        losses: list[Tensor] = []
        permutation = order(len(inputs), self.run.seed, "order", self._task, epoch).to(self.device)
        for rows in torch.split(permutation, self.run.batch_size):
            x, y = inputs[rows], targets[rows]
            losses.append(self.training.step(functools.partial(self._loss, x, y), inputs=x))
        self._check(torch.stack(losses), epoch)  # one synchronisation per epoch, not per step
        self.steps += len(losses)

    def _check(self, losses: Tensor, epoch: int) -> None:
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            first = int(bad[0])
            raise Diverged(
                f"the loss is {losses[first].item()} at task {self._task}, epoch {epoch}, "
                f"step {self.steps + first} (lr {self.run.lr:g}): lower the learning rate"
            )

    def measure(self, task: Task) -> Instruments:
        """Measure the network on a task.

        Raises:
            Diverged: the loss is not finite.
        """
        with self.training.evaluated() as model:
            inputs, targets = task.inputs.to(self.device), task.targets.to(self.device)
            found = measure(model, inputs, targets, self.run.lr)
        if not math.isfinite(found.loss):
            if self.steps == 0:
                where, remedy = "before any training", "choose another network or initialisation"
            else:
                where, remedy = f"after the last epoch of task {task.index}", "lower the learning rate"
            raise Diverged(
                f"the loss is {found.loss} on all of task {task.index} {where} (lr {self.run.lr:g}): {remedy}"
            )
        return found

    def state(self) -> dict[str, Any]:
        """Everything that training has changed."""
        return {**self.training.state_dict(), "steps_of_run": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state` returned."""
        self.training.load_state_dict(state, generators=False)  # the run keeps all random numbers itself
        self.steps = state["steps_of_run"]
