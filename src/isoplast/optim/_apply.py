"""The isometry step on the matrices of a parameter group: at once, or amortised over many steps."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from isoplast.isometry import (
    edit_matrices_,
    flow_step,
    flow_step_,
    isometry_step,
    isometry_step_,
    join_matrices,
    operator_step,
)
from isoplast.optim._groups import Group, learning_rate
from isoplast.optim._roles import Layout
from isoplast.optim._turns import AUTO_TOLERANCE, Schedule, State, Turns

Strength = float | Tensor
InPlace = Callable[[Tensor, Strength], Tensor]
Follow = Callable[[Tensor], Sequence[Tensor]]

# The amortised step may take the polynomial within the accuracy that waiting costs anyway.
_FLOW = functools.partial(flow_step_, tolerance=AUTO_TOLERANCE)

# Stacking matrices of equal shape saves kernel launches and costs two more passes over them: worth it
# where launches dominate. On a CPU a step took 65 us alone and 42 in a stack of 16 at 32 x 32, but 80 and 105
# at 64 x 64. A GPU's bound is an estimate from launches of 5 to 10 us.
_STACKED_BELOW = {"cpu": 32 * 32, "cuda": 10**6}


class Work(NamedTuple):
    """One parameter that acts in this step."""

    param: Tensor
    layout: Layout
    strength: Strength


# The step is a few large products and what decides about it is plain Python: nothing to compile, wherever it
# is called from. This is torch.compiler.disable as torch.optim uses it: it imports the compiler when first
# called, not here, where that would cost seconds.
@_disable_dynamo
def apply_isometry_(
    schedule: Schedule,
    index: int,
    group: Group,
    params: Sequence[Tensor],
    state: Mapping[Any, State],
    found_inf: Tensor | None = None,
) -> None:
    """Does one optimizer step's worth of isometry, and of bias decay, for parameters with a gradient.

    With ``isometry_every=1`` every matrix takes the step of Eq 20 and nothing is remembered. Else a
    matrix owes the strength of each step until its turn comes, and then takes all of it at once by
    the closed form; the turns of a group's matrices are spread evenly, so the cost per step is flat.

    Args:
        schedule: the turns of the optimizer's groups, and what their parameters are for.
        index: the group's place in the optimizer.
        group: a settled parameter group.
        params: those of its parameters that the optimizer is about to update.
        state: the optimizer's state, which keeps what parameters without a gradient owe.
        found_inf: GradScaler's 0-d flag, 1 where the step must not happen, or None.
    """
    if group["bias_decay"] > 0:
        decay_biases_(group, schedule.roles.biases(params), found_inf)
    if group["isometry"] > 0:
        work = isometry_work(schedule, index, group, params, state, found_inf)
        if work:
            do_work_(work, group, schedule)


def decay_biases_(
    group: Group, biases: Sequence[Tensor], found_inf: Tensor | None, follow: Follow | None = None
) -> None:
    """b <- (1 - lr gamma) b for the biases of a group; follow as for :func:`do_work_`."""
    lose = learning_rate(group) * group["bias_decay"] * _go(found_inf)
    with torch.set_grad_enabled(_differentiable(group)):
        for bias in biases:
            for other in follow(bias) if follow is not None else ():
                other.sub_(bias.detach() * lose)
            bias.mul_(1 - lose)


def isometry_work(
    schedule: Schedule,
    index: int,
    group: Group,
    params: Sequence[Tensor],
    state: Mapping[Any, State],
    found_inf: Tensor | None,
) -> list[Work]:
    """Counts one step of a group, and says which of its parameters act in it; see :func:`apply_isometry_`."""
    turns = schedule.turns(index, group, params, state)
    if group["isometry_every"] == 1 or group.get("capturable"):
        return _exact_work(group, turns, found_inf)
    return _amortised_work(group, turns, found_inf)


def _go(found_inf: Tensor | None) -> Tensor | int:
    """1, or as a tensor 0 where GradScaler skips the step: masks without asking the device."""
    return 1 if found_inf is None else 1 - found_inf


def _differentiable(group: Group) -> bool:
    return bool(group.get("differentiable")) and torch.is_grad_enabled()


def _exact_work(group: Group, turns: Turns, found_inf: Tensor | None) -> list[Work]:
    turns.amortised = False
    rate = learning_rate(group)
    if not group.get("capturable"):
        rate = turns.rate(rate)
        if rate == 0:
            return []
    elif isinstance(rate, Tensor):
        rate = rate.reshape(())  # torch allows any shape of one element
    strength = rate * group["isometry"] * _go(found_inf)
    return [Work(p, layout, strength) for p, layout in turns.matrices]


def _amortised_work(group: Group, turns: Turns, found_inf: Tensor | None) -> list[Work]:
    turns.amortised = True
    strength = turns.rate(learning_rate(group)) * group["isometry"]
    # Elsewhere than on a CPU the host does not wait to know: a step that is skipped there counts.
    here = found_inf is not None and found_inf.device.type == "cpu"
    if strength == 0 or (here and bool(found_inf)):
        return []
    due = turns.due(strength, group["isometry_every"])
    return [Work(p, layout, owed if here else owed * _go(found_inf)) for p, layout, owed in due]


def do_work_(work: Sequence[Work], group: Group, schedule: Schedule, follow: Follow | None = None) -> None:
    """Moves every matrix of the parameters that act; small ones of equal shape in one stack.

    Args:
        work: what :func:`isometry_work` said.
        group: their group.
        schedule: remembers whether the user was told of the guard.
        follow: the tensors that have to move as a parameter does, or None if there are none.
    """
    exact = group["isometry_every"] == 1 or bool(group.get("capturable"))
    in_place: InPlace = _FLOW
    if exact:
        watched = not (schedule.told or group.get("capturable"))
        on_guard = functools.partial(_tell_of_guard, schedule, group) if watched else None
        in_place = functools.partial(isometry_step_, on_guard=on_guard)
    stacks: dict[tuple[Any, ...], tuple[list[Tensor], Strength]] = {}
    for p, layout, strength in work:
        followers = follow(p) if follow is not None else ()
        if followers or len(work) == 1 or not _can_be_stacked(p, layout, group):
            before = p.detach().clone() if followers else p
            _step(p, layout, group, strength, exact, in_place)
            with torch.no_grad():
                for other in followers:
                    other.add_(p.detach() - before)
            continue
        for view in layout.views(p.detach()):
            same = strength if isinstance(strength, float) else id(strength)
            key = (view.shape[-2:], view.dtype, view.device, same)
            stacks.setdefault(key, ([], strength))[0].append(view)
    for views, strength in stacks.values():
        _step_stacked(views, strength, in_place)


def _tell_of_guard(schedule: Schedule, group: Group) -> None:
    """Says once that the exact step is shortened."""
    if schedule.told:
        return
    schedule.told = True
    rate = float(learning_rate(group))
    c = rate * group["isometry"]
    limit = f"from a singular value of {math.sqrt(1 + 1 / (2 * c)):.3g} on" if c < 0.25 else "for any matrix"
    warnings.warn(
        f"isometry={group['isometry']:g} at the learning rate {rate:g} is unstable {limit}, and a matrix is "
        "beyond that or near it: its steps are shortened. Lower isometry, or use isometry_every='auto', "
        "which is stable for any strength",
        stacklevel=2,
    )


def _can_be_stacked(p: Tensor, layout: Layout, group: Group) -> bool:
    """Whether a parameter's matrices are small, and views of it that may be changed in place."""
    if hasattr(p, "full_tensor") or _differentiable(group) or layout.operator is not None:
        return False
    if not (p.is_contiguous() or p.ndim == 2):
        return False
    rows, columns = layout.views(p)[0].shape[-2:]
    return rows * columns <= _STACKED_BELOW.get(p.device.type, 0)


