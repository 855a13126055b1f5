"""Self-normalised resets: a unit that is silent for longer than its own past explains starts anew."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from isoplast.methods._protocol import MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._unit_method import Sensor, UnitMethod
from isoplast.methods._tools._unit_reset import LiveUnits, reset_


@register
@dataclasses.dataclass(frozen=True)
class SelfNormalizedResets(UnitMethod):
    r"""Self-normalised resets (arXiv:2410.20098, algorithm 1).

    A unit fires in a step if its activation is positive anywhere in the batch. It is reset when it has been
    silent for as many steps as its threshold, which is the given percentile of its own times between two
    firings. These are taken to be exponentially distributed:

    .. math:: q = -\ln(1 - p) \frac{1 + \sum \text{gaps}}{1 + \text{number of gaps}}, \qquad
              \tau \leftarrow \begin{cases} \lceil 2 \tau \rceil & \tau \le q \\ \lceil q \rceil & \text{else}
              \end{cases}

    every `update_every` steps, over the gaps that ended since the last time; a reset ends a gap too. A reset
    unit gets fresh incoming weights, bias 0, outgoing weights 0 and no optimizer state.

    Deviations: the exponential rule is not in the authors' public code, which keeps a histogram of the gaps;
    thresholds are updated at a fixed period where the authors draw its steps at random; units without a
    nonlinearity (attention values), which always fire, are left alone. The defaults have no source: a port
    (in the code of arXiv:2602.08040) uses percentiles from 0.92 to 0.99 and a first threshold of 16.

    Args:
        percentile: p, in (0, 1): silences up to it count as normal.
        threshold: steps of silence until a reset before the first update, >= 1.
        update_every: steps between two updates of the thresholds, >= 1.

    Reference:
        Farias and Jozefiak, "Self-normalized resets for plasticity in continual learning", ICLR 2025.
    """

    name: ClassVar[str] = "snr"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Self-normalised resets",
        source="Farias and Jozefiak, arXiv:2410.20098, algorithm 1",
        controls="activations: rows of silent units start anew",
        spectrum="activations",
        family="resets",
        cost="a maximum over every activation, and one synchronisation with the device",
        claims=frozenset({"units"}),
    )
    kinds: ClassVar[frozenset[Literal["hidden", "value"]]] = frozenset({"hidden"})

    percentile: float = 0.95
    threshold: int = 16
    update_every: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "percentile", above_zero=True, below_one=True)
        at_least(self, 1, "threshold", "update_every")

    @staticmethod
    def watch(live: LiveUnits) -> Sequence[Sensor]:
        """Watch every activation of the units."""
        return [_Largest(probe) for probe in live.group.probes]

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Count silences, reset the units that are silent for too long, and update the thresholds in time."""
        groups = self.groups
        if not groups:
            return
        fired = torch.cat([_largest(sensors) for _, sensors in groups]) > 0
        due = self._count(fired).nonzero().squeeze(1)
        if len(due):
            first, chosen = 0, []
            for live, _ in groups:
                chosen.append((live, due[(due >= first) & (due < first + live.size)] - first))
                first += live.size
            reset_([(live, own) for live, own in chosen if len(own)], step.optimizer)
        if step.step % self.update_every == 0:
            self._update()

    def _count(self, fired: Tensor) -> Tensor:
        """Return which units are due, over all layers in one vector."""
        state = self.state
        if "silence" not in state:
            state["silence"] = torch.zeros_like(fired, dtype=torch.long)
            state["thresholds"] = torch.full_like(state["silence"], self.threshold)
            state["gaps"], state["arrivals"] = (
                torch.ones_like(state["silence"]),
                torch.ones_like(state["silence"]),
            )
        gap = state["silence"] + 1
        silence = gap.masked_fill(fired, 0)
        due: Tensor = silence >= state["thresholds"]
        ended = fired | due
        state["gaps"] += gap * ended
        state["arrivals"] += ended
        state["silence"] = silence.masked_fill_(due, 0)
        return due

    def _update(self) -> None:
        state = self.state
        percentile = -math.log(1 - self.percentile) * state["gaps"] / state["arrivals"]
        old = state["thresholds"]
        state["thresholds"] = torch.where(old <= percentile, 2 * old, percentile.ceil().long())
        state["gaps"], state["arrivals"] = torch.ones_like(old), torch.ones_like(old)


class _Largest(Sensor):
    """The largest activation of each unit in the batch."""

    def measure(self, values: Tensor) -> Tensor:
        largest = values.amax(self.probe.other_dims(values))
        alone = self.probe.parts == self.probe.inner == 1
        return largest if alone else self.probe.units_first(largest).amax((1, 2))


def _largest(sensors: Sequence[Sensor]) -> Tensor:
    found: Tensor = sensors[0].value
    for sensor in sensors[1:]:
        found = torch.maximum(found, sensor.value)
    return found
