"""What all methods that reset units share: finding the units, and watching them while the network trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method
from isoplast.methods._tools._unit_reset import LiveUnits
from isoplast.model import Probe, Units, trace_units, unwrap


class Sensor:
    """A hook that remembers what it measured in the last forward pass of training.

    Args:
        probe: where the units are.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.value: Any = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        """Measure, in training mode."""
        if module.training:
            watched = inputs[0] if self.probe.side == "input" else output
            self.value = self.measure(watched.detach())

    def measure(self, values: Tensor) -> Any:
        """Return what is to be remembered of the watched tensor."""
        raise NotImplementedError

    def register(self, model: nn.Module) -> torch.utils.hooks.RemovableHandle:
        """Hook the sensor to its module."""
        module = model.get_submodule(self.probe.module)
        if self.probe.side == "input":
            return module.register_forward_pre_hook(self)
        return module.register_forward_hook(self)


@dataclasses.dataclass(frozen=True)
class UnitMethod(Method):
    """A method that resets hidden units.

    Attributes:
        kinds: the kinds of `UnitGroup` it resets.
        groups: the units of the network, each with its sensors; none before `begin`.
    """

    kinds: ClassVar[frozenset[Literal["hidden", "value"]]] = frozenset({"hidden", "value"})
    groups: list[tuple[LiveUnits, Sequence[Sensor]]] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the network, if it has units to reset.

        Raises:
            IsoplastError: for a network that cannot be traced, or in which no unit can be reset.
        """
        units = trace_units(model)
        found = self._live(units, model, {})
        if not any(live.trainable for live in found):
            reason = "all their weights are frozen" if found else _reason(units)
            raise IsoplastError(f"method {self.name} finds no unit that it could reset: {reason}")
        return model

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Find the units and watch them; frozen ones are left alone."""
        live = [live for live in self._live(trace_units(model), model, self.state) if live.trainable]
        self.groups[:] = [(units, self.watch(units)) for units in live]
        for _, sensors in self.groups:
            self.handles.extend(sensor.register(unwrap(model)) for sensor in sensors)

    @staticmethod
    def watch(live: LiveUnits) -> Sequence[Sensor]:
        """Return the sensors that watch a group in every training step: none."""
        return ()

    def release(self) -> None:
        """Take all hooks off the model."""
        super().release()
        self.groups.clear()

    def _live(self, units: Units, model: nn.Module, state: dict[str, Any]) -> list[LiveUnits]:
        return [LiveUnits(group, unwrap(model), state) for group in units if group.kind in self.kinds]


def _reason(units: Units) -> str:
    found = "; ".join(f"{name}: {reason}" for name, reason in units.left_out.items())
    return found or "it has no nonlinearity between two layers that could be followed"
