"""FIRE: every weight projected to the nearest scaled isometry where a task begins."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from isoplast.isometry import matrix_views, newton_schulz
from isoplast.methods._protocol import MethodInfo, TaskContext, TaskMethod
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.model import Decision, decide


@register
@dataclasses.dataclass(frozen=True)
class Fire(TaskMethod):
    r"""Adam, and a projection of the weights to scaled isometries where a task begins (arXiv:2602.08040).

    .. math:: W \leftarrow \sqrt{m / n} \; NS_{10}(W / \|W\|_F), \qquad
              NS: X \leftarrow \tfrac32 X - \tfrac12 X X^T X

    for W of shape (m, n), about the nearest isometry; the m x n matrix of each tap of a convolution kernel is
    projected by itself and divided by the number of taps. All singular values become :math:`\sqrt{m/n}`; of
    those below 1/30 of the Frobenius norm the iterations leave a part missing (1/100 comes out as 0.53).

    Args:
        iterations: of Newton-Schulz, >= 1. The source's 10 (5 for its language model).
        attention: what is projected in a network with attention: the "query-key" projections alone, as in the
            source's vision transformer, or "all", as in its language model. Queries and keys are known by
            name (q, to_q, query_proj, qkv, ...) in modules that have both.
        reset_optimizer: whether the optimizer's state is cleared at the same time, as in the source's vision
            runs.

    Deviations: weights of one row or one column, kernels of depthwise convolutions, tied weights and weights
    that are computed from other parameters are left alone; the source projects every weight of two or four
    dimensions. Of a grouped convolution each group's kernel is projected by itself, where the source takes
    the rows of all groups as one matrix.
    """

    name: ClassVar[str] = "fire"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="FIRE",
        source="Han et al., arXiv:2602.08040, and its code",
        controls="every singular value (made equal), once per task",
        spectrum="all",
        family="isometry",
        cost="nothing in a step; ten Newton-Schulz iterations on each weight matrix per task",
        needs_task_boundaries=True,
    )

    iterations: int = 10
    attention: Literal["query-key", "all"] = "query-key"
    reset_optimizer: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "iterations")

    @torch.no_grad()
    def between_tasks(self, task: TaskContext) -> None:
        """Project the weights of the model in place."""
        for block in self._blocks(task.model):
            block.copy_(self._projected(block))
        if self.reset_optimizer:
            task.optimizer.state.clear()

    def _blocks(self, model: nn.Module) -> list[Tensor]:
        """The parts of the parameters that are projected, each a weight (m, n) or a kernel (m, n, ...)."""
        kept = [d for d in decide(model) if d.isometric]
        if self.attention == "query-key":
            queries_and_keys = _queries_and_keys(kept)
            if queries_and_keys:
                return queries_and_keys
        return [matrix for d in kept for matrix in _matrices(d)]

    def _projected(self, weight: Tensor) -> Tensor:
        taps = weight[0, 0].numel()
        # (m, n, ...) -> (taps, m, n)
        matrices = weight.reshape(*weight.shape[:2], taps).movedim(-1, 0)
        scale = math.sqrt(weight.shape[0] / weight.shape[1]) / taps
        return (scale * newton_schulz(matrices, self.iterations)).movedim(0, -1).reshape(weight.shape)


def _matrices(decision: Decision) -> list[Tensor]:
    """The matrices that a parameter holds, or the kernels of a convolution's groups: views of it."""
    parameter = decision.parameter.detach()
    if parameter.ndim - decision.batch_dims > 2:
        return list(parameter.chunk(decision.split))  # type: ignore[arg-type]
    views = matrix_views(parameter, **decision.layout)
    return [matrix for view in views for matrix in view.reshape(-1, *view.shape[-2:])]


def _queries_and_keys(kept: list[Decision]) -> list[Tensor]:
    """The query and key projections of a network, found by name in modules that have both.

    The head of a Q-network may be named q as well, and stands alone.
    """
    owners: dict[str, list[tuple[str, Tensor]]] = {}
    for decision in kept:
        matrices = _matrices(decision)
        if len(matrices) == len(decision.parts):
            found = owners.setdefault(decision.name.removesuffix(".weight").rpartition(".")[0], [])
            # "q" is a whole projection, "q0" that of one head.
            found += zip((part.rstrip("0123456789") for part in decision.parts), matrices, strict=True)
    both = [found for found in owners.values() if {"q", "k"} <= {role for role, _ in found}]
    return [matrix for found in both for role, matrix in found if role in ("q", "k")]
