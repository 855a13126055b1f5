"""What a remedy may do, and when: the hooks that a training loop calls without knowing the method."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from isoplast._core.errors import IsoplastError
from isoplast._core.settings import Settings, check_fields, options

Family = Literal["isometry", "initial state", "resets", "optimizers", "architecture", "churn"]
Spectrum = Literal["all", "mean square", "largest", "activations", "none"]
"""What of the singular values of the weights a method holds: the claim that `isoplast lens` measures."""


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """What is said about a method.

    Args:
        title: how people write its name.
        source: the paper, and the equation or section that defines the method.
        controls: which part of the singular-value spectrum of the weights it controls, in a few words.
        spectrum: the same as one of the classes that section 5 of the paper sorts remedies into.
        family: the page of the documentation it is on.
        cost: what a step costs beyond Adam's, in a few words.
        needs_task_boundaries: whether it must be told where tasks begin (see `TaskMethod`).
        strength: the hyper-parameter at whose value 0 the method is `base`, to the bit; None without one.
        base: the method it then is.
        keeps_function: whether its interventions promise to leave the outputs of the network unchanged.
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
    strength: str | None = None
    base: str = "adam"
    keeps_function: bool = False
    claims: frozenset[str] = frozenset()
    example: str = ""


@dataclasses.dataclass
class StepContext:
    """Where training stands right after an optimizer step. One object, updated in place.

    Args:
        model: the network, with the gradients of this step.
        optimizer: the optimizer that has just stepped.
        inputs: the batch, shape (batch, ...).
        targets: its classes, shape (batch,).
        loss: the loss that was minimised, detached, shape ().
        step: number of optimizer steps since the method took over, from 1.
    """

    model: nn.Module
    optimizer: Optimizer
    inputs: Tensor
    targets: Tensor
    loss: Tensor
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
        cannot_take: names of the networks of `isoplast.nn.build` that its `prepare` refuses as they come,
            with an error that says what would work.
        state: tensors and numbers (also in nested dicts and lists) to be saved with a checkpoint.
        handles: hooks on the model, which `release` removes. A hook acts in training mode only, and is an
            object of a class with `__call__`, so that a copy of the model gets a copy of it.
    """

    name: ClassVar[str]
    info: ClassVar[MethodInfo]
    cannot_take: ClassVar[tuple[str, ...]] = ()
    state: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    handles: list[RemovableHandle] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_fields(self, f"method {self.name}")

    def settings(self) -> Settings:
        """Return all hyper-parameters in canonical form: `get(name, **dict(settings))` is this method."""
        return options(self)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the network to train: the model itself, or one with another architecture."""
        return model

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return a fresh optimizer for all trainable parameters of the prepared model; by default Adam."""
        return torch.optim.Adam(model.parameters(), lr=lr, fused=True)

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return what is added to the task loss of a batch (inputs, targets), after its forward pass."""
        return None

    def step(self, optimizer: Optimizer, closure: Callable[[], Tensor]) -> Tensor:
        """Do one optimizer step; `closure` computes the loss with fresh gradients and returns it."""
        loss = closure()
        optimizer.step()
        return loss

    def after_step(self, step: StepContext) -> None:
        """Act after an optimizer step: resets, projections, clipping."""

    def on_task(self, task: TaskContext) -> None:
        """Act before a task begins; a loop calls it only if `about.needs_task_boundaries`."""

    def evaluated(
        self, model: nn.Module, optimizer: Optimizer
    ) -> contextlib.AbstractContextManager[nn.Module]:
        """Return a context that yields the network to evaluate; outside it training goes on undisturbed."""
        return contextlib.nullcontext(model)

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return the lines a user should read before a run of that many optimizer steps begins."""
        return []

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the `state` of a checkpoint, after `prepare` and `optimizer`."""
        self.state.clear()
        self.state.update(state)

    def release(self) -> None:
        """Take all hooks off the model: another method takes over."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


@dataclasses.dataclass(frozen=True)
class TaskMethod(Method):
    """A method that acts where tasks begin, and says so when nobody tells it of any."""

    def on_task(self, task: TaskContext) -> None:
        """Count the task and act on it."""
        self.state["tasks"] = self.state.get("tasks", 0) + 1
        self.at_task(task, self.state["tasks"] == 1)

    def at_task(self, task: TaskContext, first: bool) -> None:
        """Act before a task begins; `first` tells whether it is the first since the method took over."""
        raise NotImplementedError

    def after_step(self, step: StepContext) -> None:
        """Raise unless some task was announced."""
        if "tasks" not in self.state:
            raise IsoplastError(
                f"method {self.name} acts where tasks begin, and was told of none: call its on_task there, "
                "or choose a method that needs no boundaries (`isoplast methods` lists them)"
            )


def notify_task(method: Method, task: TaskContext) -> None:
    """Tell a method of a task if it is one of those that are told."""
    if method.info.needs_task_boundaries:
        method.on_task(task)


def train_step(
    method: Method,
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    step: int,
) -> Tensor:
    """One training step with every hook of a method, in the order that all methods count on.

    Args:
        method: the remedy.
        model: the network that its `prepare` returned, in training mode.
        optimizer: what its `optimizer` returned.
        loss: the task loss of (outputs, targets).
        batch: inputs and targets.
        step: number of this step since the method took over, from 1.

    Returns:
        The loss that was minimised, detached.

    Example:
        >>> from isoplast.methods import get
        >>> method, model = get("adam"), nn.Linear(3, 2)
        >>> optimizer = method.optimizer(model, 1e-3)
        >>> batch = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)
        >>> train_step(method, model, optimizer, nn.functional.cross_entropy, batch, 1).shape
        torch.Size([])
    """

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        total = loss(model(batch[0]), batch[1])
        penalty = method.penalty(model, batch)
        total = total if penalty is None else total + penalty
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    value = method.step(optimizer, closure)
    method.after_step(StepContext(model, optimizer, batch[0], batch[1], value, step))
    return value
