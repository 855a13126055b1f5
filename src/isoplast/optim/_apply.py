"""The isometry step on the matrices of a parameter group: at once, or amortised over many steps."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

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
from isoplast.optim._groups import AUTO_LONGEST, AUTO_TOLERANCE, Group
from isoplast.optim._roles import BY_SHAPE, Layout, Roles

State = MutableMapping[Any, Any]
Todo = tuple[Tensor, Layout]

# Per-parameter state of the amortised mode. Plain numbers: torch casts floating state tensors to
# the parameter's dtype when it loads them, and a bfloat16 sum of strengths would be off by 0.4 %.
OWED = "isometry_owed"  # the strength, sum of lr * isometry, that has not been applied yet
WAIT = "isometry_wait"  # steps until it is


# The step is a few large products and what decides about it is plain Python: nothing to compile.
# This is torch.compiler.disable as torch.optim uses it: it imports the compiler when first called,
# not here, where that would cost seconds.
@_disable_dynamo
def apply_isometry_(
    group: Group,
    params: Sequence[Tensor],
    state: Mapping[Any, State],
    found_inf: Tensor | None = None,
    roles: Roles = BY_SHAPE,
) -> None:
    """Does one optimizer step's worth of isometry, and of bias decay, for parameters with a gradient.

    With ``isometry_every=1`` every matrix takes the step of Eq 20 and nothing is remembered. Else a
    matrix owes the strength of each step until its turn comes, and then takes all of it at once by
    the closed form; the turns of a group's matrices are spread evenly, so the cost per step is flat.

    Args:
        group: a settled parameter group.
        params: those of its parameters that the optimizer is about to update.
        state: the optimizer's state, which keeps what is owed.
        found_inf: GradScaler's 0-d flag, 1 where the step must not happen, or None.
        roles: what the parameters are for.
    """
    if group["bias_decay"] > 0:
        keep = 1 - group["lr"] * group["bias_decay"] * _go(found_inf)
        with torch.set_grad_enabled(_differentiable(group)):
            for bias in roles.biases(params):
                bias.mul_(keep)
    if group["isometry"] == 0:
        return
    todo = roles.matrices(params, group)
    capturable = bool(group.get("capturable"))
    if group["isometry_every"] == 1 or capturable:
        _apply_exactly_(group, todo, found_inf, capturable)
    else:
        _apply_amortised_(group, todo, state, found_inf)


def _go(found_inf: Tensor | None) -> Tensor | int:
    """1, or as a tensor 0 where GradScaler skips the step: masks without asking the device."""
    return 1 if found_inf is None else 1 - found_inf


def _differentiable(group: Group) -> bool:
    return bool(group.get("differentiable")) and torch.is_grad_enabled()


def _apply_exactly_(group: Group, todo: Sequence[Todo], found_inf: Tensor | None, capturable: bool) -> None:
    lr = group["lr"] if capturable else float(group["lr"])
    if not capturable and lr == 0:
        return
    if isinstance(lr, Tensor):
        lr = lr.reshape(())  # torch allows any shape of one element
    for p, layout in todo:
        _step(p, layout, group, lr * group["isometry"] * _go(found_inf), exact=True)


def _apply_amortised_(
    group: Group, todo: Sequence[Todo], state: Mapping[Any, State], found_inf: Tensor | None
) -> None:
    strength = float(group["lr"]) * group["isometry"]
    if strength == 0 or (found_inf is not None and bool(found_inf)):
        return
    every = group["isometry_every"]
    period = steps_between(strength) if every == "auto" else int(every)
    for index, (p, layout) in enumerate(todo):
        entry = state[p]
        owed = entry.get(OWED, 0.0) + strength
        # A wait that was set at a lower learning rate may be longer than the present period.
        wait = min(entry.get(WAIT, 1 + index * period // len(todo)), period) - 1
        if wait <= 0:
            _step(p, layout, group, owed, exact=False)
            owed, wait = 0.0, period
        entry[OWED], entry[WAIT] = owed, wait


def steps_between(strength: float) -> int:
    """The number of steps that ``isometry_every="auto"`` waits at a strength lr * isometry > 0."""
    return max(1, min(AUTO_LONGEST, int(AUTO_TOLERANCE / (4 * strength))))


def _step(param: Tensor, layout: Layout, group: Group, strength: float | Tensor, *, exact: bool) -> None:
    """Moves every matrix of a parameter, with a graph if the group is differentiable."""
    if hasattr(param, "full_tensor"):
        _step_sharded(param, layout, group, strength, exact)
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
        in_place = isometry_step_ if exact else flow_step_
        edit_matrices_(
            param, lambda view: in_place(view, strength), batch_dims=layout.batch_dims, split=layout.split
        )


@torch.no_grad()
def _step_sharded(param: Any, layout: Layout, group: Group, strength: float | Tensor, exact: bool) -> None:
    """A DTensor (FSDP2, tensor parallelism): every rank steps the gathered matrix and keeps its shard.

    The Gram of a shard is not a shard of the Gram. One all-gather per step of a matrix, which the
    amortised mode does once in up to 100 optimizer steps.
    """
    full = param.full_tensor()
    _step(full, layout, group, strength, exact=exact)
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


def _moved(piece: Tensor, layout: Layout, strength: float | Tensor, exact: bool) -> Tensor:
    if layout.operator is None:
        return isometry_step(piece, strength) if exact else flow_step(piece, strength)
    if not exact:
        # The flow over a total strength C, matched near isometry: at most one Newton-Schulz step.
        strength = -torch.expm1(-8 * torch.as_tensor(strength)) / 8
    return operator_step(piece, strength, layout.operator)
