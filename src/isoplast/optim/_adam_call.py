"""One call of torch's functional AdamW, for the parameters of neighbouring groups with equal settings.

The groups of a model (weights, biases, what is left alone) differ in isometry alone: together they cost one
call, as the one group of a plain AdamW does. AdamW treats every parameter by itself, so no bit changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import _default_to_fused_or_foreach

_SETTINGS = (
    "lr",
    "betas",
    "eps",
    "weight_decay",
    "amsgrad",
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
)


@dataclass
class AdamCall:
    """The lists and settings of a call.

    Attributes:
        settings: Adam's settings of the groups.
        lists: parameters, gradients, first and second moments, their maxima, and step counts.
        has_complex: whether a parameter is complex.
    """

    settings: dict[str, Any]
    lists: tuple[list[Tensor], ...] = field(default_factory=lambda: tuple([] for _ in range(6)))
    has_complex: bool = False

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> AdamCall:
        """An empty call with a group's settings."""
        return cls({key: group[key] for key in _SETTINGS})

    def takes(self, other: AdamCall) -> bool:
        """Takes over another call's parameters if its settings are the same, and says whether it did."""
        mine, theirs = self._resolved(), other._resolved()
        if not all(_same(mine[key], theirs[key]) for key in _SETTINGS):
            return False
        for mine_, theirs_ in zip(self.lists, other.lists, strict=True):
            mine_.extend(theirs_)
        self.has_complex |= other.has_complex
        return True

    def _resolved(self) -> dict[str, Any]:
        """The settings with torch's own choice of an implementation where the user made none."""
        if self.settings["fused"] is None and self.settings["foreach"] is None:
            _, foreach = _default_to_fused_or_foreach(self.lists[0], self.settings["differentiable"])
            by_tensor = isinstance(self.settings["lr"], Tensor) and not self.settings["capturable"]
            self.settings["foreach"] = foreach and not by_tensor
        return self.settings

    def run(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Does Adam's update, with decoupled weight decay."""
        settings = dict(self._resolved())
        beta1, beta2 = settings.pop("betas")
        settings.update(beta1=beta1, beta2=beta2, grad_scale=grad_scale, found_inf=found_inf)
        adamw(*self.lists, **settings, has_complex=self.has_complex)  # type: ignore[arg-type, misc]


def _same(a: Any, b: Any) -> bool:
    """Whether two settings are equal; tensors, a learning rate or a beta, are only if they are one."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return all(map(_same, a, b))
    return a is b or not (isinstance(a, Tensor) or isinstance(b, Tensor) or a != b)
