"""What the expensive instruments say, where they can say anything."""

from __future__ import annotations

from torch.optim import Optimizer

from isoplast.diagnostics.health._optimizer_findings import peak_lr
from isoplast.diagnostics.ntk._result import NTK
from isoplast.diagnostics.plasticity._plasticity import Plasticity

_DEFAULT_LR = 1e-3


def probe_lr(lr: float | None, optimizer: Optimizer | None) -> float:
    """The learning rate for the probe's Adam: the given one, else that of an optimizer of Adam's family.

    Others are no guide: SGD's 0.1 would destroy the copies.
    """
    if lr is not None:
        return lr
    groups = [] if optimizer is None else [group for group in optimizer.param_groups if "betas" in group]
    return max(map(peak_lr, groups), default=0.0) or _DEFAULT_LR


def kernel_condition(kernel: NTK, shape: tuple[int, ...]) -> float | None:
    """The condition number of an NTK, unless it has to be infinite.

    Args:
        kernel: of distinct samples.
        shape: of the model's outputs (n, ...). The first positions of sequences have seen the same tokens in
            many samples; fewer parameters than rows make any kernel singular.
    """
    if len(shape) > 2 or kernel.parameters < kernel.size:
        return None
    return kernel.condition_number


def diverged(found: Plasticity) -> tuple[int, int]:
    """On how many tasks, of how many, training destroyed the copies, and not the fresh twins."""
    if found.fresh is None or found.fresh.diverged:
        return 0, 0
    return found.diverged, len(found.per_task)
