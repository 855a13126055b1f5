"""AdamO in torch's ZeroRedundancyOptimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from isoplast.optim import AdamO, ParamGroups, param_groups

if TYPE_CHECKING:
    from torch.distributed.optim import ZeroRedundancyOptimizer


def zero_redundancy_optimizer(
    model: nn.Module | ParamGroups,
    *,
    process_group: Any = None,
    parameters_as_bucket_view: bool = False,
    **settings: Any,
) -> ZeroRedundancyOptimizer:
    """Shards AdamO's state and work over processes: each steps the matrices that it owns.

    ``ZeroRedundancyOptimizer(model.parameters(), AdamO)`` fails where a process owns no matrix, since AdamO
    refuses isometry that would do nothing, and it takes no named groups. Here it is the whole model that must
    hold a matrix.

    Args:
        model: the module, or the :func:`isoplast.param_groups` of it.
        process_group, parameters_as_bucket_view: as in ZeroRedundancyOptimizer.
        settings: of :class:`isoplast.AdamO`.

    Returns:
        The optimizer; all processes of the group must call this.

    Raises:
        ValueError: as :class:`isoplast.AdamO` does for the whole model.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer

    groups = param_groups(model) if isinstance(model, nn.Module) else model
    whole = AdamO(groups, **settings)  # checks, and turns times into strengths
    plain = [
        {key: value for key, value in group.items() if key != "param_names"} for group in whole.param_groups
    ]
    return ZeroRedundancyOptimizer(
        plain,
        _Share,
        process_group=process_group,
        parameters_as_bucket_view=parameters_as_bucket_view,
        **whole.defaults,
    )


class _Share(AdamO):
    """The AdamO of one process, whose part of the parameters may hold no matrix."""

    def __init__(self, params: Iterable[Mapping[str, Any]], **defaults: Any) -> None:
        groups = [dict(group) for group in params]
        strengths = [group["isometry"] for group in groups]
        quiet = [{**group, "isometry": 0.0} for group in groups]
        super().__init__(quiet, **{**_arguments(defaults), "isometry": 0.0})
        for group, strength in zip(self.param_groups, strengths, strict=True):
            group["isometry"] = strength


def _arguments(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What AdamO's constructor takes of an optimizer's defaults."""
    known = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable", "fused")
    names = (*known, "differentiable", "isometry_every", "bias_decay")
    return {name: defaults[name] for name in names if name in defaults}
