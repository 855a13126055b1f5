"""What a trace finds out about the units that lie in one place, and how such sets become one group."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor, nn

from isoplast.model.units._groups import Probe, Slot, UnitGroup
from isoplast.model.units._layout import Layout, Untraceable


@dataclasses.dataclass
class UnitSet:
    """What is known of some units while they are followed; dicts serve as ordered sets."""

    name: str
    size: int
    incoming: dict[Slot, None] = dataclasses.field(default_factory=dict)
    norms: dict[Slot, None] = dataclasses.field(default_factory=dict)
    outgoing: dict[Slot, None] = dataclasses.field(default_factory=dict)
    inputs: dict[Probe, None] = dataclasses.field(default_factory=dict)
    outputs: dict[Probe, None] = dataclasses.field(default_factory=dict)
    activations: list[str] = dataclasses.field(default_factory=list)
    members: int = 1
    expansion: int = 1
    mixed: bool = False
    normed_after: bool = False
    values: bool = False
    reason: str = ""

    def lose(self, reason: str) -> None:
        """Note why the units must be left out; the first reason stays."""
        self.reason = self.reason or reason

    def join(self, other: UnitSet) -> None:
        """Take over everything that is known of another set."""
        for field in ("incoming", "norms", "outgoing", "inputs", "outputs"):
            getattr(self, field).update(getattr(other, field))
        self.activations += other.activations
        self.members, self.expansion = max(self.members, other.members), max(self.expansion, other.expansion)
        self.mixed |= other.mixed
        self.normed_after |= other.normed_after
        self.values |= other.values
        self.lose(other.reason)

    @property
    def hidden(self) -> bool:
        """Whether these are units that somebody may want to reset."""
        return bool(self.activations) or self.values

    @property
    def title(self) -> str:
        """The name of the last activation module, else of the first layer."""
        return next((name for name in reversed(self.activations) if name), self.name)

    def why_not(self) -> str:
        """Why they must be left out, "" if they need not."""
        if self.reason:
            return self.reason
        if not self.outgoing:
            return "no layer reads its units"
        if self.size % self.members:
            return f"{self.size} units do not divide into groups of {self.members}"
        if self.normed_after and not self._watched():
            return "its activation is a function in front of a normalisation, and cannot be watched"
        return ""

    def _watched(self) -> bool:
        """Whether every nonlinearity is a module that is called once."""
        return bool(self.outputs) and len(self.outputs) == len(self.activations)

    def group(self, name: str) -> UnitGroup:
        """Return the finished group. A sorted group of members is one unit: it gets so many parts."""
        probes = self.outputs if self._watched() else self.inputs
        return UnitGroup(
            name=name,
            size=self.size // self.members,
            activations=tuple(self.activations),
            incoming=tuple(self._slot(slot) for slot in self.incoming),
            norms=tuple(self._slot(slot) for slot in self.norms),
            outgoing=tuple(self._slot(slot) for slot in self.outgoing),
            probes=tuple(dataclasses.replace(each, parts=each.parts * self.members) for each in probes),
            mixed=self.mixed,
            expansion=self.expansion,
            members=self.members,
            kind="hidden" if self.activations else "value",
        )

    def _slot(self, slot: Slot) -> Slot:
        return dataclasses.replace(slot, parts=slot.parts * self.members)


class Forest:
    """Sets of units that may turn out to be one and the same."""

    def __init__(self) -> None:
        self.sets: list[UnitSet] = []
        self._links: list[int] = []
        self._owners: dict[tuple[int, str], list[tuple[Slot, int]]] = {}

    def start(self, found: UnitSet) -> int:
        """Add a set and return its number."""
        self._links.append(len(self.sets))
        self.sets.append(found)
        return len(self.sets) - 1

    def root(self, number: int) -> int:
        """Return the number of the set that this one has become."""
        while self._links[number] != number:
            number = self._links[number]
        return number

    def of(self, layout: Layout) -> UnitSet:
        """Return the set that lies in a value."""
        return self.sets[self.root(layout.root)]

    def join(self, first: int, second: int) -> None:
        """Make two sets one. The earlier one stays, so that groups keep the order of the computation."""
        first, second = sorted((self.root(first), self.root(second)))
        if first == second:
            return
        if self.sets[first].size != self.sets[second].size:
            raise Untraceable(f"it meets {self.sets[second].size} other units")
        self.sets[first].join(self.sets[second])
        self._links[second] = first

    def own(self, model: nn.Module, slots: Iterable[Slot], number: int, role: str) -> None:
        """Note whose entries a tensor holds: one that several layers share ties their units together.

        The role keeps writers and readers apart: a depthwise kernel has rows for both sides.
        """
        for slot in slots:
            self._owners.setdefault((id(slot.find(model)), role), []).append((slot, number))

    def tie(self) -> None:
        """Join the sets that own the same entries of a shared tensor."""
        for users in self._owners.values():
            for slot, number in users:
                for other, its_number in users:
                    if slot.dim != other.dim or self.root(number) == self.root(its_number):
                        continue
                    try:
                        if (slot.parts, slot.inner) != (other.parts, other.inner):
                            raise Untraceable(f"{slot.module} shares its weight with a layer of other units")
                        self.join(number, its_number)
                    except Untraceable as lost:
                        self.sets[self.root(number)].lose(str(lost))

    def used_bare(self, tensor: Tensor, where: str) -> None:
        """Note that a tensor is used outside of its layer."""
        for (owned, _), users in self._owners.items():
            for _, number in users if owned == id(tensor) else ():
                self.sets[self.root(number)].lose(f"{where} is used outside of its layer")

    def roots(self) -> list[UnitSet]:
        """Return the sets that are left."""
        return [found for number, found in enumerate(self.sets) if self._links[number] == number]
