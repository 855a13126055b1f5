"""What silently disables a method: read off the optimizer, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from isoplast.diagnostics.health._finding import Finding
from isoplast.model import unwrap
from isoplast.optim import GROUP_DEFAULTS, isometry_report

_ASKS = frozenset(("isometry", "isometry_time"))
_NAMED = 3  # parameters that a finding spells out


def optimizer_findings(
    model: nn.Module, optimizer: Optimizer | None, steps: int | None = None
) -> list[Finding]:
    r"""What an optimizer leaves undone.

    Where a scheduler moves a learning rate, its highest known value counts (`initial_lr` and `max_lr` of the
    group), so that neither a warm-up nor the end of a schedule looks like a fault.

    Args:
        model: the network.
        optimizer: what trains it, if that is known.
        steps: the length of the run in optimizer steps; with it an isometry strength whose time constant
            :math:`1 / (8 \eta \lambda)` is longer is found.

    Returns:
        Findings about a network without trainable parameters, trainable parameters that no group holds,
        groups that hold parameters of another network, learning rates of zero, and isometry that nothing acts
        on, that no matrix has, or that takes longer than the run.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        >>> found = optimizer_findings(model, torch.optim.Adam(model[0].parameters()))
        >>> found[0].what
        '2 trainable parameters (1.weight, 1.bias) are in no group of Adam: they never change'
    """
    names = {parameter: name for name, parameter in unwrap(model).named_parameters()}
    if not any(parameter.requires_grad for parameter in names):
        what = "no parameter requires a gradient: nothing can be learned"
        return [Finding("critical", "network", what, "call requires_grad_() on what should learn")]
    if optimizer is None:
        return []
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    found = _ownership(names, held, type(optimizer).__name__)
    if any(peak_lr(group) == 0 for group in optimizer.param_groups):
        what = f"a group of {type(optimizer).__name__} has lr 0: neither the task nor isometry moves it"
        found.append(Finding("note", "optimizer", what, "set its lr, unless it is meant to rest"))
    return [*found, *_isometry(optimizer, steps)]


def keeps_isometry(optimizer: Optimizer | None) -> bool:
    """Whether an optimizer keeps matrices isometric."""
    if optimizer is None:
        return False
    groups = [group for group in optimizer.param_groups if GROUP_DEFAULTS.keys() <= group.keys()]
    asking = [{**group, "lr": peak_lr(group)} for group in groups if group.get("isometry")]
    return bool(asking) and bool(isometry_report(asking).kept)


def orthogonalises(optimizer: Optimizer | None) -> bool:
    """Whether an optimizer orthogonalises its steps, by its name: some Muon.

    Its singular values all grow alike. Of the networks of the calibration that go on learning under Muon some
    have 6.6 times their initial largest ones.
    """
    return any("muon" in kind.__name__.lower() for kind in type(optimizer).__mro__)


def peak_lr(group: Mapping[str, Any]) -> float:
    """The highest learning rate of a group that is known: the present one, or what a scheduler noted."""
    return max(float(group[name]) for name in ("lr", "initial_lr", "max_lr") if name in group)


def _ownership(names: Mapping[nn.Parameter, str], held: set[nn.Parameter], kind: str) -> list[Finding]:
    found = []
    missing = [name for p, name in names.items() if p.requires_grad and p not in held]
    if missing:
        what = (
            f"{len(missing)} trainable parameters ({_some(missing)}) are in no group of {kind}: "
            "they never change"
        )
        advice = "make the optimizer after the model is complete, or call add_param_group"
        found.append(Finding("critical", "optimizer", what, advice))
    foreign = sum(p not in names for p in held)
    if foreign:
        what = f"{kind} holds {foreign} parameters that are not in the model"
        advice = "a module was replaced after the optimizer was made: make the optimizer anew"
        found.append(Finding("warning", "optimizer", what, advice))
    return found


def _isometry(optimizer: Optimizer, steps: int | None) -> list[Finding]:
    groups = [{**group, "lr": peak_lr(group)} for group in optimizer.param_groups]
    idle = [
        group for group in groups if not _ASKS.isdisjoint(group) and not GROUP_DEFAULTS.keys() <= group.keys()
    ]
    if idle:
        kind = type(optimizer).__name__
        what = f"{len(idle)} groups carry isometry settings, but nothing in {kind} acts on them"
        advice = "use AdamO, or call isoplast.attach(optimizer)"
        return [Finding("warning", "optimizer", what, advice)]
    if not any(group.get("isometry") for group in groups):
        return []
    kept = isometry_report(groups)
    if not kept.kept:
        what = "isometry is asked for, but no group that asks holds a matrix"
        advice = "pass isoplast.param_groups(model), or the weights themselves"
        return [Finding("warning", "optimizer", what, advice)]
    warning = None if steps is None else kept.warning(steps)
    if warning is None:
        return []
    what, _, advice = warning.partition("; ")
    return [Finding("warning", "optimizer", what, advice)]


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
