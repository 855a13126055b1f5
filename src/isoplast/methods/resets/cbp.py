"""Continual Backprop: a few units of little use are replaced all the time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from isoplast.methods._protocol import MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._unit_method import Sensor, UnitMethod
from isoplast.methods._tools._unit_reset import LiveUnits, reset_

# Steps between two sums over the outgoing weights: a tenth of the running means' time constant, so that a
# utility never rests on weights much older than its activities.
_REFRESH = 10


@register
@dataclasses.dataclass(frozen=True)
class ContinualBackprop(UnitMethod):
    r"""Continual Backprop with the contribution utility (arXiv:2306.13812, algorithm 1).

    .. math:: u_i \leftarrow \eta u_i + (1 - \eta)\, E|h_i| \sum_k |w_{ik}|, \qquad
              \hat u_i = \frac{u_i}{1 - \eta^{a_i}}

    over the weights that read unit i, at every step, with its age a. Units older than `maturity` steps are
    eligible. Every step adds `replacement_rate` times their number to a layer's account, and whenever that
    exceeds one, so many eligible units with the lowest corrected utility are replaced: fresh incoming
    weights, bias 0, outgoing weights 0, no optimizer state, age 0. What a replaced unit contributed on
    average, its outgoing weights times its corrected running mean, moves into the biases of its readers,
    so that their mean pre-activations stay.

    A replaced row is a fresh one, so that the spectrum is pulled towards that of the initialisation at the
    replacement rate.

    Deviations: the sums over |w| are taken anew in every tenth step, since at batch size 1 that pass over the
    weights costs as much as a forward pass; activities are measured where they are read (behind pooling,
    dropout, flattening); a channel sums its utility over all columns and layers that read it; the channels
    of a residual stream, the values of attention and the sorted pairs of MaxMin are units. Fresh rows have
    the norm of the layer's own initial rows, not that of a Kaiming initialisation. The authors' code zeroes
    the running mean before it moves it into the bias, which makes the compensation inert; here it works.
    Adam's step count is one number for a whole tensor and stays.

    Args:
        replacement_rate: units replaced per eligible unit and step, in [0, 1].
        maturity: steps that a unit is safe from replacement, >= 0.
        decay: eta, in [0, 1).

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", Nature 632, 2024; arXiv:2306.13812.
    """

    name: ClassVar[str] = "cbp"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Continual Backprop",
        source="Dohare et al., arXiv:2306.13812, algorithm 1",
        controls="activations: rows of the least useful units start anew",
        spectrum="activations",
        family="resets",
        cost="the mean of what every layer reads, and a tenth of a pass over the weights",
        strength="replacement_rate",
        claims=frozenset({"units"}),
    )

    replacement_rate: float = 1e-4
    maturity: int = 20
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "replacement_rate")
        fraction(self, "decay", below_one=True)
        at_least(self, 0, "maturity")

    @staticmethod
    def watch(live: LiveUnits) -> Sequence[Sensor]:
        """Watch what every reader reads."""
        return [_Read(reader.probe) for reader in live.readers]

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Update the utilities and replace the units that are due."""
        groups = self.groups
        if self.replacement_rate == 0 or not groups:
            return
        self._update(groups, step.step)
        accounts = self.state.setdefault("accounts", {})
        first, chosen = 0, []
        for live, _ in groups:
            if live.name not in accounts:
                accounts[live.name] = _new_account(live)
            due = self._due(accounts[live.name], live.size, step.step)
            if due:
                chosen.append((live, self._choose(live, due, first, step.step)))
            first += sum(_widths(live))
        if chosen:
            reset_(chosen, step.optimizer)

    def _update(self, groups: Sequence[tuple[LiveUnits, Sequence[Sensor]]], now: int) -> None:
        """Running means of every feature that is read, and of its contribution: one vector for all layers."""
        read = [sensor.value for _, sensors in groups for sensor in sensors]
        means, activities = (torch.cat(values) for values in zip(*read, strict=True))
        if (now - 1) % _REFRESH == 0:
            readers = [reader for live, _ in groups for reader in live.readers]
            self.state["magnitudes"] = torch.cat([reader.magnitudes() for reader in readers])
        contributions = activities * self.state["magnitudes"]
        if "means" not in self.state:
            self.state.update(means=torch.zeros_like(means), contributions=torch.zeros_like(contributions))
        self.state["means"].lerp_(means, 1 - self.decay)
        self.state["contributions"].lerp_(contributions, 1 - self.decay)

    def _due(self, account: dict[str, Any], size: int, now: int) -> int:
        """How many units of a group to replace now; known without asking the device, see `_new_account`."""
        births = account["births"]
        while births and now - births[0][0] > self.maturity:
            account["young"] -= births.pop(0)[1]
        eligible = size - account["young"]
        account["owed"] += self.replacement_rate * eligible
        due: int = min(int(account["owed"]), eligible)
        account["owed"] -= due
        return due

    def _choose(self, live: LiveUnits, due: int, first: int, now: int) -> Tensor:
        """Choose the least useful mature units of a group whose features begin at `first`.

        What they contribute on average moves into the biases, and all that is remembered of them is gone.
        """
        account = self.state["accounts"][live.name]
        means, contributions, magnitudes = (
            _per_reader(live, self.state[name], first) for name in ("means", "contributions", "magnitudes")
        )
        ages = now - account["born"]
        # Adam's correction of a running mean that started at zero.
        correction = 1 - self.decay ** ages.to(means[0].dtype)
        utility = torch.stack([own.sum((1, 2)) for own in contributions]).sum(0) / correction
        units: Tensor = (
            utility.masked_fill_(ages <= self.maturity, torch.inf).topk(due, largest=False).indices
        )
        for reader, mean in zip(live.readers, means, strict=True):
            reader.absorb_(units, mean[units] / correction[units].view(-1, 1, 1))
        for own in (*means, *contributions, *magnitudes):
            own.index_fill_(0, units, 0.0)
        account["born"].index_fill_(0, units, now)
        account["births"].append([now, due])
        account["young"] += due
        return units


