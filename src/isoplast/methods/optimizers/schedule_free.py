"""Schedule-free AdamW, by its authors' package."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, moments


@register
@dataclasses.dataclass(frozen=True)
class ScheduleFree(Method):
    r"""Schedule-free AdamW (arXiv:2405.15682, algorithm 1), from the package schedulefree.

    .. math:: y = (1 - \beta_1) z + \beta_1 x, \qquad
              z \leftarrow z - \eta\,\frac{g(y)}{\sqrt{\hat v} + \epsilon} - \eta\,wd\,y, \qquad
              x \leftarrow (1 - c) x + c z

    with c = 1/t at a constant learning rate: gradients are taken at y, and the network that is evaluated is
    x, the mean of all z so far.

    Args:
        betas: interpolation, in (0, 1), and decay rate of the second moment, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: >= 0.
        warmup_steps: steps over which the learning rate rises, >= 0.
        r: power of the step number in the average's weights, >= 0.
        weight_lr_power: power of the largest learning rate so far in them, >= 0.

    Deviations:
        None in the algorithm: it is the authors' code. A mean over all steps does not forget old tasks:
        expect it to follow a change of task the later the longer it has run. BatchNorm keeps the statistics
        of the training weights y. The package divides the gradients in place, so that methods that look at
        them after the step see Adam's directions.
    """

    name: ClassVar[str] = "schedule-free"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Schedule-free AdamW",
        source="Defazio et al., arXiv:2405.15682, algorithm 1",
        controls="nothing",
        cost="an unfused optimizer step",
        claims=frozenset({"optimizer", "evaluation"}),
    )

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    r: float = 0.0
    weight_lr_power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        moments(self, self.betas, self.eps)
        if self.betas[0] == 0:
            raise IsoplastError(f"betas[0] of method {self.name} is 0.0: it must be in (0, 1)")
        at_least(self, 0, "weight_decay", "warmup_steps", "r", "weight_lr_power")

    def optimizer(self, model: nn.Module, lr: float) -> Optimizer:
        """Return the package's optimizer, in training mode."""
        optimizer: Optimizer = _package().AdamWScheduleFree(
            model.parameters(),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            r=self.r,
            weight_lr_power=self.weight_lr_power,
        )
        optimizer.train()  # type: ignore[attr-defined]
        return optimizer

    @contextlib.contextmanager
    def evaluated(self, model: nn.Module, optimizer: Optimizer) -> Iterator[nn.Module]:
        """Yield the network with its averaged weights; afterwards the trained ones are back to the bit."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = [p.detach().clone() for p in parameters]
        optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield model
        finally:
            # The optimizer's own way back interpolates, and is off by rounding.
            with torch.no_grad():
                for p, weights in zip(parameters, trained, strict=True):
                    p.copy_(weights)
            for group in optimizer.param_groups:
                group["train_mode"] = True


def _package() -> Any:
    try:
        import schedulefree
    except ModuleNotFoundError:
        raise IsoplastError(
            "method schedule-free needs its authors' package: pip install schedulefree, or isoplast[bench]"
        ) from None
    return schedulefree
