"""Selective weight reinitialisation: the least useful single weights start anew."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction
from isoplast.methods._tools._optimizer_state import memories


@register
@dataclasses.dataclass(frozen=True)
class SelectiveWeights(Method):
    r"""Selective weight reinitialisation (arXiv:2508.00212).

    .. math:: u = |g\, w| \ \text{or} \ |w|, \qquad w \leftarrow \mu_0 + \sigma_0 x, \quad x \sim N(0, 1)

    for the weights of lowest utility u in each tensor, every `every` steps: a `fraction` of them (rounded at
    random, so that the mean is right), or all with u at most `fraction` times the mean utility of the
    tensor. The mean and standard deviation are those of the tensor when training began, so that zero
    biases become zero again and gains one. The optimizer's state of exactly these weights is cleared.

    Small weights are replaced by independent ones, which adds a little of a random matrix's spectrum.

    Deviations: the authors draw from the very distribution of each layer, and leave the optimizer's state
    as it is; period and fraction are ours, the authors tune them for each problem.

    Args:
        fraction: part of the weights of every tensor, or of the mean utility, in [0, 1].
        every: steps between two reinitialisations, >= 1.
        utility: "gradient" for |g w|, "magnitude" for |w|.
        selection: "proportional" for a fixed part of the weights, "threshold" for those of low utility.

    Reference:
        Hernandez-Garcia, Dohare, Luo and Sutton, "Reinitializing weights vs units for maintaining plasticity
        in neural networks", CoLLAs 2025.
    """

    name: ClassVar[str] = "swr"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="Selective weight reinitialisation",
        source="Hernandez-Garcia et al., arXiv:2508.00212",
        controls="nothing directly: single useless weights start anew",
        family="resets",
        cost="a selection among all weights in `every` steps",
        strength="fraction",
    )

    fraction: float = 1e-3
    every: int = 100
    utility: Literal["gradient", "magnitude"] = "gradient"
    selection: Literal["proportional", "threshold"] = "proportional"

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "fraction")
        at_least(self, 1, "every")

    @torch.no_grad()
    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Remember the initial distribution of every parameter."""
        if self.fraction > 0:
            self.state["initial"] = {
                name: [parameter.mean(), parameter.std(correction=0)]
                for name, parameter in model.named_parameters()
            }

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Reinitialise the least useful weights, every `every` steps."""
        if self.fraction == 0 or step.step % self.every:
            return
        for name, parameter in step.model.named_parameters():
            if parameter.grad is None:
                continue
            chosen = self._choose(parameter)
            mean, deviation = self.state["initial"][name]
            drawn = torch.randn(len(chosen), dtype=parameter.dtype, device=parameter.device)
            parameter.put_(chosen, mean + deviation * drawn)
            for value, start in memories(step.optimizer, parameter):
                if value.shape == parameter.shape:
                    fresh = parameter.take(chosen) if start is None else torch.full_like(drawn, start)
                    value.put_(chosen, fresh.to(value.dtype))

    def _choose(self, parameter: nn.Parameter) -> Tensor:
        """Return the flat numbers of the weights of lowest utility."""
        assert parameter.grad is not None
        weights = parameter * parameter.grad if self.utility == "gradient" else parameter
        utility = weights.abs().flatten()
        if self.selection == "threshold":
            return (utility <= self.fraction * utility.mean()).nonzero().squeeze(1)
        wanted = self.fraction * len(utility)
        number = int(wanted) + int(torch.rand(()).item() < wanted % 1)
        return utility.topk(number, largest=False).indices
