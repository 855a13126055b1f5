"""ReDo: dormant units are recycled."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from isoplast.methods._protocol import Inputs, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._unit_method import Sensor, UnitMethod
from isoplast.methods._tools._unit_reset import reset_
from isoplast.model import UnitGroup, preserve_state, run

_EPS = 1e-9


@register
@dataclasses.dataclass(frozen=True)
class ReDo(UnitMethod):
    r"""Recycle dormant neurons (arXiv:2302.12902, algorithm 1).

    .. math:: s_i = \frac{E_x |h_i(x)|}{\frac1H \sum_k E_x |h_k(x)| + 10^{-9}}, \qquad
              \text{reset unit } i \text{ if } s_i \le \tau

    every `every` steps, with the means over the batch of that step (and all positions of it), in evaluation
    mode: BatchNorm uses its running statistics. A reset unit gets fresh incoming weights, bias 0, outgoing
    weights 0 and no optimizer state. Fresh rows pull the spectrum of a weight towards that of its
    initialisation as far as units are dormant. With tau = 0 it leaves the outputs on the batch unchanged,
    unless a normalisation over units (LayerNorm, GroupNorm), in front of the nonlinearity or behind it, takes
    its statistics over the new units too.

    Deviations: the scores come from the training batch, not from a replay buffer; the channels of a
    residual stream are one unit whose score is its mean over all activations of the stream; attention
    values count as units; the two sorted features of MaxMin are one.

    Adam counts steps once for a whole tensor, and the original leaves that count alone: cleared moments with
    a large count make the first steps of reset entries three times the learning rate. Where many units are
    reset at once that can ruin a network; `restart_count` starts the count of the tensors concerned anew.

    Args:
        tau: the score up to which a unit counts as dormant, >= 0. The original uses 0 with a period of
            200 000 gradient updates; 0.1 with 1000 steps is that of the follow-up work (arXiv:2606.09762).
        every: steps between two resets, >= 1.
        restart_count: whether the optimizer's step count of tensors with reset entries starts at 0 again; a
            known port of the method calls that crucial.

    Reference:
        Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023.
    """

    name: ClassVar[str] = "redo"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="ReDo",
        source="Sokar et al., arXiv:2302.12902, algorithm 1",
        controls="activations: rows of dormant units start anew",
        spectrum="activations",
        family="resets",
        cost="one forward pass in `every` steps",
        needs_inputs=True,
        claims=frozenset({"units"}),
    )

    tau: float = 0.1
    every: int = 1000
    restart_count: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "tau")
        at_least(self, 1, "every")

    def after_step(self, step: StepContext) -> None:
        """Reset the dormant units, every `every` steps."""
        if step.step % self.every:
            return
        live = [units for units, _ in self.groups]
        scores = dormancy(step.model, step.inputs, [units.group for units in live])
        dormant = [(score <= self.tau).nonzero().squeeze(1) for score in scores]
        found = [(units, numbers) for units, numbers in zip(live, dormant, strict=True) if len(numbers)]
        reset_(found, step.optimizer)
        if self.restart_count:
            for tensor in (tensor for units, _ in found for tensor in units.tensors):
                count = step.optimizer.state.get(tensor, {}).get("step")
                if isinstance(count, Tensor):
                    count.zero_()


def dormancy(model: nn.Module, inputs: Inputs, groups: list[UnitGroup]) -> list[Tensor]:
    """The score of every unit on a batch, in evaluation mode: its mean activity over that of its layer.

    Args:
        model: the network, left as it was.
        inputs: the batch, as the model takes it.
        groups: its units.

    Returns:
        For each group the scores, shape (size,).

    Example:
        >>> from isoplast.methods import trace_units
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[-1.0], [1.0], [3.0]])), net[0].bias.data.zero_()
        >>> dormancy(net, torch.ones(2, 1), trace_units(net))[0]
        tensor([0.0000, 0.7500, 2.2500])
    """
    sensors = [[_Activity(probe) for probe in group.probes] for group in groups]
    with preserve_state(model) as network, torch.no_grad(), contextlib.ExitStack() as stack:
        for sensor in (each for several in sensors for each in several):
            stack.callback(sensor.register(network).remove)
        run(network, inputs)
    return [torch.stack([sensor.value for sensor in several]).mean(0) for several in sensors]


class _Activity(Sensor):
    """Mean absolute activation of every unit over that of all: the score of ReDo."""

    def __call__(self, module: nn.Module, inputs: tuple[object, ...], output: object = None) -> None:
        watched = inputs[0] if self.probe.side == "input" else output
        assert isinstance(watched, Tensor)
        active = self.probe.units_first(watched.abs().mean(self.probe.other_dims(watched))).mean((1, 2))
        self.value = active / (active.mean() + _EPS)
