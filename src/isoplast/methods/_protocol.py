"""What a method may do, and when: the hooks that a training loop calls without knowing the method.

The order in which they are called, which `isoplast.methods.training` keeps:

* once: `prepare`, `optimizer`, `begin`;
* in every step: `step`, which calls its closure once or more often, which in turn adds `penalty` to the task
  loss; then `after_step`;
* between two tasks, only if the method's metadata says `needs_task_boundaries`: `on_task`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from isoplast._core.errors import IsoplastError
from isoplast._core.settings import Settings, check_fields, settings_of

Inputs: TypeAlias = Any
"""What a model takes: a tensor, a tuple of positional or a mapping of keyword arguments."""

Loss: TypeAlias = Callable[[], Tensor | Iterable[Tensor]]
"""Computes a loss of shape (), with its graph; or several, one after the other, that add up to it."""

Family = Literal["isometry", "initial state", "resets", "optimizers", "architecture", "churn"]
Spectrum = Literal["all", "mean square", "largest", "activations", "none"]
"""What of the singular values a method controls: the claim that `isoplast spectra` measures."""


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """The metadata of a method.

    Args:
        title: how people write its name.
        source: the paper, and the equation or section that defines the method.
        controls: which part of the singular-value spectrum of the weights it controls, in a few words.
        spectrum: the same as one of the classes that section 5 of the paper sorts methods into.
        family: the page of the documentation it is on.
        cost: what a step costs beyond Adam's, in a few words.
        needs_task_boundaries: whether it acts between tasks (see `TaskMethod`).
        needs_inputs: whether it looks at the batch again, so that every step must be given its inputs.
        strength: the setting at whose value 0 the method is `base`, to the bit; None without one.
        base: the method it then is.
        keeps_function: whether it promises to leave the outputs of the network unchanged whenever it
            intervenes.
        claims: what no second method of a combination may set as well: "optimizer", "step", "evaluation",
            "activation", "normalization", "units", "scale", "weights" or "layers".
        example: the combination in which it is tested and measured, where it needs company
            ("layernorm+nap"); empty: the method alone.
    """

    title: str
    source: str
    controls: str
    spectrum: Spectrum = "none"
    family: Family = "optimizers"
    cost: str = "nothing"
    needs_task_boundaries: bool = False
    needs_inputs: bool = False
    strength: str | None = None
    base: str = "adam"
    keeps_function: bool = False
    claims: frozenset[str] = frozenset()
    example: str = ""


@dataclasses.dataclass(frozen=True)
class StepContext:
    """Where training stands right after an optimizer step.

    Args:
        model: the network, with the gradients of this step.
        optimizer: the optimizer that has just stepped.
        inputs: the batch, as the model takes it; None if the loop gave none.
        loss: the task loss before the step, without the penalty, detached, shape ().
        step: number of optimizer steps since the method took over, from 1.
    """

    model: nn.Module
    optimizer: Optimizer
    inputs: Inputs
    loss: Tensor
    step: int


@dataclasses.dataclass(frozen=True)
class TaskContext:
    """A task that is about to begin.

    Args:
        model: the network.
        optimizer: its optimizer.
        index: number of the task since the method took over, from 0. It is 0 exactly as long as there was no
            step.
        inputs: inputs of the task, as the model takes them, as many as the loop wants to give; or None.
        loss: the loss on the task's data, in one piece or batch by batch, to be differentiated; or None.
    """

    model: nn.Module
    optimizer: Optimizer
    index: int
    inputs: Inputs = None
    loss: Loss | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A frozen dataclass whose fields are the method's settings, with the defaults of its source.

    Every hook does nothing unless a method overrides it. A method knows neither targets nor classes: the loss
    is its caller's. Random numbers come from torch's global generator. All that a method remembers between
    calls is in `state`, which is saved with a checkpoint, or made again by `begin`. A method object therefore
    belongs to one training.

    Attributes:
        name: what `get` calls it.
        info: its metadata.
        state: tensors and numbers (also in nested dicts and lists) to be saved with a checkpoint.
        handles: hooks on the model, which `release` removes. A hook acts in training mode only, and is an
            object of a class with `__call__`, so that a copy of the model gets a copy of it.
    """

    name: ClassVar[str]
    info: ClassVar[MethodInfo]
    state: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    handles: list[RemovableHandle] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for attribute, kind in (("name", "str"), ("info", "MethodInfo")):
            if not hasattr(self, attribute):
                owner = type(self).__name__
                raise IsoplastError(
                    f"method class {owner} has no {attribute}: set `{attribute}: ClassVar[{kind}]`"
                )
        check_fields(self, f"method {self.name}")

    def settings(self) -> Settings:
        """Return all settings in canonical form: `get(name, **dict(settings))` is this method."""
        return settings_of(self)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the network to train: the model itself, or one with another architecture.

        Raises:
            IsoplastError: for a network that the method cannot take, in one line that says what would work.
        """
        return model

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return a fresh optimizer for all trainable parameters of the prepared model; by default Adam."""
        return torch.optim.Adam(model.parameters(), lr=lr, fused=True)

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Look at the network as it will be trained: remember initial values, register hooks.

        Called once, before the first step, when all methods of a combination have prepared the network. Where
        training goes on from a checkpoint `load_state` follows, and replaces all that was put into `state`.
        """

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return what is added to the task loss of a batch, after its forward pass; None for nothing."""
        return None

    def step(self, optimizer: Optimizer, closure: Callable[[], Tensor]) -> Tensor:
        """Do one optimizer step.

        Args:
            optimizer: the optimizer.
            closure: computes what is minimised, the task loss and the penalties, with fresh gradients, and
                returns it detached; to be called at least once.

        Returns:
            What the closure returned at the weights before the step.
        """
        loss = closure()
        optimizer.step()
        return loss

    def after_step(self, step: StepContext) -> None:
        """Act after an optimizer step: resets, projections, clipping."""

    def on_task(self, task: TaskContext) -> None:
        """Act before a task begins; called only if `info.needs_task_boundaries`."""

    def evaluated(
        self, model: nn.Module, optimizer: Optimizer
    ) -> contextlib.AbstractContextManager[nn.Module]:
        """Return a context that yields the network to evaluate, and leaves the trained one as it was."""
        return contextlib.nullcontext(model)

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return the lines a user should read before a run of that many optimizer steps begins."""
        return []

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the `state` of a checkpoint, after `begin`."""
        self.state.clear()
        self.state.update(state)

    def release(self) -> None:
        """Take all hooks off the model and forget it: training is over, or another method takes over."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


@dataclasses.dataclass(frozen=True)
class TaskMethod(Method):
    """A method that acts between tasks: where one begins after another was trained on."""

    def on_task(self, task: TaskContext) -> None:
        """Act, but not before the first task."""
        if task.index > 0:
            self.between_tasks(task)

    def between_tasks(self, task: TaskContext) -> None:
        """Act between the task before and this one."""
        raise NotImplementedError
