"""Which optimizer an attachment acts on: the one that was given, or the one inside it."""

from __future__ import annotations

from typing import Any

from torch.optim import LBFGS, Optimizer

from isoplast.optim._adamo import AdamO

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
    "_optimizer_state_dict_post_hooks",
)
# They place the weights anew in every step: TRAC, and what mechanize() makes, at a scaled distance from the
# first ones, FTRL as a function of the sum of all gradients.
_PLACING = ("trac", "mechani", "ftrl")


def chain(optimizer: object) -> list[Any]:
    """An optimizer and those that it wraps, one inside the other; the last one does the steps.

    Accelerate's, Lookahead's, sharpness-aware and schedule-free wrappers hand the step on to an optimizer of
    the same parameters, after they have put the weights where its step belongs. They may bypass their own
    `step` (first_step and second_step of sharpness-aware minimisation), and many do not call its hooks.

    Args:
        optimizer: what the user trains with.

    Raises:
        TypeError: for what is no optimizer, and for one whose step does not call torch's hooks.
        ValueError: for an optimizer that would undo the isometry step or whose step cannot be followed.
    """
    found = [optimizer]
    while True:
        _refuse_unfit(found[-1])
        inner = _inside(found[-1])
        if inner is None:
            break
        found.append(inner)
    _refuse_unhooked(found[-1])
    return found


def _refuse_unfit(optimizer: object) -> None:
    kind = type(optimizer).__name__
    if isinstance(optimizer, AdamO):
        raise ValueError("AdamO has the isometry step built in: set isometry= there instead of attaching")
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS moves the weights several times inside one step; attach cannot follow it")
    if kind.lower().startswith(_PLACING):
        raise ValueError(
            f"{kind} places the weights anew in every step, wherever they are, which would undo the isometry "
            "step: attach to a plain optimizer, or use AdamO"
        )


def _inside(optimizer: object) -> Optimizer | None:
    """The optimizer that another one wraps: an attribute of it, for the same parameters."""
    groups = getattr(optimizer, "param_groups", None)
    inner = [
        o
        for o in getattr(optimizer, "__dict__", {}).values()
        if isinstance(o, Optimizer) and o is not optimizer
    ]
    # Copies of the weights in higher precision stand in for the wrapper's where it has no groups of its own.
    same = [o for o in inner if groups is None or _parameters(o.param_groups) == _parameters(groups)]
    return same[0] if len(same) == 1 else None


def _parameters(groups: Any) -> set[int]:
    return {id(p) for group in groups for p in group["params"]}


def _refuse_unhooked(optimizer: object) -> None:
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"attach needs a torch optimizer, not {kind}")
    if hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step"):
        raise ValueError(
            f"{kind} can step by first_step() and second_step(), which call no hooks, and holds no optimizer "
            "to attach to: attach needs one that does the update in its own step()"
        )
    if not (getattr(type(optimizer).step, "hooked", False) and all(hasattr(optimizer, h) for h in _HOOKS)):
        raise TypeError(
            f"{kind} does not call torch's step hooks (its class never called Optimizer.__init__): attach to "
            "the optimizers that it holds"
        )
