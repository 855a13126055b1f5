"""Whose turn it is: when each matrix of a parameter group takes the isometry that it owes.

What changes in every step is one integer sum and one countdown per group, held here and not in the groups
or the state, whose plain numbers torch.compile would guard by value and recompile for. In a state dict, and
for parameters that take no part at the moment, it stands in the parameters' state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
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

# "auto" waits so long that the equilibrium moves by 1 % of its distance from isometry (the relative
# bias of waiting T steps is 4 c T: T is 2 % of the time constant), and at most 250 steps: the products take
# 2 % of the step of the paper's MLP at batch 16 then, and longer waits would gain little.
AUTO_TOLERANCE = 0.01
AUTO_LONGEST = 250

# Strengths are counted in these units, so that sums are exact in any order and a resumed run goes on to the
# same bits; the smallest useful strength, 1e-9, is a thousand million of them.
UNIT = 2.0**-60
_MOST_UNITS = 2.0**900  # of a strength at which lr * isometry overflows


class Turns:
    """The matrices of one group that have a gradient, what they owe, and when the next one acts.

    Attributes:
        group: the parameter group.
        active: its parameters that have a gradient.
        matrices: those of them that are kept isometric, with their layouts.
        amortised: whether turns are taken at all; else every matrix acts in every step.
    """

    def __init__(
        self, group: Group, active: Sequence[Tensor], matrices: Sequence[tuple[Tensor, Layout]]
    ) -> None:
        self.group = group
        self.active = list(active)
        self.matrices = list(matrices)
        self.amortised = False
        self._layout_settings = _layout_settings(group)
        self._clock = 0  # the strength of all steps so far, in units
        self._paid = [0] * len(self.matrices)  # the clock when each last acted; it owes the difference
        self._place = 0  # the matrix whose turn is next
        self._wait = 1  # steps until then
        self._known: tuple[float, int | str] = (0.0, 0)  # a strength and the setting of the period,
        self._units = self._period = 0  # and what they mean
        self._read: tuple[Tensor, int, float] | None = None  # a learning rate that is a tensor

    def fits(self, group: Group, params: Sequence[Tensor]) -> bool:
        """Whether nothing has changed since the last step: 2 microseconds for 200 parameters."""
        return (
            self.group is group
            and len(params) == len(self.active)
            and all(map(is_, params, self.active))
            and self._layout_settings == _layout_settings(group)
        )

    def take_over(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Goes on from what was saved, or was at rest, of each matrix."""
        for k, entry in enumerate(entries):
            units = entry.get(OWED, 0)
            self._paid[k] = -units if isinstance(units, int) else -round(units / UNIT)
        self._wait = max(1, min((entry[WAIT] for entry in entries if WAIT in entry), default=1))
        # The one that owes most has waited longest: the first of them where several acted together.
        self._place = min(range(len(self._paid)), key=self._paid.__getitem__, default=0)

    def rate(self, rate: float | Tensor) -> float:
        """A learning rate as the host knows it: one on a device is waited for when it has changed, only."""
        if not isinstance(rate, Tensor):
            return rate
        version = -1 if rate.is_inference() else rate._version
        if self._read is None or self._read[0] is not rate or self._read[1] != version or version < 0:
            self._read = (rate, version, float(rate))
        return self._read[2]

    def due(self, strength: float, every: int | str) -> Sequence[tuple[Tensor, Layout, float]]:
        """Counts one step, and says which matrices act in it with which strength.

        A full round takes a period; matrix k of n acts k * period / n steps after the first.

        Args:
            strength: lr * isometry of this step, > 0.
            every: the period in steps, or "auto".
        """
        if self._known != (strength, every):
            self._known = (strength, every)
            self._units = max(1, round(min(strength / UNIT, _MOST_UNITS)))
            self._period = steps_between(strength) if isinstance(every, str) else every
            # A wait that was set at a lower learning rate may be longer than the present ones.
            self._wait = min(self._wait, -(-self._period // max(1, len(self.matrices))))
        self._clock += self._units
        self._wait -= 1
        return self._acting() if self._wait <= 0 else ()

    def _acting(self) -> list[tuple[Tensor, Layout, float]]:
        n = len(self.matrices)
        acting: list[tuple[Tensor, Layout, float]] = []
        while self._wait <= 0 and len(acting) < n:
            k = self._place
            acting.append((*self.matrices[k], (self._clock - self._paid[k]) * UNIT))
            self._paid[k] = self._clock
            self._place = (k + 1) % n
            self._wait = (k + 1) * self._period // n - k * self._period // n
        self._wait = max(self._wait, 1)
        return acting

    def owed(self) -> Iterable[tuple[Tensor, dict[str, Any]]]:
        """What is to be saved of each matrix."""
        for (p, _), paid in zip(self.matrices, self._paid, strict=True):
            yield p, {OWED: self._clock - paid, WAIT: self._wait}


def steps_between(strength: float) -> int:
    """The number of steps that ``isometry_every="auto"`` waits at a strength lr * isometry > 0."""
    return max(1, int(min(AUTO_LONGEST, AUTO_TOLERANCE / (4 * strength) + 1e-3)))


class Schedule:
    """The turns of all groups of an optimizer.

    Attributes:
        roles: what the parameters are for.
        told: whether the user knows that the guard shortens steps.
    """

    def __init__(self, roles: Roles = BY_SHAPE) -> None:
        self.roles = roles
        self.told = False
        self._had_matrices: set[int] = set()
        self._turns: dict[int, Turns] = {}

    def expect(self, groups: Sequence[Group]) -> None:
        """Remembers which groups hold matrices to keep isometric: whoever takes them away is found out."""
        self._had_matrices = {
            index
            for index, group in enumerate(groups)
            if group["isometry"] > 0 and self.roles.matrices(group["params"], group)
        }

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
            self._refuse_replaced(index, group)
            if found is not None and found.group is not group:  # groups were replaced or have moved
                for p, entry in self.owed():
                    state[p].update(entry)
                self._turns.clear()
                found = None
            found = self._turns[index] = self._renewed(found, group, params, state)
        return found

    def _refuse_replaced(self, index: int, group: Group) -> None:
        """DeepSpeed (ZeRO 1 and 2, BF16_Optimizer) puts flat partitions in the place of a group's weights."""
        if index in self._had_matrices and not self.roles.matrices(group["params"], group):
            shapes = ", ".join(str(tuple(p.shape)) for p in group["params"][:3])
            raise ValueError(
                f"the weights of parameter group {index} were replaced by flat ones, shape {shapes}, which "
                "hold no matrix to keep isometric: DeepSpeed does that; use fully_shard (FSDP2), or ZeRO 0"
            )

    def _renewed(
        self, old: Turns | None, group: Group, params: Sequence[Tensor], state: Mapping[Any, State]
    ) -> Turns:
        owed: dict[Tensor, dict[str, Any]] = {} if old is None else dict(old.owed())
        new = Turns(group, params, self.roles.matrices(params, group))
        new.amortised = old is not None and old.amortised
        new.take_over([owed.pop(p, {}) or _taken_from(state.get(p)) for p, _ in new.matrices])
        if new.amortised:
            for p, left in owed.items():
                state[p].update(left)
        return new

    def saved(
        self, state_dict: Mapping[str, Any], groups: Sequence[Group], state: Mapping[Any, State]
    ) -> dict[str, Any]:
        """A copy of the optimizer's state dict that holds what is owed.

        Args:
            state_dict: the one that torch made.
            groups: the optimizer's groups, in the same order.
            state: the optimizer's state. It is told as well: flat distributed checkpoints restore the keys
                that they find there, and no others.
        """
        packed = dict(state_dict["state"])
        places = {
            p: index
            for group, saved in zip(groups, state_dict["param_groups"], strict=True)
            for p, index in zip(group["params"], saved["params"], strict=True)
        }
        for p, entry in self.owed():
            if p in places:
                state[p].update(entry)
                packed[places[p]] = {**packed.get(places[p], {}), **entry}
        return {**state_dict, "state": packed}

    def owed(self) -> Iterable[tuple[Tensor, dict[str, Any]]]:
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
