"""What all methods that reset units share: finding the units, and watching them while the network trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

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


SensorsOf = Callable[[LiveUnits], Sequence[Sensor]]


class Tracker:
    """A hook on the network that finds its units in its first forward pass of training.

    Only then have all methods of a combination made their changes to the architecture, and the weights are
    still the initial ones (or those of a checkpoint, whose state then knows the initial norms).

    Args:
        state: the method's state.
        handles: the method's handles.
        watch: what to watch of a group, "nothing" being an empty list.
        kinds: the kinds of groups the method resets.
    """

    def __init__(
        self, state: dict[str, Any], handles: list[Any], watch: SensorsOf, kinds: frozenset[str]
    ) -> None:
        self.state = state
        self.handles = handles
        self.watch = watch
        self.kinds = kinds
        self.live: list[tuple[LiveUnits, Sequence[Sensor]]] | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Begin, once."""
        if self.live is None and module.training:
            self.begin(module)

    @_disable_dynamo
    def begin(self, model: nn.Module) -> None:
        """Find the units and start to watch them; frozen ones are left alone."""
        model = unwrap(model)
        groups = [group for group in trace_units(model) if group.kind in self.kinds]
        found = [LiveUnits(group, model, self.state) for group in groups]
        self.live = [(live, self.watch(live)) for live in found if live.trainable]
        for _, sensors in self.live:
            self.handles.extend(sensor.register(model) for sensor in sensors)


@dataclasses.dataclass(frozen=True)
class UnitMethod(Method):
    """A method that resets hidden units.

    Attributes:
        kinds: the kinds of `UnitGroup` it resets.
        trackers: what finds and watches the units of the prepared network.
    """

    kinds: ClassVar[frozenset[Literal["hidden", "value"]]] = frozenset({"hidden", "value"})
    trackers: list[Tracker] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Check that the network has units to reset, and find them when its training begins.

        Raises:
            IsoplastError: for a network that cannot be traced, or in which no unit can be reset.
        """
        units = trace_units(model)
        found = [LiveUnits(group, unwrap(model), {}) for group in units if group.kind in self.kinds]
        if not any(live.trainable for live in found):
            reason = "all their weights are frozen" if found else _reason(units)
            raise IsoplastError(f"method {self.name} finds no unit that it could reset: {reason}")
        tracker = Tracker(self.state, self.handles, self.watch, self.kinds)
        self.trackers[:] = [tracker]
        self.handles.append(model.register_forward_pre_hook(tracker))
        return model

    @staticmethod
    def watch(live: LiveUnits) -> Sequence[Sensor]:
        """Return the sensors that watch a group in every training step: none."""
        return ()

    def release(self) -> None:
        """Take all hooks off the model."""
        super().release()
        self.trackers.clear()

    def groups(self) -> list[tuple[LiveUnits, Sequence[Sensor]]]:
        """The units of the network, each with its sensors; none before its first forward pass."""
        return (self.trackers[0].live or []) if self.trackers else []


def _reason(units: Units) -> str:
    found = "; ".join(f"{name}: {reason}" for name, reason in units.left_out.items())
    return found or "it has no nonlinearity between two layers that could be followed"