class _Read(Sensor):
    """The mean and the mean absolute value of every feature that a layer reads."""

    def measure(self, values: Tensor) -> tuple[Tensor, Tensor]:
        dims = self.probe.other_dims(values)
        count = values.numel() / values.shape[self.probe.dim]
        # In bfloat16 a running mean stops at about 0.8 of its goal: the last hundredth parts are rounded off.
        exact = torch.promote_types(values.dtype, torch.float32)
        # On a CPU mean() over the first dimension takes nine times as long as sum().
        total, absolute = values.sum(dims, dtype=exact), values.abs().sum(dims, dtype=exact)
        return total.div_(count), absolute.div_(count)


def _new_account(live: LiveUnits) -> dict[str, Any]:
    """What is remembered of a group, beside the running means.

    born holds the step after which each unit began. births lists the same for the host, as pairs of step
    and number of units, of those that may still be young; young is their number. Which units were replaced
    only the device knows, but how many of them are mature follows from when how many were.
    """
    born = torch.zeros(live.size, dtype=torch.long, device=live.outgoing[0].tensor.device)
    return {"born": born, "births": [[0, live.size]], "young": live.size, "owed": 0.0}


def _widths(live: LiveUnits) -> list[int]:
    """Number of features in which each reader of a group reads it."""
    return [live.size * reader.probe.parts * reader.probe.inner for reader in live.readers]


def _per_reader(live: LiveUnits, features: Tensor, first: int) -> list[Tensor]:
    """Numbers of the group's features, as one view (size, parts, inner) for each reader."""
    views = []
    for reader, width in zip(live.readers, _widths(live), strict=True):
        views.append(reader.probe.units_first(features[first : first + width]))
        first += width
    return views
