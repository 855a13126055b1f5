"""Sharpness-aware minimisation around any optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least


@register
@dataclasses.dataclass(frozen=True)
class SAM(Method):
    r"""Sharpness-aware minimisation (arXiv:2010.01412, algorithm 1) around any optimizer.

    .. math:: \theta \leftarrow U\left(\theta,\ \nabla L\left(\theta + \rho\,
              \frac{\nabla L(\theta)}{\lVert \nabla L(\theta) \rVert_2}\right)\right)

    with U the optimizer's step, Adam's unless another part of a combination brings one, and the norm over
    all parameters together.

    Args:
        rho: radius in which the loss is to be flat, >= 0.

    Deviations:
        The second pass does not update the running statistics of BatchNorm, which the paper leaves open. A
        penalty is part of the loss, in both passes.
    """

    name: ClassVar[str] = "sam"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="SAM",
        source="Foret et al., arXiv:2010.01412, algorithm 1",
        controls="nothing (the sharpness of the loss)",
        cost="a second forward and backward pass",
        strength="rho",
        claims=frozenset({"step"}),
    )

    rho: float = 0.05
    # The layers whose running statistics the second pass leaves alone: `step` does not get the network.
    _norms: list[_BatchNorm] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "rho")

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Find the BatchNorm layers."""
        self._norms[:] = [module for module in model.modules() if isinstance(module, _BatchNorm)]

    def step(self, optimizer: Optimizer, closure: Callable[[], Tensor]) -> Tensor:
        """Step from here by the gradient of a point uphill; returns the loss from here."""
        if self.rho == 0:
            return super().step(optimizer, closure)
        loss = closure()
        found = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            before = [p.clone() for p in found]
            scale = self.rho / (get_total_norm([p.grad for p in found]) + 1e-12)
            for p in found:
                p.add_(p.grad * scale.to(p.device))
        with self._frozen_statistics():
            closure()
        with torch.no_grad():
            for p, weights in zip(found, before, strict=True):
                p.copy_(weights)
        optimizer.step()
        return loss

    def release(self) -> None:
        """Forget the network."""
        super().release()
        self._norms.clear()

    @contextlib.contextmanager
    def _frozen_statistics(self) -> Iterator[None]:
        """BatchNorm goes on normalising by the batch, but leaves its running statistics alone."""
        layers = [layer for layer in self._norms if layer.track_running_stats]
        for layer in layers:
            layer.track_running_stats = False
        try:
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True
