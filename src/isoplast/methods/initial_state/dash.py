"""DASH: what does not point where the new data pull is shrunk."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss

from isoplast._core.layer_kinds import MAPS
from isoplast.methods._protocol import MethodInfo, TaskContext, TaskMethod
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.model import preserve_state


@register
@dataclasses.dataclass(frozen=True)
class DASH(TaskMethod):
    r"""Adam, with direction-aware shrinking where a task begins.

    .. math:: w_k \leftarrow \max(\lambda, \cos(w_k, -g_k))\, w_k

    for the incoming weights w_k of every unit of a linear layer, every single kernel (output, input) of a
    convolution, and every bias vector, with g the gradient of the loss on the new data, averaged with rate
    alpha over batches. Scales rows: it shortens the spectrum, mostly by lambda, and flattens nothing on
    purpose. Is told of tasks; costs one pass over the data of each task.

    Args:
        alpha: weight of the latest batch in the average of gradients, in (0, 1]. The source uses 0.1 to 0.3.
        floor: lambda, what the weights are shrunk by at most, in [0, 1]. The source uses 0.05 to 0.3.
        batch_size: of the batches that the gradient is averaged over, >= 1.

    Deviations: the source sees all data so far, one chunk a batch, as it assumes that they stay the same;
    here it is the data of the task that begins. The loss is the cross entropy for whole-number targets, else
    the mean squared error. Optimizer state, normalisation layers and embeddings stay; with them Adam's
    second moments of the larger weights, which shorten its steps for about 1000 steps: combine with
    `optimizer-reset` where tasks are not much longer than that.

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
    batch_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "alpha", "floor")
        at_least(self, 1, "batch_size")

    def at_task(self, task: TaskContext, first: bool) -> None:
        """Shrink, but not before the first task."""
        if first or self.floor == 1:
            return
        layers = [m for m in task.model.modules() if isinstance(m, MAPS)]
        parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
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
        average = [torch.zeros_like(parameter) for parameter in parameters]
        with preserve_state(task.model, training=True) as network, torch.enable_grad():
            batches = zip(
                torch.split(task.inputs, self.batch_size),
                torch.split(task.targets, self.batch_size),
                strict=True,
            )
            for inputs, targets in batches:
                outputs = network(inputs)
                loss = mse_loss if targets.is_floating_point() else cross_entropy
                gradients = torch.autograd.grad(loss(outputs, targets), parameters, materialize_grads=True)
                for running, gradient in zip(average, gradients, strict=True):
                    running.lerp_(-gradient, self.alpha)
        return average