@torch.no_grad()
def _step_stacked(views: list[Tensor], strength: Strength, in_place: InPlace) -> None:
    if len(views) == 1:
        in_place(views[0], strength)
        return
    matrices = [view.reshape(-1, *view.shape[-2:]) for view in views]
    stack = torch.cat(matrices)
    in_place(stack, strength)
    parts = torch.split(stack, [len(m) for m in matrices])
    torch._foreach_copy_(views, [part.view_as(view) for part, view in zip(parts, views, strict=True)])


def _step(
    param: Tensor, layout: Layout, group: Group, strength: Strength, exact: bool, in_place: InPlace
) -> None:
    """Moves every matrix of a parameter, with a graph if the group is differentiable."""
    if hasattr(param, "full_tensor"):
        _step_sharded(param, layout, group, strength, exact, in_place)
    elif _differentiable(group):
        moved = [_moved(piece, layout, strength, exact) for piece in _pieces(param.clone(), layout)]
        if layout.operator is None:
            param.copy_(join_matrices(moved, param, split=layout.split))
        else:
            param.copy_(torch.cat(moved).view(param.shape))
    elif layout.operator is not None:
        with torch.no_grad():
            for piece in _pieces(param, layout):
                piece.copy_(_moved(piece, layout, strength, exact))
    else:
        edit_matrices_(
            param, lambda view: in_place(view, strength), batch_dims=layout.batch_dims, split=layout.split
        )


@torch.no_grad()
def _step_sharded(
    param: Any, layout: Layout, group: Group, strength: Strength, exact: bool, in_place: InPlace
) -> None:
    """A DTensor (FSDP2, tensor parallelism): every rank steps the gathered matrix and keeps its shard.

    The Gram of a shard is not a shard of the Gram. One all-gather per step of a matrix, which the
    amortised mode does once in up to 250 optimizer steps.
    """
    full = param.full_tensor()
    _step(full, layout, group, strength, exact, in_place)
    mesh = param.device_mesh
    replicated = type(param.data).from_local(full, mesh, run_check=False)
    param.copy_(replicated.redistribute(mesh, param.placements))


def _pieces(param: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """What one step is for: the matrices of a parameter, or the kernels of a convolution's groups."""
    if layout.operator is None:
        return layout.views(param)
    return (
        param.chunk(layout.split) if isinstance(layout.split, int) else torch.split(param, list(layout.split))
    )


def _moved(piece: Tensor, layout: Layout, strength: Strength, exact: bool) -> Tensor:
    if layout.operator is None:
        return isometry_step(piece, strength) if exact else flow_step(piece, strength)
    if not exact:
        # The flow over a total strength C, matched near isometry: at most one Newton-Schulz step.
        gain = torch.expm1(-8 * strength) if isinstance(strength, Tensor) else math.expm1(-8 * strength)
        strength = -gain / 8
    return operator_step(piece, strength, layout.operator)
