"""What an optimizer's parameter group says about isometry: its settings, their checks, its matrices."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.parameter import is_lazy

from isoplast._core.layer_kinds import is_orthogonal_by_construction
from isoplast.optim._numbers import blocks, number, whole
from isoplast.optim._roles import BY_SHAPE, Layout, Roles, is_frozen

Group = dict[str, Any]

DEFAULT_ISOMETRY = 1e-2


class Default(float):
    """A default value that can be told from the same number given by the user; prints as the number."""


# The keys that isoplast adds to a parameter group, with the values that change nothing. All of them
# are plain numbers, strings, tuples or None, so that checkpoints load with weights_only=True.
GROUP_DEFAULTS: Mapping[str, Any] = {
    "isometry": 0.0,
    "isometry_time": None,
    "isometry_every": "auto",
    "isometry_split": 1,
    "isometry_batch_dims": 0,
    "isometry_operator": None,
    "bias_decay": 0.0,
}


def learning_rate(group: Mapping[str, Any]) -> float | Tensor:
    """The rate of a group's steps: its lr, times the d that a learning-rate-free optimizer has found.

    D-Adaptation and Prodigy keep d in the group; their lr, 1 by default, multiplies it.
    """
    rate: float | Tensor = group["lr"]
    return rate * group["d"] if "d" in group else rate


def require_learning_rate(group: Mapping[str, Any], kind: str) -> None:
    """Refuses a group without a learning rate: Polyak steps, line searches, relative steps.

    Raises:
        ValueError: naming the optimizer.
    """
    rate = group.get("lr")
    if isinstance(rate, Tensor | numbers.Real | np.generic | np.ndarray):
        return
    raise ValueError(
        f"the groups of {kind} hold no learning rate (lr is {rate}), and the isometry step is lr * isometry "
        "long: attach to an optimizer that has one, or add isometry_penalty(model) to the loss"
    )


def own_settings(group: Mapping[str, Any]) -> Group:
    """The isometry settings that a group brings along itself."""
    return {key: group[key] for key in GROUP_DEFAULTS if group.get(key) is not None}


def common_strength(isometry: float | None, time: float | None) -> Group:
    """The strength and the time that an optimizer was given for all its groups, as settings of a group.

    Raises:
        ValueError: if both were given.
    """
    if time is not None and isometry is not None and not isinstance(isometry, Default):
        raise exclusive(isometry, time)
    if time is not None:
        return {"isometry": None, "isometry_time": number("isometry_time", time)}
    strength = DEFAULT_ISOMETRY if isometry is None else number("isometry", isometry)
    return {"isometry": strength, "isometry_time": None}


def resolve_group(
    group: Group, own: Mapping[str, Any], defaults: Mapping[str, Any], roles: Roles = BY_SHAPE
) -> None:
    """Completes and checks a group's isometry settings; an isometry time becomes a strength.

    Args:
        group: the group, changed in place; it has its learning rate.
        own: the settings that the group brought along; they come before the defaults, and either of
            ``isometry`` and ``isometry_time`` comes before both of the defaults'.
        defaults: the optimizer's settings.
        roles: what the parameters are for.

    Raises:
        ValueError: for a value out of range, for both a strength and a time, and for a group that
            asks for isometry itself and holds no matrix.
    """
    asks = "isometry" in own or "isometry_time" in own
    if "isometry" in own and "isometry_time" in own:
        raise exclusive(own["isometry"], own["isometry_time"])
    for key, neutral in GROUP_DEFAULTS.items():
        inherited = neutral if asks and key in ("isometry", "isometry_time") else defaults.get(key, neutral)
        group[key] = own.get(key, inherited)
    if group["isometry_time"] is not None:
        if "d" in group:
            raise ValueError(
                f"isometry_time={group['isometry_time']} sets the strength from the learning rate, which "
                "this optimizer finds while it trains (lr multiplies it): give isometry instead"
            )
        group["isometry"] = _strength(number("isometry_time", group["isometry_time"]), float(group["lr"]))
        group["isometry_time"] = None  # used up: a settled group can be settled again, by a copy, say
    _check_settings(group)
    if group["isometry"] > 0:
        for index, p in enumerate(group["params"]):
            if is_lazy(p):
                name = (group.get("param_names") or {index: f"parameter {index}"})[index]
                raise ValueError(f"{name} is not initialised yet: run one batch through the model first")
        roles.require_known(group["params"])
        for p, layout in roles.matrices(group["params"], group):
            _check_layout(p, layout, group["isometry"])
    if asks and not _settled(own):
        require_matrix([group], roles)


def _settled(own: Mapping[str, Any]) -> bool:
    """Whether an optimizer completed these settings before, so that a strength in them may be a default."""
    return own.keys() >= {key for key, neutral in GROUP_DEFAULTS.items() if neutral is not None}


def exclusive(isometry: float, time: float) -> ValueError:
    """The error for a strength and a time given together."""
    return ValueError(
        f"isometry={isometry} and isometry_time={time} exclude each other: the time 1/(8 lr isometry) "
        "sets the strength; give one of them"
    )


def _strength(time: float, lr: float) -> float:
    if not 0.0 < time < math.inf:
        raise ValueError(f"Invalid isometry_time value: {time} (a number of steps > 0)")
    if 8.0 * lr * time < sys.float_info.min:  # lr is 0, or the strength would overflow
        raise ValueError(
            f"isometry_time={time:g} at lr={lr:g} asks for the strength 1/(8 lr time), which is no finite "
            "number: give a larger one, or isometry"
        )
    return 1.0 / (8.0 * lr * time)


def _check_settings(group: Group) -> None:
    """Refuses values out of range, and turns the others into Python's own numbers."""
    if not 0.0 <= float(group["lr"]) < math.inf:
        raise ValueError(f"Invalid learning rate: {group['lr']}")
    for key in ("isometry", "bias_decay"):
        value = number(key, group[key])
        if not 0.0 <= value < math.inf:
            raise ValueError(f"Invalid {key} value: {group[key]}")
        group[key] = value
    every, stride, dims = (group[f"isometry_{key}"] for key in ("every", "operator", "batch_dims"))
    group["isometry_every"] = every if isinstance(every, str) and every == "auto" else whole(every, 1)
    if group["isometry_every"] is None:
        raise ValueError(f"Invalid isometry_every value: {every} ('auto' or a number of steps >= 1)")
    if group.get("capturable") and group["isometry_every"] not in ("auto", 1):
        raise ValueError(
            f"isometry_every={every} with capturable=True: a captured graph repeats the same work in every "
            "step; use isometry_every=1, which 'auto' means there"
        )
    group["isometry_operator"] = None if stride is None else whole(stride, 1)
    if stride is not None and group["isometry_operator"] is None:
        raise ValueError(
            f"Invalid isometry_operator value: {stride} (the convolution's stride, >= 1, or None)"
        )
    group["isometry_batch_dims"] = whole(dims, 0)
    if group["isometry_batch_dims"] is None:
        raise ValueError(f"Invalid isometry_batch_dims value: {dims} (a number of leading dimensions, >= 0)")
    group["isometry_split"] = blocks(group["isometry_split"])


