"""One call of torch's functional AdamW, for the parameters of neighbouring groups with equal settings.

The groups of a model (weights, biases, what is left alone) differ in isometry alone: together they cost one
call, as the one group of a plain AdamW does. AdamW treats every parameter by itself, so no bit changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from operator import is_, itemgetter
from typing import Any

from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw as torch_adamw

Group = dict[str, Any]

# From 2.7 on AdamW is a case of torch's adam, and its own function a detour.
_IS_A_CASE_OF_ADAM = "decoupled_weight_decay" in inspect.signature(adam).parameters
_FUNCTION: Callable[..., None] = adam if _IS_A_CASE_OF_ADAM else torch_adamw
_DECOUPLED: dict[str, Any] = {"decoupled_weight_decay": True} if _IS_A_CASE_OF_ADAM else {}
_settings: Callable[[Group], tuple[Any, ...]] = itemgetter(
    *("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"),
    *("foreach", "capturable", "differentiable", "fused"),
)


def goes_along(group: Group, other: Group) -> bool:
    """Whether the parameters of two groups can be updated in one call."""
    own, others = _settings(group), _settings(other)
    same = all(map(is_, own, others)) or all(map(_same, own, others))
    return same and _kind(group) == _kind(other)


def collected(group: Group, state: Mapping[Any, Any]) -> tuple[tuple[list[Tensor], ...], bool] | None:
    """What torch's ``Adam._init_group`` collects of a group, in half of its time.

    Args:
        group: a parameter group.
        state: the optimizer's state.

    Returns:
        The lists that :func:`adamw` takes, and whether a parameter is complex; None where torch's function
        has something else to do: a state to create, or an error to raise.
    """
    if group["differentiable"] or (group["foreach"] and isinstance(group["lr"], Tensor)):
        return None
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    entries = [state[p] for p in params]
    if not all(entries) or any([g.is_sparse for g in grads]):
        return None
    largest = [entry["max_exp_avg_sq"] for entry in entries] if group["amsgrad"] else []
    return (
        params,
        grads,
        [entry["exp_avg"] for entry in entries],
        [entry["exp_avg_sq"] for entry in entries],
        largest,
        [entry["step"] for entry in entries],
    ), any([p.is_complex() for p in params])


def adamw(
    group: Group,
    lists: Sequence[list[Tensor]],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    has_complex: bool,
) -> None:
    """Does Adam's update with decoupled weight decay.

    Args:
        group: the settings.
        lists: parameters, gradients, first and second moments, their maxima, and step counts.
        grad_scale: GradScaler's scale, or None.
        found_inf: its flag of an overflow, or None.
        has_complex: whether a parameter is complex.
    """
    beta1, beta2 = group["betas"]
    _FUNCTION(
        *lists,
        foreach=group["foreach"],
        capturable=group["capturable"],
        differentiable=group["differentiable"],
        fused=group["fused"],
        grad_scale=grad_scale,
        found_inf=found_inf,
        has_complex=has_complex,
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
        **_DECOUPLED,
    )


def _same(a: Any, b: Any) -> bool:
    """Whether two settings are equal; tensors, a learning rate or a beta, are only if they are one."""
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return all(map(_same, a, b))
    return not (isinstance(a, Tensor) or isinstance(b, Tensor)) and bool(a == b)


def _kind(group: Group) -> tuple[Any, ...]:
    """What torch chooses the implementation by, where the user made no choice."""
    first = group["params"][0] if group["params"] else None
    return type(first), getattr(first, "device", None)
