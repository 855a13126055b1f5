"""Utility-based perturbed gradient descent as a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError


class UPGD(Optimizer):
    r"""Gradient descent with noise that spares the useful weights.

    .. math:: u \leftarrow \beta u - (1 - \beta)\, g\, \theta, \qquad
              \theta \leftarrow (1 - \eta\,wd)\,\theta
              - 2 \eta\, (g + \sigma \xi)\, \mathrm{sigmoid}\left(- \frac{u / (1 - \beta^t)}{|u_{max}|}\right)

    with u_max the largest utility of all weights. See :class:`isoplast.methods.UPGD` for the choices made.

    Args:
        params: parameters or groups.
        lr: eta, >= 0.
        weight_decay: >= 0.
        beta_utility: in [0, 1).
        sigma: standard deviation of the noise, >= 0.

    Raises:
        IsoplastError: for a value out of range, and for sparse gradients.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-5,
        weight_decay: float = 1e-3,
        beta_utility: float = 0.999,
        sigma: float = 1e-3,
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "beta_utility": beta_utility, "sigma": sigma}
        for name, value in settings.items():
            if not 0 <= value < float("inf") or (name == "beta_utility" and value >= 1):
                interval = "[0, 1)" if name == "beta_utility" else "[0, inf)"
                raise IsoplastError(f"{name} of UPGD is {value}: it must be in {interval}")
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            (p, group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and p.numel()
        ]
        if not moving:
            return loss
        largest = [self._largest(p, group) for p, group in moving]
        # Divided by a negative maximum, as in the source, the order of the weights turns around, and the
        # most harmful ones are spared; by zero, weights without utility become NaN.
        scale = torch.stack([value.to(largest[0]) for value in largest]).max().abs()
        for p, group in moving:
            self._move(p, group, scale.to(p.device))
        return loss

    def _largest(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """Update the average utility of every weight; returns the largest, corrected for the start at 0."""
        assert p.grad is not None
        if p.grad.is_sparse:
            raise IsoplastError(
                "UPGD needs dense gradients, and one is sparse: build the embedding with sparse=False"
            )
        state, beta = self.state[p], group["beta_utility"]
        if "avg_utility" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["avg_utility"] = torch.zeros_like(p)
        state["step"] += 1
        state["avg_utility"].mul_(beta).addcmul_(p.grad, p, value=beta - 1)
        found: Tensor = state["avg_utility"].max() / _correction(state, beta)
        return found

    def _move(self, p: Tensor, group: dict[str, Any], scale: Tensor) -> None:
        assert p.grad is not None
        state, sigma = self.state[p], group["sigma"]
        # 1 - sigmoid(u) is sigmoid(-u).
        largest = (scale * _correction(state, group["beta_utility"])).clamp(min=torch.finfo(scale.dtype).tiny)
        openness = (state["avg_utility"] / -largest).sigmoid_()
        change = p.grad if sigma == 0 else torch.randn_like(p).mul_(sigma).add_(p.grad)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcmul_(change, openness, value=-2 * group["lr"])


def _correction(state: dict[str, Any], beta: float) -> float:
    """What an average over so few steps is too small by."""
    return float(1 - beta ** int(state["step"]))
