"""AdamO as the paper states it, in thirty lines: what the tests compare everything with.

Slow and plain on purpose. Read it beside Eq 16, 19 and 20 of arXiv:2606.09762.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ReferenceAdamO:
    """Eq 19 and 20 for a list of parameters; vectors follow Adam alone."""

    def __init__(
        self, params: list[Tensor], lr: float, betas: tuple[float, float], eps: float, isometry: float
    ) -> None:
        self.params, self.lr, self.betas, self.eps, self.isometry = params, lr, betas, eps, isometry
        self.m = [torch.zeros_like(p) for p in params]
        self.v = [torch.zeros_like(p) for p in params]
        self.t = 0

    @torch.no_grad()
    def step(self) -> None:
        """One step from the gradients in ``.grad``."""
        self.t += 1
        b1, b2 = self.betas
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            g = p.grad if p.grad is not None else torch.zeros_like(p)
            m.copy_(b1 * m + (1 - b1) * g)  # Eq 19: the task gradient alone
            v.copy_(b2 * v + (1 - b2) * g * g)
            adam = self.lr * (m / (1 - b1**self.t)) / ((v / (1 - b2**self.t)).sqrt() + self.eps)
            w = p.reshape(len(p), -1) if p.ndim > 1 else p  # Appendix A: kernels as matrices
            r = 4 * (w @ w.T @ w - w) if p.ndim > 1 else torch.zeros_like(w)  # gradient of Eq 16
            p.copy_(p - adam - self.lr * self.isometry * r.view_as(p))  # Eq 20: r at the old weights
