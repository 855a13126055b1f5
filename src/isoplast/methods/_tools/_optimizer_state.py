"""What an optimizer remembers of single entries of a parameter, whatever the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# State that is another copy of the weights, not a memory of gradients: schedule-free's z, averaged SGD's ax,
# the starting points of MADGRAD, D-Adaptation (x0) and Prodigy (p0), the slow weights of Lookahead.
_COPIES = (
    "z", "ax", "x0", "p0", "x_k", "prev_param", "slow_buffer", "slow_params", "lookahead_params", "shadow",
    "param_buffer", "master_param", "mov_avg_param",
)  # fmt: skip
# State that starts from a setting: Rprop's from the learning rate, Adagrad's from a constant.
_SETTINGS = {"step_size": "lr", "sum": "initial_accumulator_value"}


def memories(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[Tensor, float | None]]:
    """Yield the state tensors that hold something for single entries, each with the value they start from.

    None stands for a copy of the weights. Counts of steps are one number for the whole parameter and are
    not among them, nor are preconditioners, which mix the entries; factored moments are, with a size of one
    in some dimension.
    """
    for name, value in optimizer.state.get(parameter, {}).items():
        if not isinstance(value, Tensor) or value.dim() != parameter.dim() or value.dim() == 0:
            continue
        fits = all(have in (1, size) for have, size in zip(value.shape, parameter.shape, strict=True))
        if not fits or "pre_cond" in name:
            continue
        if name in _COPIES:
            yield value, None
        else:
            setting = _SETTINGS.get(name)
            yield value, 0.0 if setting is None else float(_group(optimizer, parameter).get(setting, 0.0))


def _group(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The settings of the group that a parameter is in."""
    return next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
