"""What the plasticity probe is made of: tasks, and the training of a network on one of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._result import format_number
from isoplast.diagnostics.loss._objective import finite
from isoplast.model import (
    clone,
    copy_optimizer,
    dense,
    outputs,
    parameter_names,
    parameter_pairs,
    refuse_made_late,
    sample_count,
    take_samples,
    usable,
)

Loss = Callable[[Tensor, Any], Tensor]
Task = Callable[[int], tuple[Any, Any, Loss]]
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
_EVALUATION_ROWS = 1024  # inputs per forward pass where the loss is measured


@dataclasses.dataclass(frozen=True)
class Problem:
    """One task, with the rows of every batch in order; None stands for all of them."""

    inputs: Any
    targets: Any
    loss: Loss
    size: int
    batches: list[Tensor | None]


class Problems:
    """Draws tasks."""

    def __init__(
        self,
        network: nn.Module,
        inputs: Any,
        task: Task | None,
        classes: int | None,
        batch_size: int,
        steps: int,
    ) -> None:
        self._network, self._inputs, self._task = network, inputs, task
        self._batch_size, self._steps = batch_size, steps
        self.classes = 0
        if task is None:
            self._shape, self._device, self.classes = _labels(network, inputs, classes)

    def draw(self, index: int, label_seed: int, order_seed: int) -> Problem:
        if self._task is not None:
            seed_generators(self._network, label_seed)
            inputs, targets, loss = self._task(index)
            inputs, targets = usable(inputs), usable(targets)
        else:
            generator = torch.Generator().manual_seed(label_seed)
            targets = torch.randint(self.classes, self._shape, generator=generator).to(self._device)
            inputs, loss = self._inputs, _cross_entropy
        self._size = sample_count(inputs)
        return Problem(inputs, targets, loss, self._size, list(self._order(order_seed)))

    def _order(self, seed: int) -> Iterator[Tensor | None]:
        """The rows of each step: passes in random order, each without its incomplete last batch."""
        if self._batch_size >= self._size:
            yield from [None] * self._steps
            return
        generator, per_pass = torch.Generator().manual_seed(seed), self._size // self._batch_size
        for step in range(self._steps):
            if step % per_pass == 0:
                order = torch.randperm(self._size, generator=generator).split(self._batch_size)  # type: ignore[no-untyped-call]
            yield order[step % per_pass]

    def describe(self) -> str:
        passes = self._steps * min(1.0, self._batch_size / self._size)
        kind = "the user's tasks" if self._task else f"random labels of {self.classes} classes"
        return f"{kind} on {self._size} inputs ({format_number(passes)} passes)"


def _labels(
    network: nn.Module, inputs: Any, classes: int | None
) -> tuple[tuple[int, ...], torch.device, int]:
    """The shape and the device of the labels that suit the outputs, and their number of classes."""
    size = sample_count(inputs)
    copy = clone(network).eval()
    with torch.no_grad():
        found = outputs(copy, take_samples(inputs, slice(0, 2)))
    if found.ndim not in (2, 3) or found.shape[-1] < 2:
        raise IsoplastError(
            f"outputs of shape (n, {', '.join(map(str, found.shape[1:]))}) have no classes for random "
            "labels: give task="
        )
    width = found.shape[-1]
    if classes is not None and not 2 <= classes <= width:
        raise IsoplastError(f"classes is {classes}: the network has {width} outputs, so give 2 to {width}")
    return (size, *found.shape[1:-1]), found.device, classes or width


def _cross_entropy(found: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(found.flatten(0, -2), labels.flatten())


class Probe:
    """Trains networks, each with an optimizer like the given one."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer | MakeOptimizer | None,
        keep: bool,
        lr: float,
        at: list[int],
    ) -> None:
        self._network, self._optimizer, self._keep, self._lr = network, optimizer, keep, lr
        self._at = frozenset(at)

    def losses(self, network: nn.Module, problem: Problem, seed: int, fresh: bool = False) -> Tensor:
        """Train a network and return its losses, shape (points + 1,), float64 on the CPU."""
        optimizer = self._make(network, self._keep and not fresh)
        if not network.training:
            network.train()
        training = [module for module in network.modules() if module.training]
        seed_generators(network, seed)
        names = parameter_names(network)
        found = [_loss(network, optimizer, training, problem)]
        refuse_made_late(network, names)
        for step, rows in enumerate(problem.batches, 1):
            _step(network, optimizer, problem, rows)
            if step in self._at:
                found.append(_loss(network, optimizer, training, problem))
        if not finite(network.parameters()):
            found[-1] = torch.full_like(found[-1], math.nan)
        return torch.stack(found).cpu().double()

    def _make(self, network: nn.Module, keep: bool) -> Optimizer:
        if isinstance(self._optimizer, Optimizer):
            return copy_optimizer(self._optimizer, parameter_pairs(self._network, network), keep=keep)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:
            raise IsoplastError(f"{type(network).__name__} has no trainable parameter: nothing to probe")
        if self._optimizer is not None:
            return self._optimizer(parameters)
        for parameter in parameters:  # of the copy: Adam takes no sparse gradients
            parameter.register_post_accumulate_grad_hook(_densify)  # type: ignore[no-untyped-call]
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        return torch.optim.Adam(parameters, lr=self._lr, fused=fused)

    def describe(self, state: str) -> str:
        if self._optimizer is None:
            return f"Adam at lr {format_number(self._lr)}"
        if isinstance(self._optimizer, Optimizer):
            rate = format_number(float(self._optimizer.param_groups[0]["lr"]))
            return f"{type(self._optimizer).__name__} at lr {rate} (state: {state})"
        return "the user's optimizer"


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad = dense(parameter.grad)


def _step(network: nn.Module, optimizer: Optimizer, problem: Problem, rows: Tensor | None) -> None:
    inputs, targets = problem.inputs, problem.targets
    if rows is not None:
        inputs, targets = take_samples(inputs, rows), take_samples(targets, rows)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = problem.loss(outputs(network, inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


@torch.no_grad()
def _loss(network: nn.Module, optimizer: Optimizer, training: list[nn.Module], problem: Problem) -> Tensor:
    """The mean loss over the whole task in evaluation mode, as a tensor on the device."""
    _switch(optimizer, "eval")
    network.eval()
    total = torch.zeros(())  # a single number may meet those of any device and precision
    for start in range(0, problem.size, _EVALUATION_ROWS):
        rows = slice(start, start + _EVALUATION_ROWS)
        loss = problem.loss(
            outputs(network, take_samples(problem.inputs, rows)), take_samples(problem.targets, rows)
        )
        share = min(_EVALUATION_ROWS, problem.size - start) / problem.size
        total = total + share * loss
    for module in training:
        module.training = True
    _switch(optimizer, "train")
    return total


def _switch(optimizer: Optimizer, mode: str) -> None:
    """Optimizers that train at other weights than they evaluate (schedule-free ones) say so by train()."""
    switch = getattr(optimizer, mode, None)
    if callable(switch):
        switch()


def seed_generators(network: nn.Module, seed: int) -> None:
    """Seed the generators that `preserve_state` restores, and no others."""
    torch.default_generator.manual_seed(seed)
    for index in {p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"}:
        torch.cuda.default_generators[index].manual_seed(seed)
