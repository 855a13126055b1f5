"""Several methods at once: `adamo+layernorm`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast._core.settings import Settings
from isoplast.methods._protocol import Inputs, Method, MethodInfo, StepContext, TaskContext

CLAIMS = {
    "optimizer": "bring an optimizer of their own",
    "step": "do the optimizer's step in their own way",
    "evaluation": "evaluate other weights than the trained ones",
    "activation": "choose the nonlinearity",
    "normalization": "choose the normalisation",
    "units": "reset units by statistics of their own",
    "scale": "set the scale of the weights after each step",
    "weights": "compute the weights from other parameters",
    "layers": "start whole layers anew",
}
"""What only one part of a combination may do, and how it is said of two."""

# What moves the weights at once, where a task begins.
_JUMPS = frozenset({"dash", "fire", "full-reset", "head-reset", "last-layers-reset", "shrink-perturb-tasks"})
# (the one, the others, why not): what no claim of both expresses.
_FIGHTS = (
    (
        "parseval",
        frozenset({"newton-schulz", "spectral-norm"}),
        "{other} computes the weights that parseval would hold from other parameters",
    ),
    ("c-chain", _JUMPS, "c-chain would pull the network back to its outputs from before {other}"),
    ("hare-tortoise", _JUMPS, "the hare goes back to an average over the weights that {other} has changed"),
    (
        "schedule-free",
        (_JUMPS - {"full-reset"}) | {"nap", "plasticity-injection", "shrink-perturb", "weight-clipping"},
        "schedule-free averages weights of its own, which {other} does not reach",
    ),
)


@dataclasses.dataclass(frozen=True)
class Combination(Method):
    """Methods whose hooks are called one after the other, in the order of the parts.

    The optimizer is that of the part that claims one, Adam if none does. Two parts that claim the same thing
    are refused, because the second would undo what the first does.

    Args:
        parts: the methods, at least two, no two of one name.

    Raises:
        IsoplastError: for parts that would fight, with the reason.

    Example:
        >>> from isoplast.methods import get
        >>> Combination((get("adamo"), get("layernorm"))).name
        'adamo+layernorm'
    """

    name: ClassVar[str] = "combination"

    parts: tuple[Method, ...]

    def __post_init__(self) -> None:
        refuse_twice([part.name for part in self.parts])
        owners: dict[str, Method] = {}
        for part in self.parts:
            for claim in sorted(part.info.claims):
                if claim in owners:
                    raise IsoplastError(
                        f"{owners[claim].name} and {part.name} cannot be combined: "
                        f"both {CLAIMS.get(claim, f'claim {claim!r}')}; leave one of them out"
                    )
                owners[claim] = part
        _check_fights({part.name for part in self.parts})
        # The state of each part, under its name in a checkpoint.
        self.state.update({part.name: part.state for part in self.parts})
        object.__setattr__(self, "name", "+".join(part.name for part in self.parts))
        object.__setattr__(self, "info", _info(self.parts))

    def settings(self) -> Settings:
        """Return the settings of all parts, each with its part's name in front."""
        found = [(part.name, *pair) for part in self.parts for pair in part.settings()]
        return tuple(sorted((f"{part}.{field}", value) for part, field, value in found))

    def prepare(self, model: nn.Module) -> nn.Module:
        """Let every part prepare the network, first those that change its layers: the others look at them."""
        for part in sorted(self.parts, key=_first_changed):
            model = part.prepare(model)
        return model

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return the optimizer of the part that claims one, else Adam."""
        return self._claimant("optimizer").optimizer(model, lr)

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Let every part look at the network."""
        for part in self.parts:
            part.begin(model, optimizer)

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return the sum of the penalties, None if there is none."""
        found = [part.penalty(model, inputs) for part in self.parts]
        terms = [term for term in found if term is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def step(self, optimizer: Optimizer, closure: Callable[[], Tensor]) -> Tensor:
        """Do one optimizer step, as the part that claims it does."""
        return self._claimant("step").step(optimizer, closure)

    def after_step(self, step: StepContext) -> None:
        """Let every part act."""
        for part in self.parts:
            part.after_step(step)

    def on_task(self, task: TaskContext) -> None:
        """Let the parts act that need task boundaries."""
        for part in self.parts:
            if part.info.needs_task_boundaries:
                part.on_task(task)

    @contextlib.contextmanager
    def evaluated(self, model: nn.Module, optimizer: Optimizer) -> Iterator[nn.Module]:
        """Yield the network that the part which claims evaluation wants evaluated."""
        with self._claimant("evaluation").evaluated(model, optimizer) as shown:
            yield shown

    def report(self, optimizer: Optimizer, steps: int) -> list[str]:
        """Return the lines of every part."""
        return [line for part in self.parts for line in part.report(optimizer, steps)]

    def load_state(self, state: dict[str, Any]) -> None:
        """Give every part what it remembered."""
        for part in self.parts:
            part.load_state(state[part.name])

    def release(self) -> None:
        """Take all hooks of all parts off the model."""
        for part in self.parts:
            part.release()

    def _claimant(self, claim: str) -> Method:
        """The part that claims this; any does what the protocol does by default."""
        return next((part for part in self.parts if claim in part.info.claims), self.parts[0])


def refuse_twice(names: list[str]) -> None:
    """Raise for a name that stands twice in a combination."""
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise IsoplastError(f"method {'+'.join(names)!r} names {twice} twice: once is enough")


def _check_fights(names: set[str]) -> None:
    for one, others, reason in _FIGHTS:
        if one in names and names & others:
            other = min(names & others)
            raise IsoplastError(
                f"{one} and {other} cannot be combined: {reason.format(other=other)}; leave one of them out"
            )


# What changes widths comes before what takes layers over as they are, and both before what copies layers:
# hooks come last, on the layers that will be trained.
_CHANGES = ("activation", "normalization", "weights", "layers")


def _first_changed(part: Method) -> int:
    """The place of a part in the order in which the parts prepare the network."""
    found = (index for index, claim in enumerate(_CHANGES) if claim in part.info.claims)
    return next(found, len(_CHANGES))


def _info(parts: tuple[Method, ...]) -> MethodInfo:
    infos = [part.info for part in parts]
    return MethodInfo(
        title=" + ".join(info.title for info in infos),
        source="; ".join(info.source for info in infos),
        controls="; ".join(dict.fromkeys(info.controls for info in infos)),
        spectrum=max((info.spectrum for info in infos), key=_ORDER.index),
        family=infos[0].family,
        cost="; ".join(dict.fromkeys(info.cost for info in infos if info.cost != "nothing")) or "nothing",
        needs_task_boundaries=any(info.needs_task_boundaries for info in infos),
        needs_inputs=any(info.needs_inputs for info in infos),
        keeps_function=all(info.keeps_function for info in infos),
        claims=frozenset().union(*(info.claims for info in infos)),
    )


_ORDER = ("none", "activations", "largest", "mean square", "all")
