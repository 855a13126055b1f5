"""Normalise and project: the norm of every weight stays what it was."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import is_normalisation
from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._penalised import Frozen, affine_names
from isoplast.model import head_names


@register
@dataclasses.dataclass(frozen=True)
class NaP(Method):
    r"""Adam on a network with normalisation layers, each of whose weights is projected to its initial norm.

    .. math:: W_l \leftarrow W_l \frac{\|W_{0,l}\|_F}{\|W_l\|_F}

    As the normalisation makes the layers in front of it scale-free, the effective learning rate then is the
    one that was set. No singular value is held by itself.

    Gains and offsets of the normalisations and the biases of all layers but the head are frozen at their
    initial values (the source drops biases in front of a normalisation; one that stays at zero is the
    same).

    Args:
        every: steps between two projections, >= 1. The source projects in every step, arXiv:2606.09762 every
            1000 or 10 000.

    Deviations: the source lets gains and offsets drift back to their initial values or rescales them, we hold
    them, as arXiv:2606.09762 does. Position tables and embeddings are projected, too.

    Reference:
        Lyle et al., "Normalization and effective learning rates in reinforcement learning", NeurIPS 2024,
        arXiv:2407.01800, algorithm 1.
    """

    name: ClassVar[str] = "nap"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="NaP",
        source="Lyle et al., arXiv:2407.01800, algorithm 1",
        controls="the mean square of the singular values (exactly), and the scale of the activations",
        spectrum="mean square",
        family="initial state",
        cost="two passes over the weights, every `every` steps",
        claims=frozenset({"scale"}),
        example="layernorm+nap",
    )

    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "every")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze gains, offsets and biases of a model that has normalisation layers."""
        if not any(map(is_normalisation, model.modules())):
            raise IsoplastError(
                f"method nap needs normalisation layers, and {type(model).__name__} has none: "
                "choose 'layernorm+nap'"
            )
        heads, affine = tuple(f"{name}." for name in head_names(model)), affine_names(model)
        self.handles.append(
            Frozen(
                parameter
                for name, parameter in model.named_parameters()
                if name in affine or (name.endswith("bias") and not name.startswith(heads))
            )
        )
        return model

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note the norms to be kept."""
        norms = {name: torch.linalg.vector_norm(p.detach()) for name, p in _weights(model).items()}
        # A weight that starts at zero has no norm to keep: projected, it could never leave.
        self.state["norms"] = {name: norm for name, norm in norms.items() if norm > 0}

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Project every weight."""
        if step.step % self.every:
            return
        for name, weight in _weights(step.model).items():  # without those frozen in the meantime
            if name in self.state["norms"]:
                norm = self.state["norms"][name]
                weight.mul_(norm / torch.linalg.vector_norm(weight).clamp_min(1e-30))


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2}
