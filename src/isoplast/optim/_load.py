"""State dicts of optimizers with other groups: parameters are matched by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from isoplast.optim._groups import GROUP_DEFAULTS, Group

StateDict = dict[str, Any]


def keep_settings(groups: Sequence[Group], state_dict: Mapping[str, Any]) -> StateDict:
    """A copy of a state dict in which groups that say nothing of isometry keep the present settings.

    torch replaces every group by the saved one, so an AdamW checkpoint would erase them.
    """
    saved = [dict(group) for group in state_dict["param_groups"]]
    for old, new in zip(groups, saved, strict=False):
        for key in GROUP_DEFAULTS:
            new.setdefault(key, old[key])
    return {**state_dict, "param_groups": saved}


def fitting(
    groups: Sequence[Group],
    state_dict: Mapping[str, Any],
    *,
    in_model_order: Sequence[str] | None = None,
    strict: bool = True,
) -> StateDict:
    """The state dict with its parameters in the order of these groups, and their isometry settings.

    One with as many groups of the same sizes is taken as torch takes it, by position, unless both name
    their parameters and the names disagree. All else is matched by name; isometry settings then stay as
    they are, since they belong to what the parameters are.

    Args:
        groups: the optimizer's settled groups.
        state_dict: what is to be loaded.
        in_model_order: the parameters' names in the order of ``model.parameters()``, which is the order of
            a state dict without names and with one group.
        strict: whether every parameter must be on both sides; else those that are not start afresh.

    Raises:
        ValueError: for groups that do not fit and cannot be matched, saying how they could.
    """
    saved = state_dict["param_groups"]
    ours, theirs = _names(groups), _names(saved)
    if _sizes(groups) == _sizes(saved) and (
        ours is None or theirs is None or ours == theirs or set(ours) != set(theirs)
    ):
        return keep_settings(groups, state_dict)
    if theirs is None and in_model_order is not None and _sizes(saved) == [len(in_model_order)]:
        theirs = list(in_model_order)
    if ours is None or theirs is None:
        raise ValueError(_how_to(groups, saved, ours is None))
    return _by_name(groups, state_dict, ours, theirs, strict)


def _sizes(groups: Sequence[Group]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _names(groups: Sequence[Group]) -> list[str] | None:
    """The names of all parameters in their order, or None if some have none or share one."""
    names = [name for group in groups for name in group.get("param_names") or [None] * len(group["params"])]
    return None if None in names or len(set(names)) < len(names) else names


def _how_to(groups: Sequence[Group], saved: Sequence[Group], unnamed: bool) -> str:
    who = "this optimizer's parameters have" if unnamed else "the state dict's parameters have"
    return (
        f"the state dict has parameter groups of {_sizes(saved)} parameters, this optimizer of "
        f"{_sizes(groups)}, and {who} no names to match them by: make both from "
        "model.named_parameters(), the model, or param_groups(model)"
    )


def _by_name(
    groups: Sequence[Group], state_dict: Mapping[str, Any], ours: list[str], theirs: list[str], strict: bool
) -> StateDict:
    saved = state_dict["param_groups"]
    indices = dict(zip(theirs, (i for group in saved for i in group["params"]), strict=True))
    homes = dict(zip(theirs, (group for group in saved for _ in group["params"]), strict=True))
    missing, extra = ([n for n in a if n not in set(b)] for a, b in ((ours, theirs), (theirs, ours)))
    if strict and (missing or extra):
        raise ValueError(
            f"the state dict lacks {_some(missing)} and has {_some(extra)} besides: load it with "
            "strict=False to start what it lacks afresh"
        )
    packed: dict[int, Any] = {}
    arranged: list[Group] = []
    place = 0
    for group in groups:
        names = list(group["param_names"])
        for name, p in zip(names, group["params"], strict=True):
            found = state_dict["state"].get(indices.get(name))
            if found is not None:
                _check_shapes(name, p, found)
                packed[place] = found
            place += 1
        arranged.append({**_settings(group, [homes[n] for n in names if n in homes]), "param_names": names})
        arranged[-1]["params"] = list(range(place - len(names), place))
    return {**state_dict, "state": packed, "param_groups": arranged}


def _settings(group: Group, homes: Sequence[Group]) -> Group:
    """The settings of the saved groups that hold a group's parameters; its own where they differ."""
    own = {key: value for key, value in group.items() if not key.startswith("param")}
    taken = dict(own)
    differing = []
    for key in {key for home in homes for key in home} - GROUP_DEFAULTS.keys() - {"params", "param_names"}:
        values = [home.get(key) for home in homes]
        if all(value is values[0] or _equal(value, values[0]) for value in values):
            taken[key] = values[0]
        else:
            differing.append(key)
    if differing:
        kept = ", ".join(f"{key}={own.get(key)}" for key in sorted(differing))
        who = _some(list(group["param_names"]))
        warnings.warn(
            f"the saved groups of {who} differ in {', '.join(sorted(differing))}: the present {kept} stays",
            stacklevel=5,
        )
    return taken


def _equal(a: Any, b: Any) -> bool:
    return not (isinstance(a, Tensor) or isinstance(b, Tensor)) and bool(a == b)


def _check_shapes(name: str, p: Tensor, entry: Mapping[str, Any]) -> None:
    for key, value in entry.items():
        if (
            isinstance(value, Tensor)
            and value.ndim > 0
            and key.startswith("exp_avg")
            and value.shape != p.shape
        ):
            raise ValueError(
                f"{name} has shape {tuple(p.shape)}, but its {key} in the state dict "
                f"{tuple(value.shape)}: the state dict is another model's"
            )


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
