"""The training loop: a network, a method and one task after the other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from isoplast import nn
from isoplast._core.errors import IsoplastError
from isoplast.methods import TaskContext, notify_task, train_step
from isoplast.streams import Task
from isoplast.study._spec import Run
from isoplast.study.run._instruments import Instruments, measure
from isoplast.study.run._random import order


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
        self.method = run.make_method()
        model = nn.build(run.net, input_shape=input_shape, classes=classes, **dict(run.net_options))
        self.model = self.method.prepare(model).to(self.device)
        self.optimizer = self._fresh_optimizer()
        self.steps = 0
        self._steps_of_method = 0
        if run.switch is not None and task > run.switch.task:
            self._switch()

    def _switch(self) -> None:
        assert self.run.switch is not None
        self.method.release()
        self.method = self.run.make_method(self.run.switch.task)
        self.model = self.method.prepare(self.model).to(self.device)
        self.optimizer = self._fresh_optimizer()
        self._steps_of_method = 0

    def _fresh_optimizer(self) -> Optimizer:
        try:
            return self.method.optimizer(self.model, self.run.lr)
        except ValueError as error:  # a combination of settings that only the optimizer can judge
            reason = str(error).partition("\n")[0]
            raise IsoplastError(f"method {self.method.name} with lr {self.run.lr:g}: {reason}") from error

    def begin(self, task: Task) -> bool:
        """Get ready to train on a task; returns whether another method takes over."""
        switches = self.run.switch is not None and task.index == self.run.switch.task
        if switches:
            self._switch()
        self._task = task.index
        self._inputs, self._targets = task.inputs.to(self.device), task.targets.to(self.device)
        context = TaskContext(self.model, self.optimizer, task.index, self._inputs, self._targets)
        notify_task(self.method, context)
        return switches

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
            batch, step = (inputs[rows], targets[rows]), self._steps_of_method + len(losses) + 1
            losses.append(train_step(self.method, self.model, self.optimizer, cross_entropy, batch, step))
        self._check(torch.stack(losses), epoch)  # one synchronisation per epoch, not per step
        self.steps += len(losses)
        self._steps_of_method += len(losses)

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
        with self.method.evaluated(self.model, self.optimizer) as model:
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
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state,
            "steps": self.steps,
            "steps_of_method": self._steps_of_method,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state(_on(self.device, state["method"]))
        self.steps = state["steps"]
        self._steps_of_method = state["steps_of_method"]


def _on(device: torch.device, value: Any) -> Any:
    """The value with all tensors in it, in nested dicts, lists and tuples too, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(device, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on(device, item) for item in value)
    return value