def _check_layout(p: Tensor, layout: Layout, isometry: float) -> None:
    layout.views(p)
    if layout.operator is not None and not 3 <= p.ndim <= 5:
        raise ValueError(
            f"isometry_operator={layout.operator} is for convolution kernels, not for {tuple(p.shape)}"
        )
    if is_orthogonal_by_construction(p):
        raise ValueError(
            f"isometry={isometry:g} was asked for the raw weight of an isometric layer, shape "
            f"{tuple(p.shape)}: the layer orthogonalises it already and the two would fight. Hand "
            "the optimizer the model, AdamO(model), which leaves such weights out"
        )


def require_matrix(groups: Sequence[Group], roles: Roles = BY_SHAPE) -> None:
    """Refuses isometry that would silently do nothing.

    Args:
        groups: groups that were given one strength together; it is enough that one holds a matrix.
        roles: what their parameters are for.

    Raises:
        ValueError: naming the parameters that the groups hold instead, or if all matrices are frozen.
    """
    asked = [group for group in groups if group["isometry"] > 0]
    if asked:
        refuse_flattened(p for group in groups for p in group["params"])
    for group in asked:
        names = group.get("param_names") or ()
        refuse_adapters(n for n, p in zip(names, group["params"], strict=bool(names)) if not is_frozen(p))
    found = [p for group in asked for p, _ in roles.matrices(group["params"], group)]
    if not asked or any(not is_frozen(p) for p in found):
        return
    if found:
        raise ValueError(
            f"isometry={asked[0]['isometry']:g} was asked for, but every matrix is frozen "
            "(requires_grad=False) and would never move: unfreeze them first, or set isometry=0"
        )
    raise ValueError(
        f"isometry={asked[0]['isometry']:g} was asked for a parameter group that holds no matrix, only "
        f"{_describe(asked[0])}. Set isometry=0 for it; if a wrapper flattened the weights (FSDP1, "
        "DeepSpeed ZeRO), use one that keeps their shapes (fully_shard)"
    )


def refuse_flattened(params: Iterable[Tensor]) -> None:
    """Refuses what wrappers put in the place of weights: pieces of them without their shape.

    Raises:
        ValueError: naming the wrapper and what to use instead.
    """
    held = list(params)
    if any(hasattr(p, "ds_id") or hasattr(p, "ds_shape") for p in held):
        raise ValueError(
            "the parameters are placeholders of DeepSpeed ZeRO 3, whose optimizer steps flat partitions: no "
            "matrix is left to keep isometric. Use fully_shard (FSDP2), or ZeRO 0"
        )
    pieces = [p for p in held if getattr(p, "_fsdp_flattened", False) or hasattr(p, "_is_flat_param")]
    if pieces and all(p.ndim < 2 for p in pieces):
        raise ValueError(
            "the parameters are flat pieces of FSDP1 (FullyShardedDataParallel), which hold no matrix to "
            "keep isometric: use FSDP2 (torch.distributed.fsdp.fully_shard), which keeps their shapes"
        )


def refuse_adapters(names: Iterable[str]) -> None:
    """Refuses isometry of the second factor of a LoRA adapter, which is zero where the adapter does nothing.

    Raises:
        ValueError: naming the first one, and what to use instead.
    """
    for name in names:
        if not {"lora_B", "lora_embedding_B"}.isdisjoint(name.split(".")):
            raise ValueError(
                f"isometry was asked for {name}, a factor of a LoRA adapter, and would push it from zero to "
                "singular values of one: hand the optimizer isoplast.integrations.adapter_groups(model)"
            )


def _describe(group: Group) -> str:
    params: list[Tensor] = list(group["params"])
    names = group.get("param_names") or [f"parameter {i}" for i in range(len(params))]
    shown = [f"{name} {tuple(p.shape)}" for name, p in zip(names, params, strict=True)][:5]
    more = len(params) - len(shown)
    return (", ".join(shown) or "nothing") + (f" and {more} more" if more else "")
