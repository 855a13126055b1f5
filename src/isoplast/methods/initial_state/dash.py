"""DASH: weights that do not point along the descent direction on the new data are shrunk."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import MAPS
from isoplast.methods._protocol import MethodInfo, TaskContext, TaskMethod
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import fraction
from isoplast.methods._tools._losses import losses
from isoplast.model import preserve_state


@register
@dataclasses.dataclass(frozen=True)
class DASH(TaskMethod):
    r"""Adam, with direction-aware shrinking where a task begins.

    .. math:: w_k \leftarrow \max(\lambda, \cos(w_k, -g_k))\, w_k

    for the incoming weights w_k of every unit of a linear layer, every single kernel (output, input) of a
    convolution, and every bias vector, with g the gradient of the loss on the new data, averaged with rate
    alpha over the batches that the loop's `loss` of the new task yields. It scales rows: the spectrum gets
    shorter, mostly by lambda, and no flatter.

    Args:
        alpha: weight of the latest batch in the average of gradients, in (0, 1]. The source uses 0.1 to 0.3.
        floor: lambda, what the weights are shrunk by at most, in [0, 1]. The source uses 0.05 to 0.3.

    Deviations: the source sees all data so far, one chunk a batch, as it assumes that they stay the same;
    here it is the data of the task that begins. Optimizer state, normalisation layers and embeddings stay.
    Adam's second moments are still those of the larger weights, which shortens its steps for about 1000
    steps: combine with `optimizer-reset` where tasks are not much longer than that.

    Reference:
        Shin et al., "DASH: Warm-starting neural network training in stationary settings without loss of
        plasticity", NeurIPS 2024, arXiv:2410.23495, algorithm 1; defaults of the authors' code.
    """

    name: ClassVar[str] = "dash"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="DASH",
        source="Shin et al., arXiv:2410.23495, algorithm 1",
        controls="the norms of rows (by their angle to the gradient), where tasks begin",
        spectrum="mean square",
        family="initial state",
        cost="one pass over the data of each task",
        needs_task_boundaries=True,
    )

    alpha: float = 0.3
    floor: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "alpha", above_zero=True)
        fraction(self, "floor")

    def between_tasks(self, task: TaskContext) -> None:
        """Shrink the weights.

        Raises:
            IsoplastError: without the loss of the new task.
        """
        if task.loss is None:
            raise IsoplastError(
                f"method {self.name} needs the gradient on the new task: give new_task(loss=...), a function "
                "that returns the loss on its data"
            )
        if self.floor == 1:
            return
        layers = [m for m in task.model.modules() if isinstance(m, MAPS)]
        tied_once = dict.fromkeys(p for layer in layers for p in layer.parameters())
        parameters = [parameter for parameter in tied_once if parameter.requires_grad]
        pulls = self._descent(task, parameters)
        with torch.no_grad():
            for parameter, pull in zip(parameters, pulls, strict=True):
                # A vector is one direction; rows of a matrix, kernels of a convolution are one each.
                kept = 0 if parameter.ndim == 1 else parameter.ndim - max(parameter.ndim - 2, 1)
                cosine = cosine_similarity(parameter.flatten(kept), pull.flatten(kept), dim=-1)
                parameter.mul_(
                    cosine.clamp(self.floor, 1.0).view(*cosine.shape, *[1] * (parameter.ndim - kept))
                )

    def _descent(self, task: TaskContext, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The running average of the negative gradients of these parameters over the batches of a task."""
        assert task.loss is not None
        average = [torch.zeros_like(parameter) for parameter in parameters]
        with preserve_state(task.model, training=True), torch.enable_grad():
            for loss in losses(task.loss(), "the loss of new_task()"):
                gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
                for running, gradient in zip(average, gradients, strict=True):
                    running.lerp_(-gradient, self.alpha)
        return average
