"""C-CHAIN: what the network says about other data must not churn."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from isoplast.methods._protocol import Method, MethodInfo, StepContext
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least, fraction


@register
@dataclasses.dataclass(frozen=True)
class CChain(Method):
    r"""Adam with a penalty on churn: how far an update moved the outputs for data outside of its batch.

    .. math:: L(\theta_t) + c\, \mathbb{E}_{x \sim B_\text{ref}} \|f_{\theta_t}(x) - f_{\theta_{t-1}}(x)\|^2,
              \qquad c = \rho\, \frac{\overline{|L|}}{\overline{\text{churn}}}

    with the mean over examples and outputs, and running means of both losses, so that the penalty is always a
    share rho of the loss. Damps the off-diagonal entries of the empirical NTK, the part that isometry of the
    weights leaves free; controls no singular value of a weight. Is not told of tasks; costs two forward
    passes and one backward pass of the reference batch, and two copies of the weights.

    Args:
        ratio: rho, >= 0. The source uses 0.01 with DDQN, 0.05 with PPO on continuous control.
        decay: of the running means, in [0, 1). The source averages the last 100 (PPO) to 50 000 (DDQN)
            updates.

    Deviations: the reference batch is the one before last, which is outside of the batch that made the last
    update (the source draws from the rollout or the replay buffer). Outputs are compared in evaluation mode
    and with the same buffers, so that neither dropout nor the statistics of batch normalisation count as
    churn, or are touched. c follows the means from the fourth step on; the source keeps a constant (50 or
    100) until its averages are long enough.

    Reference:
        Tang et al., "Mitigating plasticity loss in continual reinforcement learning by reducing churn",
        ICML 2025, arXiv:2506.00592, section 5 and the authors' code.
    """

    name: ClassVar[str] = "c-chain"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="C-CHAIN",
        source="Tang et al., arXiv:2506.00592, section 5",
        controls="no weight: the off-diagonal entries of the empirical NTK",
        spectrum="none",
        family="churn",
        cost="two forward passes and one backward pass of another batch",
        strength="ratio",
    )

    ratio: float = 0.01
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "ratio")
        fraction(self, "decay", below_one=True)

    def penalty(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return the weighted churn of the last update."""
        if self.ratio == 0:
            return None
        state = self.state
        if "current" not in state:
            state.update(current=_copy(model), previous=_copy(model), recent=[], means={}, measured=False)
        if len(state["recent"]) < 2:
            return None
        reference = state["recent"][0]
        with _evaluation(model):
            with torch.no_grad():
                before = functional_call(model, state["previous"], (reference,))
            churn = mse_loss(model(reference), before)
        means = state["means"]
        coefficient = self.ratio * means["loss"] / (means["churn"] + 1e-8) if means else churn.detach() * 0
        if not state["measured"]:  # the first pass of a step is from where it starts (SAM's second is not)
            state.update(measured=True, churn=churn.detach(), added=coefficient * churn.detach())
        return coefficient * churn

    @torch.no_grad()
    def after_step(self, step: StepContext) -> None:
        """Remember the weights of the last two steps and their batches; update the running means."""
        state = self.state
        if self.ratio == 0:
            return
        state["current"], state["previous"] = state["previous"], state["current"]
        for name, parameter in step.model.named_parameters():
            state["current"][name].copy_(parameter)
        state["recent"] = [*state["recent"][-1:], step.inputs]
        state["measured"] = False
        if "churn" in state:
            found = {"loss": (step.loss - state["added"]).abs(), "churn": state["churn"]}
            means = state["means"]
            state["means"] = {
                key: means[key].lerp(value, 1 - self.decay) if means else value
                for key, value in found.items()
            }


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
