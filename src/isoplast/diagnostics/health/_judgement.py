"""What the expensive instruments say of a network's health, where they can say anything."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from isoplast.diagnostics.health._findings import Finding
from isoplast.diagnostics.health._optimizer_findings import peak_lr
from isoplast.diagnostics.ntk._result import NTK
from isoplast.diagnostics.plasticity._plasticity import Plasticity

_DEFAULT_LR = 1e-3
# Where even a fresh network removes less of the loss of a guess, the probe's budget is too small to compare.
_COMPARABLE = 0.1


def probe_lr(lr: float | None, optimizer: Optimizer | None) -> float:
    """The learning rate for the probe's Adam: the given one, else that of an optimizer of Adam's family.

    Others are no guide: SGD's 0.1 would destroy the copies.
    """
    if lr is not None:
        return lr
    groups = [] if optimizer is None else [group for group in optimizer.param_groups if "betas" in group]
    return max(map(peak_lr, groups), default=0.0) or _DEFAULT_LR


def kernel_numbers(kernel: NTK, shape: tuple[int, ...]) -> dict[str, float]:
    """The condition number of an NTK, unless it has to be infinite.

    Args:
        kernel: of distinct samples.
        shape: of the model's outputs (n, ...). The first positions of sequences have seen the same tokens in
            many samples; fewer parameters than rows make any kernel singular.
    """
    if len(shape) > 2 or kernel.parameters < kernel.size:
        return {}
    return {"ntk_condition": kernel.condition_number}


def probe_numbers(found: Plasticity) -> dict[str, float]:
    """What network and twin learned of random labels, where the twin learned enough to compare.

    `value` does not serve: a network that is sure of old labels removes much of a loss by becoming unsure.
    """
    if found.fresh is None or math.isnan(found.learned) or not found.fresh.learned >= _COMPARABLE:
        return {}
    return {"plasticity": found.learned, "plasticity_fresh": found.fresh.learned}


def probe_findings(found: Plasticity) -> list[Finding]:
    """Whether training destroyed the copies, and not the fresh twins."""
    if not found.diverged or found.fresh is None or found.fresh.diverged:
        return []
    what = f"{found.diverged} of {len(found.per_task)} copies diverged on fresh tasks, no fresh network did"
    return [Finding("warning", "network", what, "lower the learning rate, or train on with AdamO")]
