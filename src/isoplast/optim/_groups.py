"""What an optimizer's parameter group says about isometry: its settings, their checks, its matrices."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from isoplast._core.layer_kinds import is_orthogonal_by_construction
from isoplast.isometry import is_matrix, matrix_views

Group = dict[str, Any]

DEFAULT_ISOMETRY = 1e-2

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

# "auto" waits so long that the equilibrium moves by 1 % of its distance from isometry (the relative
# bias of waiting T steps is 4 c T), and at most 100 steps: there the paper's MLP pays 3 % (batch
# 256) to 7 % (batch 16) of a training step on a CPU (benchmarks/adamo_costs_what_adamw_costs.py).
AUTO_TOLERANCE = 0.01
AUTO_LONGEST = 100


def own_settings(group: Mapping[str, Any]) -> Group:
    """The isometry settings that a group brings along itself."""
    return {key: group[key] for key in GROUP_DEFAULTS if group.get(key) is not None}


def resolve_group(group: Group, own: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Completes and checks a group's isometry settings; an isometry time becomes a strength.

    Args:
        group: the group, changed in place; it has its learning rate.
        own: the settings that the group brought along; they come before the defaults, and either of
            ``isometry`` and ``isometry_time`` comes before both of the defaults'.
        defaults: the optimizer's settings.

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
        group["isometry"] = _strength(group["isometry_time"], float(group["lr"]))
        group["isometry_time"] = None  # used up: a settled group can be settled again, by a copy, say
    _check(group)
    if asks and not _settled(own):
        require_matrix([group])


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


def _check(group: Group) -> None:
    isometry, every, lr = group["isometry"], group["isometry_every"], group["lr"]
    if not 0.0 <= float(lr) < math.inf:
        raise ValueError(f"Invalid learning rate: {lr}")
    if not 0.0 <= isometry < math.inf:
        raise ValueError(f"Invalid isometry value: {isometry}")
    if not 0.0 <= group["bias_decay"] < math.inf:
        raise ValueError(f"Invalid bias_decay value: {group['bias_decay']}")
    if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"Invalid isometry_every value: {every} ('auto' or a number of steps >= 1)")
    if group.get("capturable") and every != "auto" and every > 1:
        raise ValueError(
            f"isometry_every={every} with capturable=True: a captured graph repeats the same work in every "
            "step; use isometry_every=1, which 'auto' means there"
        )
    stride = group["isometry_operator"]
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 1):
        raise ValueError(
            f"Invalid isometry_operator value: {stride} (the convolution's stride, >= 1, or None)"
        )
    if isometry > 0:
        for p in matrices(group["params"], group):
            views(p, group)
            if stride is not None and not 3 <= p.ndim <= 5:
                raise ValueError(
                    f"isometry_operator={stride} is for convolution kernels, not for {tuple(p.shape)}"
                )
            if is_orthogonal_by_construction(p):
                raise ValueError(
                    f"isometry={isometry:g} was asked for the raw weight of an isometric layer, shape "
                    f"{tuple(p.shape)}: the layer orthogonalises it already and the two would fight. Hand "
                    "the optimizer param_groups(model), which leaves such weights out"
                )


def matrices(params: Iterable[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
    """The parameters that the group's settings see as matrices."""
    batch_dims = group["isometry_batch_dims"]
    return [p for p in params if is_matrix(p, batch_dims=batch_dims)]


def biases(params: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that a group's bias decay is for: the vectors."""
    return [p for p in params if p.ndim == 1]


def views(param: Tensor, group: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The matrices inside one parameter, as the group's settings see them."""
    return matrix_views(param, batch_dims=group["isometry_batch_dims"], split=group["isometry_split"])


def require_matrix(groups: Sequence[Group]) -> None:
    """Refuses isometry that would silently do nothing.

    Args:
        groups: groups that were given one strength together; it is enough that one holds a matrix.

    Raises:
        ValueError: naming the parameters that the groups hold instead.
    """
    asked = [group for group in groups if group["isometry"] > 0]
    if asked and not any(matrices(group["params"], group) for group in asked):
        raise ValueError(
            f"isometry={asked[0]['isometry']:g} was asked for a parameter group that holds no matrix, only "
            f"{_describe(asked[0])}. Set isometry=0 for it; if a wrapper flattened the weights (FSDP1, "
            "DeepSpeed ZeRO), use one that keeps their shapes (fully_shard)"
        )


def _describe(group: Group) -> str:
    params: list[Tensor] = list(group["params"])
    names = group.get("param_names") or [f"parameter {i}" for i in range(len(params))]
    shown = [f"{name} {tuple(p.shape)}" for name, p in zip(names, params, strict=True)][:5]
    more = len(params) - len(shown)
    return (", ".join(shown) or "nothing") + (f" and {more} more" if more else "")


def keep_settings(groups: list[Group], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state dict in which groups that say nothing of isometry keep the present settings.

    torch replaces every group by the saved one, so an AdamW checkpoint would erase them.
    """
    saved = [dict(group) for group in state_dict["param_groups"]]
    for old, new in zip(groups, saved, strict=False):
        for key in GROUP_DEFAULTS:
            new.setdefault(key, old[key])
    return {**state_dict, "param_groups": saved}
