"""Resets of whole layers where tasks begin: the head, the last layers, the network, the optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from isoplast.methods._protocol import MethodInfo, TaskContext, TaskMethod
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._execution import last_layers, names_within
from isoplast.methods._tools._fresh import drawn, forget, prepare_to_draw, put, tensors
from isoplast.methods._tools._optimizer_state import memories
from isoplast.model import head_names


@dataclasses.dataclass(frozen=True)
class _Reset(TaskMethod):
    """What the resets share: fresh values and no optimizer state for some tensors, between tasks."""

    def reset_names(self, model: nn.Module) -> Iterable[str]:
        """Names of the parameters and buffers to be reset."""
        raise NotImplementedError

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note what fresh tensors are drawn from."""
        prepare_to_draw(self, model)

    def between_tasks(self, task: TaskContext) -> None:
        """Reset these tensors and the optimizer's state of them."""
        names = list(self.reset_names(task.model))
        put(task.model, drawn(self, task.model), names)
        present = tensors(task.model)
        forget(task.optimizer, [present[name] for name in names])


@register
@dataclasses.dataclass(frozen=True)
class HeadReset(_Reset):
    """Adam, whose output layer is drawn anew where a task begins.

    All other weights are left alone. The optimizer's state of the head starts anew with it; a frozen head
    stays frozen.

    Heads are the output layers that `isoplast.param_groups` finds: a module called `head` with all that is in
    it, the last layers of an actor and a critic, else the last layer.

    Deviations: the source resets every 20 000 updates (SPR on Atari), here where tasks begin.

    Reference:
        Nikishin et al., "The primacy bias in deep reinforcement learning", ICML 2022, arXiv:2205.07802,
        section 5.
    """

    name: ClassVar[str] = "head-reset"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Head reset",
        source="Nikishin et al., arXiv:2205.07802, section 5",
        controls="the spectrum of the head (a fresh one), where tasks begin",
        family="resets",
        cost="one initialisation per task",
        needs_task_boundaries=True,
        claims=frozenset({"layers"}),
    )

    def reset_names(self, model: nn.Module) -> Iterable[str]:
        """Names of all tensors of the head."""
        return names_within(model, head_names(model))


@register
@dataclasses.dataclass(frozen=True)
class LastLayersReset(_Reset):
    """Adam, whose last layers are drawn anew where a task begins.

    All other weights are left alone. Layers are counted in the order of execution, which is traced (of
    registration where a network cannot be traced); normalisations between and behind the counted layers go
    with them, statistics too. The optimizer's state of all of these starts anew.

    Args:
        layers: number of layers with a weight, >= 1, the head among them. The source resets the last 3 of 7
            in image-based control.

    Deviations: the source resets every 200 000 steps, here where tasks begin.

    Reference:
        Nikishin et al., arXiv:2205.07802, section 5.
    """

    name: ClassVar[str] = "last-layers-reset"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Reset of the last layers",
        source="Nikishin et al., arXiv:2205.07802, section 5",
        controls="the spectra of the last layers (fresh ones), where tasks begin",
        family="resets",
        cost="one initialisation per task",
        needs_task_boundaries=True,
        claims=frozenset({"layers"}),
    )

    layers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "layers")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model, if it has that many layers."""
        last_layers(self, model, self.layers)
        return model

    def reset_names(self, model: nn.Module) -> Iterable[str]:
        """Names of all tensors of the last layers."""
        return names_within(model, last_layers(self, model, self.layers))


@register
@dataclasses.dataclass(frozen=True)
class FullReset(_Reset):
    """Adam on a fresh network for every task: the control without any memory of earlier tasks.

    All parameters are drawn anew, buffers such as the statistics of normalisations start anew, and so does
    the optimizer. What is frozen is drawn anew as well: it was part of the fresh network.

    Reference:
        the control of all studies, e.g. Dohare et al., arXiv:2306.13812; Nikishin et al., arXiv:2205.07802.
    """

    name: ClassVar[str] = "full-reset"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Full reset",
        source="the control of all studies, e.g. Dohare et al., arXiv:2306.13812",
        controls="every singular value (a fresh network's), where tasks begin",
        spectrum="all",
        family="resets",
        cost="one initialisation per task",
        needs_task_boundaries=True,
        claims=frozenset({"layers"}),
    )

    def reset_names(self, model: nn.Module) -> Iterable[str]:
        """Names of everything."""
        return tensors(model)

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note what fresh tensors are drawn from, and the counters of a fresh optimizer."""
        super().begin(model, optimizer)
        _keep_counters(self.state, optimizer)

    def between_tasks(self, task: TaskContext) -> None:
        """Reset network and optimizer."""
        super().between_tasks(task)
        _restart(self.state, task.optimizer)


@register
@dataclasses.dataclass(frozen=True)
class OptimizerReset(TaskMethod):
    """Adam, which forgets its moments where a task begins.

    All state of the optimizer is dropped, whatever optimizer it is, and the counters in its groups start
    anew; learning rates stay.

    Reference:
        Asadi, Fakoor and Sabach, "Resetting the optimizer in deep RL", NeurIPS 2023, arXiv:2306.17833.
    """

    name: ClassVar[str] = "optimizer-reset"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Optimizer reset",
        source="Asadi, Fakoor and Sabach, arXiv:2306.17833",
        controls="nothing (the step size of Adam)",
        family="resets",
        needs_task_boundaries=True,
    )

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note the counters of a fresh optimizer."""
        _keep_counters(self.state, optimizer)

    def between_tasks(self, task: TaskContext) -> None:
        """Drop the optimizer's state."""
        _restart(self.state, task.optimizer)


@register
@dataclasses.dataclass(frozen=True)
class SoftenedMoments(TaskMethod):
    r"""Adam, whose moments shrink where a task begins instead of being forgotten.

    .. math:: m \leftarrow f m, \qquad v \leftarrow f v

    Whatever the optimizer remembers of single entries of the gradients is multiplied; its counts of steps
    stay. With f = 0.1 the first step of the next task goes the old way at a third of the size.

    Args:
        factor: f, in [0, 1]; 1 changes nothing.

    Deviations: the source adds noise to the least used units by the effective rank of the features; that is
    left to the resets of units, with which this combines.

    Reference:
        ITADN-Lab, PLAST, 2026, github.com/ITADN-Lab/PLAST (moments times 0.1 at a task boundary).
    """

    name: ClassVar[str] = "softened-moments"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Softened moments",
        source="ITADN-Lab, PLAST, 2026, github.com/ITADN-Lab/PLAST",
        controls="nothing (the step size of Adam)",
        family="resets",
        needs_task_boundaries=True,
    )

    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "factor")

    def between_tasks(self, task: TaskContext) -> None:
        """Shrink what the optimizer remembers of the gradients."""
        for group in task.optimizer.param_groups:
            for parameter in group["params"]:
                for memory, start in memories(task.optimizer, parameter):
                    if start is not None:
                        memory.mul_(self.factor)


def _keep_counters(state: dict[str, Any], optimizer: Optimizer) -> None:
    """Note the numbers in the groups of a fresh optimizer: some optimizers count steps there."""
    state["groups"] = [
        {key: value for key, value in group.items() if type(value) in (int, float) and key != "lr"}
        for group in optimizer.param_groups
    ]


def _restart(state: dict[str, Any], optimizer: Optimizer) -> None:
    """Make an optimizer as good as new, but for its learning rates."""
    forget(optimizer, list(optimizer.state))
    for group, fresh in zip(optimizer.param_groups, state["groups"], strict=True):
        group.update(fresh)
