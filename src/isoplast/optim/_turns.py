"""Whose turn it is: when each matrix of a parameter group takes the isometry that it owes.

What changes in every step is one integer sum and one countdown per group, held here and not in the groups
or the state, whose plain numbers torch.compile would guard by value and recompile for. In a state dict, and
for parameters that take no part at the moment, it stands in the parameters' state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

from torch import Tensor

from isoplast.optim._roles import BY_SHAPE, Layout, Roles

Group = dict[str, Any]
State = MutableMapping[Any, Any]

# Per-parameter state of the amortised mode, as plain numbers: torch casts floating state tensors to the
# parameter's dtype when it loads them, and a bfloat16 sum of strengths would be off by 0.4 %.
OWED = "isometry_owed"  # the strength, sum of lr * isometry, that has not been applied yet, in units
WAIT = "isometry_wait"  # steps until the next turn of a matrix of its group

# Strengths are counted in these units, so that sums are exact in any order and a resumed run goes on to the
# same bits; the smallest useful strength, 1e-9, is a thousand million of them.
UNIT = 2.0**-60


@dataclass
class Turns:
    """The matrices of one group that have a gradient, what they owe, and when the next one acts.

    Attributes:
        group: the parameter group.
        layout_settings: its settings that decide how parameters are seen.
        active: its parameters that have a gradient.
        matrices: those of them that are kept isometric, with their layouts.
        clock: the strength of all steps so far, in units.
        paid: for each matrix the clock when it last acted; it owes the difference.
        place: the matrix whose turn is next.
        wait: steps until then.
        amortised: whether turns are taken at all; else every matrix acts in every step.
    """

    group: Group
    layout_settings: tuple[Any, ...]
    active: list[Tensor]
    matrices: list[tuple[Tensor, Layout]]
    clock: int = 0
    paid: list[int] = field(default_factory=list)
    place: int = 0
    wait: int = 1
    amortised: bool = False

    def fits(self, group: Group, params: Sequence[Tensor]) -> bool:
        """Whether nothing has changed since the last step: 4 microseconds for 200 parameters."""
        return (
            self.group is group
            and len(params) == len(self.active)
            and all(map(is_, params, self.active))
            and self.layout_settings == _layout_settings(group)
        )

    def due(self, strength: float, period: int) -> list[tuple[Tensor, Layout, float]]:
        """Counts one step, and says which matrices act in it with which strength.

        A full round takes ``period`` steps; matrix k acts k * period / n steps after the first.

        Args:
            strength: lr * isometry of this step, > 0.
            period: steps between two turns of a matrix.
        """
        self.amortised = True
        self.clock += max(1, round(strength / UNIT))
        n = len(self.matrices)
        # A wait that was set at a lower learning rate may be longer than the present ones.
        self.wait = min(self.wait, -(-period // max(n, 1))) - 1
        acting: list[tuple[Tensor, Layout, float]] = []
        while self.wait <= 0 and len(acting) < n:
            k = self.place
            acting.append((*self.matrices[k], (self.clock - self.paid[k]) * UNIT))
            self.paid[k] = self.clock
            self.place = (k + 1) % n
            self.wait = (k + 1) * period // n - k * period // n
        self.wait = max(self.wait, 1)
        return acting

    def owed(self) -> Iterable[tuple[Tensor, dict[str, int]]]:
        """What is to be saved of each matrix."""
        for (p, _), paid in zip(self.matrices, self.paid, strict=True):
            yield p, {OWED: self.clock - paid, WAIT: self.wait}


class Schedule:
    """The turns of all groups of an optimizer.

    Attributes:
        roles: what the parameters are for.
        told: whether the user knows that the guard shortens steps.
    """

    def __init__(self, roles: Roles = BY_SHAPE) -> None:
        self.roles = roles
        self.told = False
        self._turns: dict[int, Turns] = {}

    def turns(self, index: int, group: Group, params: Sequence[Tensor], state: Mapping[Any, State]) -> Turns:
        """The turns of a group in this step.

        Args:
            index: the group's place in the optimizer.
            group: a settled parameter group.
            params: those of its parameters that have a gradient.
            state: the optimizer's state: gives back what a parameter owes when it takes part again, and
                keeps it while it does not.
        """
        found = self._turns.get(index)
        if found is None or not found.fits(group, params):
            if found is not None and found.group is not group:  # groups were replaced or have moved
                for p, entry in self.owed():
                    state[p].update(entry)
                self._turns.clear()
                found = None
            found = self._turns[index] = self._renewed(found, group, params, state)
        return found

    def _renewed(
        self, old: Turns | None, group: Group, params: Sequence[Tensor], state: Mapping[Any, State]
    ) -> Turns:
        owed = {} if old is None else dict(old.owed())
        matrices = self.roles.matrices(params, group)
        new = Turns(group, _layout_settings(group), list(params), matrices)
        new.amortised = old is not None and old.amortised
        waits = []
        for p, _ in matrices:
            entry = owed.pop(p, None) or _taken_from(state.get(p))
            units = entry.get(OWED, 0)
            new.paid.append(-units if isinstance(units, int) else -round(units / UNIT))
            if WAIT in entry:
                waits.append(entry[WAIT])
        if new.amortised:
            for p, left in owed.items():
                state[p].update(left)
        new.wait = max(1, min(waits, default=1))
        # The one that owes most has waited longest: the first of them where several acted together.
        new.place = min(range(len(new.paid)), key=new.paid.__getitem__, default=0)
        return new

    def saved(self, state_dict: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
        """A copy of the optimizer's state dict that holds what is owed.

        Args:
            state_dict: the one that torch made.
            groups: the optimizer's groups, in the same order.
        """
        packed = dict(state_dict["state"])
        places = {
            p: index
            for group, saved in zip(groups, state_dict["param_groups"], strict=True)
            for p, index in zip(group["params"], saved["params"], strict=True)
        }
        for p, entry in self.owed():
            if p in places:
                packed[places[p]] = {**packed.get(places[p], {}), **entry}
        return {**state_dict, "state": packed}

    def owed(self) -> Iterable[tuple[Tensor, dict[str, int]]]:
        """What is to be saved of each matrix of the groups that wait for turns."""
        for turns in self._turns.values():
            if turns.amortised:
                yield from turns.owed()


def _taken_from(entry: State | None) -> dict[str, Any]:
    """What a parameter's state says is owed, removed from it."""
    if entry is None:
        return {}
    return {key: entry.pop(key) for key in (OWED, WAIT) if key in entry}


def _layout_settings(group: Group) -> tuple[Any, ...]:
    return group["isometry_split"], group["isometry_batch_dims"], group["isometry_operator"]
